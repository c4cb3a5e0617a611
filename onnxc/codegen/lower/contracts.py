"""What must hold between the stages match, lower and plan; a breach is a fault of ours and ends the compilation with one line.

match -> lower: each product has a weight of its spec's shape and an operand for each step that reads one
lower -> plan: main's parameters are the inputs and the arrays; every call fits the parameters of its function
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from onnxc.codegen.kernels.spec import CHANNEL_STEPS, KernelSpec, Step
from onnxc.codegen.later import Later
from onnxc.codegen.match.products import Match, Matches
from onnxc.codegen.tvm_api import name_of, tvm_modules
from onnxc.ir.errors import VerificationError

REMEDY = "this is a fault of onnxc: report it with the model"
READING = (*CHANNEL_STEPS, "residual", "int_bias", "int_residual")


@dataclass
class Lowered:
    """A Relax module that calls our kernels. Parameters of `main`: the user's inputs, then `arrays` in order. `nodes`: for which
    nodes a variable of it was emitted, `later` the kernels that functions without a body stand for."""

    module: Any
    inputs: int
    arrays: list[np.ndarray]
    kernels: list[dict] = field(default_factory=list)
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    later: dict[str, Later] = field(default_factory=dict)


def check_matches(matches: Matches) -> Matches:
    """`matches` as it came. Raises VerificationError where a product does not fit its spec, or nobody computes a variable."""
    for var, match in matches.kernels.items():
        if var in matches.absorbed:
            raise VerificationError("the end of a product is absorbed by another", tensor=_name(var), remedy=REMEDY)
        _check_match(match, _name(var))
    if set(matches.starts.values()) != set(matches.kernels):
        raise VerificationError("products without a start, or starts without a product", remedy=REMEDY)
    lost = matches.absorbed & matches.outputs
    if lost:
        raise VerificationError("an output is absorbed by a product", tensor=_name(lost.pop()), remedy=REMEDY)
    return matches


def _check_match(match: Match, name: str) -> None:
    spec = match.spec
    forms = [(spec, match.weight, len(match.operands))]
    if match.weight_only is not None:
        forms.append((match.weight_only.spec, match.weight_only.weight, len(match.weight_only.operands)))
    if match.few_bit is not None:
        forms.append((match.few_bit.spec, match.few_bit.weight, len(match.few_bit.operands)))
    for form, weight, given in forms:
        wanted = (form.oc, form.c // form.groups, form.kh, form.kw)
        if form.weight_constant and weight.shape != wanted:
            raise VerificationError(
                "a weight does not fit", tensor=name, expected=wanted, found=weight.shape, remedy=REMEDY
            )
        if given != reading(form.epilogue):
            expected = f"{reading(form.epilogue)} for {form.text()}"
            raise VerificationError(
                "operands of an epilogue", tensor=name, expected=expected, found=given, remedy=REMEDY
            )
        _check_extents(form, name)


def _check_extents(spec: KernelSpec, name: str) -> None:
    for what, shape, extents in (
        ("reads", spec.x_shape, (spec.n, spec.h, spec.w, spec.c)),
        ("writes", spec.y_shape, (spec.n, spec.oh, spec.ow, spec.oc)),
    ):
        if prod(shape) != prod(extents):
            raise VerificationError(f"what a kernel {what}", tensor=name, expected=extents, found=shape, remedy=REMEDY)


def reading(steps: tuple[Step, ...]) -> int:
    """How many operands the steps of an epilogue read."""
    return sum(reading(step[1]) if step[0] == "gate" else step[0] in READING for step in steps)


def check_lowered(lowered: Lowered) -> Lowered:
    """`lowered` as it came. Raises VerificationError where a parameter or an operand has other elements than are read there."""
    m = tvm_modules()
    main = lowered.module["main"]
    rest = main.params[lowered.inputs :]
    if [_elements(p.ty) for p in rest] != [(a.size, str(a.dtype)) for a in lowered.arrays]:
        raise VerificationError("the parameters of main are not its arrays", remedy=REMEDY)
    for binding in (b for block in main.body.blocks for b in block.bindings):
        call = binding.value
        if not isinstance(call, m.relax.Call) or getattr(call.op, "name", "") != "relax.call_tir":
            continue
        function = lowered.module[call.args[0]]
        results = binding.var.ty.fields if isinstance(binding.var.ty, m.relax.TupleType) else [binding.var.ty]
        given = [*(_elements(arg.ty) for arg in call.args[1].fields), *map(_elements, results)]
        read = [_held(p) for p in function.params if m.tirx.is_buffer_var(p)]
        if given != read:
            at = next((i for i, (a, b) in enumerate(zip(given, read)) if a != b), min(len(given), len(read)))
            raise VerificationError(
                f"operand {at} of {name_of(call.args[0])}", tensor=_name(binding.var), expected=_text(read, at),
                found=_text(given, at), remedy=REMEDY,
            )  # fmt: skip
    return lowered


def _text(operands: list[tuple[int, str]], at: int) -> str:
    return f"{operands[at][0]} of {operands[at][1]}" if at < len(operands) else "none"


def _elements(ty) -> tuple[int, str]:
    return prod(int(extent) for extent in ty.shape.values), str(ty.dtype)


def _held(param) -> tuple[int, str]:
    return prod(int(extent) for extent in param.shape), str(param.dtype)


def _name(var) -> str:
    return str(getattr(var, "name_hint", var))
