"""The C of a Loop or an If: a function that calls the programs of its bodies, each a straight list of calls like the whole.

    state, next = given, made
    while round < limit and condition:  condition, next = body(round, condition, state);  state, next = next, the other buffer

Of each state there are two buffers, the result of the region and one in its workspace, that take turns. A row of a gathered result is
made where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxc.codegen.c.header import tensor_bytes
from onnxc.codegen.memory.arena import aligned

if TYPE_CHECKING:
    from onnxc.codegen.program import Nested

BODY = """static int32_t @name@(head *h, const void *const *inputs, void *const *outputs, char *w) {
  char *a = (char *)h;
  (void)a;
  (void)w;
  (void)inputs;
  (void)outputs;
@calls@
  return @flags@;
}
"""

IF = """static void @name@(head *h, const void *const *given, void *const *made, char *w) {
  const int go = *(const unsigned char *)given[0] != 0;
  *(int32_t *)made[@flag@] = go ? @name@_0(h, given + 1, made, w) : @name@_1(h, given + 1, made, w);
}
"""

LOOP = """static void @name@(head *h, const void *const *given, void *const *made, char *w) {
  const void *inputs[@inputs@];
  void *outputs[@outputs@];
  const int64_t limit = @limit@;
  int64_t round;
  unsigned char go = @condition@;
  int32_t wrong = 0;
@begin@
  for (round = 0; round < limit && go@room@; round++) {
    unsigned char next = 0;
    inputs[0] = &round;
    inputs[1] = &go;
    outputs[0] = &next;
@rows@    wrong |= @name@_0(h, inputs, outputs, w);
    go = next;
@turn@  }
@end@  *(int32_t *)made[@flag@] = wrong;
}
"""


def spare_bytes(nested: Nested) -> int:
    """Bytes of workspace for the second buffers of states, behind that of the bodies; never none, as each region has a workspace."""
    return sum(_spares(nested)) or aligned(1)


def _spares(nested: Nested) -> list[int]:
    states = nested.bodies[0].static.outputs[1 : 1 + nested.region.states] if nested.region.kind == "Loop" else []
    return [aligned(max(tensor_bytes(tensor), 1)) for tensor in states]


def region_source(name: str, nested: Nested, lists: Sequence[tuple[list[str], str]]) -> str:
    """The C function `name(h, given, made, w)` of a region, behind those of its bodies. `lists`: the calls and the flags of each."""
    parts = [
        BODY.replace("@name@", f"{name}_{i}").replace("@calls@", "\n".join(calls)).replace("@flags@", flags)
        for i, (calls, flags) in enumerate(lists)
    ]
    text = (IF if nested.region.kind == "If" else _loop(nested)).replace("@flag@", str(nested.call.results - 1))
    return "\n".join([*parts, text]).replace("@name@", name)


def _loop(nested: Nested) -> str:
    """The text of a Loop whose one body takes round, condition, states and the rest, and gives condition, states and rows."""
    body, states, missing = nested.bodies[0].static, nested.region.states, nested.call.missing
    first = 2 - len(missing)  # of the operands that are there, the states come from here on
    limit = "INT64_MAX" if 0 in missing else "*(const int64_t *)given[0]"
    condition = "1" if 1 in missing else f"*(const unsigned char *)given[{first - 1}] != 0"
    begin, rows, turn, end = [], [], [], []
    for i in range(2, len(body.inputs)):
        begin.append(f"  inputs[{i}] = given[{first + i - 2}];")
    at = aligned(max(inner.plan.arena for inner in nested.bodies))
    for i, spare in enumerate(_spares(nested)):
        size = tensor_bytes(body.outputs[1 + i])
        begin.append(f"  outputs[{1 + i}] = made[{i}];")
        turn.append(
            f"    inputs[{2 + i}] = outputs[{1 + i}];\n"
            f"    outputs[{1 + i}] = outputs[{1 + i}] == made[{i}] ? (void *)(w + {at}) : made[{i}];\n"
        )
        end.append(f"  if (inputs[{2 + i}] != made[{i}]) memcpy(made[{i}], inputs[{2 + i}], {size});\n")
        at += spare
    gathered = range(1 + states, len(body.outputs))
    for i in gathered:
        rows.append(f"    outputs[{i}] = (char *)made[{i - 1}] + round * {tensor_bytes(body.outputs[i])};\n")
    if nested.call.results > len(body.outputs):  # how many rounds there are is a result too
        for i in gathered:
            size = tensor_bytes(body.outputs[i])
            rest = f"({nested.region.rows} - round) * {size}"
            end.append(f"  memset((char *)made[{i - 1}] + round * {size}, 0, (size_t)({rest}));\n")
        end.append(f"  *(int64_t *)made[{len(body.outputs) - 1}] = round;\n")
    words = {
        "inputs": str(len(body.inputs)), "outputs": str(len(body.outputs)), "limit": limit, "condition": condition,
        "room": f" && round < {nested.region.rows}" if gathered else "",
        "begin": "\n".join(begin), "rows": "".join(rows), "turn": "".join(turn), "end": "".join(end),
    }  # fmt: skip
    text = LOOP
    for mark, word in words.items():
        text = text.replace(f"@{mark}@", word)
    return text
