"""If, Loop and Scan without bodies: a branch is chosen or both are computed, loops are unrolled.

If(known) {a} {b}      ->   the branch that is taken
If(c) {a} {b}          ->   Where(c, a, b), both computed
Loop(n, true) {body}   ->   body n times; with a condition that is computed, n times with Where(go on, new, old)
Scan {body}            ->   body once for each element, results put together
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.build import Build
from onnxc.codegen.prepare.walk import Scope, Walk, attributes_of
from onnxc.ir.errors import Unsupported

MOST_TRIPS = 4096
REMEDY = "compile the body and call it from a loop of your own"


def open_bodies(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str] | None:
    """What stands for the outputs of an If, Loop or Scan; None for any other node. Raises Unsupported with the reason."""
    opened = {"If": _if, "Loop": _loop, "Scan": _scan}.get(node.op_type)
    if opened is None:
        return None
    if node.op_type == "Scan" and walk.opset < 9:
        opened = _scan_of_batches
    return opened(walk, node, scope)


def _known(walk: Walk, name: str) -> np.ndarray | None:
    return walk.constants.get(name)


def _if(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    branches = [next(a.g for a in node.attribute if a.name == name) for name in ("then_branch", "else_branch")]
    condition = _known(walk, node.input[0])
    if condition is not None:
        return walk.open_body(branches[0 if condition.reshape(-1)[0] else 1], [], scope, node.name)
    made = [
        walk.open_body(branch, [], scope, f"{node.name}/{which}") for branch, which in zip(branches, ("then", "else"))
    ]
    return [_chosen(walk, node, node.input[0], a, b) for a, b in zip(*made)]


def _chosen(walk: Walk, node: onnx.NodeProto, condition: str, a: str, b: str) -> str:
    """a where the condition, one boolean, holds, else b."""
    if a == b:
        return a
    shapes = [walk.shape(name) for name in (a, b)]
    if shapes[0] is None or shapes[0] != shapes[1]:
        found = " and ".join("unknown" if shape is None else str(list(shape)) for shape in shapes)
        raise Unsupported(
            f"{node.op_type} with a computed condition whose branches give different shapes", node=node.name,
            found=found, remedy="pad the smaller one in the model",
        )  # fmt: skip
    build = Build(walk, node)
    return build("Where", build.reshape(condition, ()), a, b)


def _stacked(walk: Walk, node: onnx.NodeProto, items: Sequence[str], axis: int, like: onnx.ValueInfoProto) -> str:
    """The tensors `items` along a new axis; no items: an empty tensor of the declared type."""
    if not items:
        kind = like.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
            raise Unsupported(
                f"{node.op_type} that never runs gives a tensor of unknown shape", node=node.name, remedy=REMEDY
            )
        axis = axis % (len(dims) + 1)
        empty = np.zeros([*dims[:axis], 0, *dims[axis:]], helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return walk.constant(empty, f"{node.name}/{like.name}")
    shape = walk.shape(items[0])
    if shape is None or any(walk.shape(item) != shape for item in items):
        raise Unsupported(f"{node.op_type} whose body gives tensors of different shapes", node=node.name, remedy=REMEDY)
    axis = axis % (len(shape) + 1)
    build = Build(walk, node)
    parts = [build.reshape(item, (*shape[:axis], 1, *shape[axis:])) for item in items]
    return parts[0] if len(parts) == 1 else build("Concat", *parts, axis=axis)


def _trips(walk: Walk, node: onnx.NodeProto, count: int) -> int:
    if count > MOST_TRIPS:
        raise Unsupported(
            f"{node.op_type} runs {count} times, unrolled are {MOST_TRIPS} at most", node=node.name, remedy=REMEDY
        )
    return count


def _bounded(walk: Walk, node: onnx.NodeProto, body: onnx.GraphProto, most: int | None, go_on: str | None) -> None:
    """Raises Unsupported ahead of thousands of rounds where it is clear that there are too many."""
    if most is not None and most <= MOST_TRIPS:
        return
    makers = {name: n for n in body.node for name in n.output}
    asked = body.output[0].name
    while asked in makers and makers[asked].op_type == "Identity":
        asked = makers[asked].input[0]
    constant = asked in makers and makers[asked].op_type == "Constant"
    goes_on = constant or asked == body.input[1].name or asked in {t.name for t in body.initializer}
    if go_on is not None and _known(walk, go_on) is None:
        raise Unsupported("Loop whose trip count is computed at run time", node=node.name, tensor=go_on, remedy=REMEDY)
    if goes_on and most is not None and (go_on is None or bool(walk.constants[go_on].reshape(-1)[0])):
        _trips(walk, node, most)


def _loop(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    body = next(a.g for a in node.attribute if a.name == "body")
    inputs = [*node.input, "", ""]
    limit, go_on = (inputs[i] or None for i in range(2))
    known = _known(walk, limit) if limit is not None else None
    if limit is not None and known is None:
        raise Unsupported("Loop whose trip count is computed at run time", node=node.name, tensor=limit, remedy=REMEDY)
    most = None if known is None else max(0, int(known.reshape(-1)[0]))
    _bounded(walk, node, body, most, go_on)
    state = list(node.input[2:])
    gathered: list[list[str]] = [[] for _ in body.output[1 + len(state) :]]
    active: str | None = go_on  # None: it certainly runs
    trip = 0
    while most is None or trip < most:
        if active is not None and (known := _known(walk, active)) is not None:
            if not known.reshape(-1)[0]:
                break
            active = None
        if active is not None and (most is None or gathered):
            raise Unsupported(
                "Loop whose trip count is computed at run time", node=node.name, tensor=active, remedy=REMEDY
            )
        if active is not None and most is not None and most > MOST_TRIPS:
            _trips(walk, node, most)
        _trips(walk, node, trip + 1)
        number = walk.constant(np.asarray(trip, np.int64), f"{node.name}/trip")
        flag = active or walk.constant(np.asarray(True), f"{node.name}/go_on")
        given = [number, flag, *state][: len(body.input)]
        found = walk.open_body(body, given, scope, f"{node.name}/{trip}")
        new = found[1 : 1 + len(state)]
        if active is None:
            state, active = new, found[0]
        else:
            state = [_chosen(walk, node, active, a, b) for a, b in zip(new, state)]
            active = Build(walk, node)("And", active, found[0])
        for items, item in zip(gathered, found[1 + len(state) :]):
            items.append(item)
        trip += 1
    declared = body.output[1 + len(state) :]
    return state + [_stacked(walk, node, items, 0, like) for items, like in zip(gathered, declared)]


def _scan(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    own = attributes_of(node)
    count = own["num_scan_inputs"]
    scanned = list(node.input[len(node.input) - count :])
    return _scanned(walk, node, scope, list(node.input[: len(node.input) - count]), scanned, own, node.name)


def _scanned(walk, node, scope: Scope, state: list[str], scanned: list[str], own: dict, stem: str) -> list[str]:
    """The final states, then the results of each output put together."""
    body = next(a.g for a in node.attribute if a.name == "body")
    results = len(body.output) - len(state)

    def attribute(name: str, size: int) -> list[int]:
        found = own.get(name)
        return list(found) if isinstance(found, list) and found else [0] * size

    shapes = [walk.shape(name) for name in scanned]
    axes = attribute("scan_input_axes", len(scanned))
    if any(shape is None for shape in shapes):
        raise Unsupported("Scan over a tensor of unknown shape", node=node.name, remedy=REMEDY)
    trips = _trips(walk, node, shapes[0][axes[0]])
    backward = attribute("scan_input_directions", len(scanned))
    gathered: list[list[str]] = [[] for _ in range(results)]
    for trip in range(trips):
        items = []
        for name, axis, back in zip(scanned, axes, backward):
            at = walk.constant(np.asarray(trips - 1 - trip if back else trip, np.int64), f"{stem}/at")
            items.append(Build(walk, node)("Gather", name, at, axis=axis))
        found = walk.open_body(body, [*state, *items], scope, f"{stem}/{trip}")
        state = found[: len(state)]
        for items, item in zip(gathered, found[len(state) :]):
            items.append(item)
    out_axes, reverse = attribute("scan_output_axes", results), attribute("scan_output_directions", results)
    declared = body.output[len(state) :]
    made = [
        _stacked(walk, node, items[::-1] if back else items, axis, like)
        for items, axis, back, like in zip(gathered, out_axes, reverse, declared)
    ]
    return state + made


def _scan_of_batches(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    """Scan of opset 8: a batch axis ahead of everything, lengths in front of the states."""
    own = attributes_of(node)
    if node.input[0]:
        raise Unsupported("Scan of opset 8 with sequence lengths", node=node.name, remedy="use opset 9")
    own = {"num_scan_inputs": own["num_scan_inputs"], "scan_input_directions": own.get("directions")}
    given, count = list(node.input[1:]), own["num_scan_inputs"]
    shape = walk.shape(given[-1])
    if shape is None:
        raise Unsupported("Scan over a tensor of unknown shape", node=node.name, remedy=REMEDY)
    body = next(a.g for a in node.attribute if a.name == "body")
    batches = []
    for b in range(shape[0]):
        at = walk.constant(np.asarray(b, np.int64), f"{node.name}/batch")
        parts = [Build(walk, node)("Gather", name, at, axis=0) for name in given]
        split = len(parts) - count
        batches.append(_scanned(walk, node, scope, parts[:split], parts[split:], own, f"{node.name}/{b}"))
    return [_stacked(walk, node, list(items), 0, like) for items, like in zip(zip(*batches), body.output)]
