"""Programs within a program: a PrimFunc without a body stands for a Loop or an If, and names it in an attribute.

Relax keeps operands, shapes and order of the call as of any other, and sees nothing of the bodies, which are lowered by themselves
(`codegen.program`) and called by C (`codegen.c.rounds`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxc.codegen.tvm_api import script_builder, tvm_modules

ATTRIBUTE = "onnxc.region"


@dataclass(frozen=True)
class Call:
    """The call of a region: the name of its node, how many operands and results it has (the last of them the index flag), and which of
    its operands are left out."""

    node: str
    operands: int
    results: int
    missing: tuple[int, ...] = ()


def call(
    builder: Any, node: str, args: Sequence, results: Sequence[tuple[tuple[int, ...], str]], missing: Sequence[int]
) -> tuple[list, object]:
    """Emits the call of the region of a node on Relax expressions: an expression for each of `results` (shape, dtype), and the index
    flag of the bodies. Results without elements have one."""
    relax, name = tvm_modules().relax, "region"
    made = [((1,) if 0 in shape else tuple(shape), dtype) for shape, dtype in results] + [((), "int32")]
    script, builder_type = script_builder()
    with builder_type() as writer, script.prim_func(s_tir=True):
        script.func_name(name)
        for i, arg in enumerate(args):
            script.arg(f"a{i}", script.buffer([int(extent) for extent in arg.ty.shape.values], str(arg.ty.dtype)))
        for i, (shape, dtype) in enumerate(made):
            script.arg(f"r{i}", script.buffer(shape, dtype))
        text = json.dumps([node, len(args), len(made), list(missing)])
        script.func_attr({"tirx.noalias": True, "op_pattern": 8, ATTRIBUTE: text})
        script.evaluate(0)
    function = builder.add_func(writer.get(), name)
    types = [relax.TensorType(shape, dtype) for shape, dtype in made]
    found = builder.emit(relax.call_tir(function, list(args), types if len(types) > 1 else types[0]))
    if len(types) == 1:
        return [], found
    *values, flag = (builder.emit(relax.TupleGetItem(found, i)) for i in range(len(types)))
    return values, flag


def call_of(function: Any) -> Call | None:
    """The call that a PrimFunc stands for; None for one that is compiled."""
    if ATTRIBUTE not in function.attrs:
        return None
    node, operands, results, missing = json.loads(str(function.attrs[ATTRIBUTE]))
    return Call(node, operands, results, tuple(missing))
