"""Kernels in C among kernels of TVM: a PrimFunc without a body stands for the call, and says in an attribute what it is.

Relax keeps operands, shapes and order of such calls as of any other; `program` takes the C text from the attribute.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from onnxc.codegen.tvm_api import script_builder

ATTRIBUTE = "onnxc.micro"
Operand = tuple[str, tuple[int, ...], str]
"""Name, shape, element type."""


@dataclass(frozen=True)
class Over:
    """The result of a call may lie over operand `operand`: at the same place if `same`, else so that the operand begins
    `ahead` bytes or more after the result, which is written from the front as the operand is read."""

    operand: int
    same: bool = True
    ahead: int = 0


@dataclass(frozen=True)
class Micro:
    """A kernel in C: `function` of micro.h with a constant `layer` of type `kind`, initialised by `values`.

    Of its parameters after the layer `order` says which operand each is; None is a null pointer, "work" the workspace of
    `work` bytes. `over` are the operands that the result may lie over. `before` declares what the values point to. Of the operands
    the last `results` are written.
    """

    function: str
    kind: str
    values: str
    order: tuple[int | str | None, ...]
    work: int = 0
    over: tuple[Over, ...] = ()
    before: str = ""
    results: int = 1

    def definition(self, name: str, operands: int) -> str:
        """The C function `name` of `operands` pointers, and a workspace if there is one."""
        params = [f"const void *a{i}" for i in range(operands)]
        params += ["const void *work"] if self.work else []
        words: dict[int | str | None, str] = {"work": "(void *)work", None: "NULL"}
        words |= {o: f"(void *)a{o}" for o in range(operands - self.results, operands)}
        args = [words.get(o, f"a{o}") for o in self.order]
        return (
            f"static void {name}({', '.join(params)}) {{\n{self.before}"
            f"  static const {self.kind} layer = {{{self.values}}};\n"
            f"  {self.function}(&layer, {', '.join(args)});\n}}"
        )

    def text(self) -> str:
        """The attribute."""
        over = [[o.operand, o.same, o.ahead] for o in self.over]
        return json.dumps(
            [self.function, self.kind, self.values, list(self.order), self.work, over, self.before, self.results]
        )


def stub(name: str, operands: Sequence[Operand], call: Micro):
    """A PrimFunc `name` with these operands, the last of them its result, which stands for `call`."""
    script, builder_type = script_builder()
    with builder_type() as builder, script.prim_func(s_tir=True):
        script.func_name(name)
        for label, shape, dtype in operands:
            script.arg(label, script.buffer(shape, dtype))
        script.func_attr({"tirx.noalias": True, "op_pattern": 8, ATTRIBUTE: call.text()})
        script.evaluate(0)
    return builder.get()


def micro_of(function) -> Micro | None:
    """What a PrimFunc stands for; None for one that is compiled."""
    if ATTRIBUTE not in function.attrs:
        return None
    name, kind, values, order, work, over, before, results = json.loads(str(function.attrs[ATTRIBUTE]))
    return Micro(name, kind, values, tuple(order), work, tuple(Over(*o) for o in over), before, results)
