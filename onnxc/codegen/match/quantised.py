"""Quantised models (QDQ): which products run on integers, and what their epilogues compute.

    Q(Relu(Conv(D(x), D(w)) + D(b)))               ->   kernel: int32 sums, times sx sw / sy, clip, round, + z
    Q(Relu(D(Q(Conv(D(x), D(w)))) + D(r)))         ->   the same with the inner rounding, and r read as integers

With x = sx (qx - zx), w = sw qw and b = sx sw qb the product is sx sw (sum (qx - zx) qw + qb): the sum is an integer, so it
is exact, and only the multiplication by sx sw / sy rounds before the result does. sx sw / sy is computed in float32
from left to right, as ONNX Runtime does. A positive factor moves through Relu, Clip, PReLU and sums, so that every
quantiser's 1 / sy goes into the factor ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxc.codegen.kernels.spec import CHANNEL_STEPS, INT8, UINT8, Encoding
from onnxc.codegen.match.constants import EVALUATE, Constants
from onnxc.codegen.match.fewbit import Quantisers
from onnxc.codegen.match.products import Fusion, Match, shape_of, shape_of_or_none
from onnxc.codegen.tvm_api import tvm_modules

NARROW = Encoding("int8", 8, "narrow")  # -127 to 127
ENCODINGS = {"int8": INT8, "uint8": UINT8}
LINEAR = ("relu", "leaky_relu", "prelu", "clip", "mul", "mul_scalar", "add", "bias", "int_residual")
VIEWS = ("relax.permute_dims", "relax.reshape", "relax.expand_dims", "relax.squeeze")


@dataclass(frozen=True)
class Affine:
    """An 8-bit type with one scale and zero point: value = scale * (integer - zero)."""

    kind: str
    scale: np.float32
    zero: int

    @property
    def low(self) -> int:
        """The least integer less the zero point."""
        return int(np.iinfo(self.kind).min) - self.zero

    @property
    def high(self) -> int:
        """The greatest integer less the zero point."""
        return int(np.iinfo(self.kind).max) - self.zero


def affine_of(call, constants: Constants) -> Affine | None:
    """The quantiser of relax.quantize or relax.dequantize, if it is 8-bit with one constant scale above zero."""
    x, scale, zero = call.args
    if scale not in constants or zero not in constants:
        return None
    kind = str(call.attrs.out_dtype) if call.op.name == "relax.quantize" else str(x.ty.dtype)
    scale, zero = constants.value(scale), constants.value(zero)
    if kind not in ENCODINGS or scale.size != 1 or zero.size != 1 or scale.dtype != np.float32:
        return None
    scale = np.float32(scale.reshape(()))
    return Affine(kind, scale, int(zero.reshape(()))) if scale > 0 and np.isfinite(scale) else None


def begin(found: Match, var, made: dict, constants: Constants) -> Fusion | None:
    """A chain on integers for a product whose operands are both dequantised; None for any other."""
    source = made.get(found.source)
    if not _is(source, "relax.dequantize") or not found.spec.weight_constant:
        return None
    x = affine_of(source, constants)
    weight = _integer_weight(made[var].args[1], found, constants)
    if source is None or x is None or weight is None:
        return None
    levels, scale = weight
    spec = replace(
        found.spec,
        activation=ENCODINGS[x.kind],
        weight=NARROW if levels.min(initial=0) > -128 else INT8,
        pad_value=x.zero,
    )
    inner = Match(spec, source.args[0], levels, found.weight_var, found.spatial)
    return IntegerFusion(inner, var, made, constants, x.scale * scale)


def _is(value, name: str) -> bool:
    return getattr(getattr(value, "op", None), "name", None) == name


def _integer_weight(expr, found: Match, constants: Constants) -> tuple[np.ndarray, np.ndarray] | None:
    """int8 (oc, c/groups, kh, kw) and float32 scales (oc,) of a constant expression, or None.

    Views of the stored constant are followed on its integers, and on its scales spread over the same shape.
    """
    views, spec = [], found.spec
    while expr in constants.calls:
        call = constants.calls[expr]
        if isinstance(call, tvm_modules().relax.Var):
            expr = call
        elif _is(call, "relax.astype") or call.op.name in VIEWS:
            views.append(call)
            expr = call.args[0]
        else:
            return None
    stored = constants.integers.get(expr)
    if stored is None:
        return None
    levels, scale = stored.values, np.broadcast_to(stored.scale, stored.values.shape)
    for call in reversed(views):
        rest = (None,) * (len(call.args) - 1)
        levels, scale = (EVALUATE[call.op.name](call, array, *rest) for array in (levels, scale))
    if not found.spatial:
        levels, scale = (a.reshape(spec.c, spec.oc).T[:, :, None, None] for a in (levels, scale))
    elif levels.ndim == 5:  # planes of one tap, as rows and columns
        levels, scale = levels[:, :, 0], scale[:, :, 0]
    elif levels.ndim == 3:
        levels, scale = levels[:, :, None], scale[:, :, None]
    flat = scale.reshape(spec.oc, -1)
    if (flat != flat[:, :1]).any() or not np.isfinite(flat[:, 0]).all() or (flat[:, 0] <= 0).any():
        return None
    return np.ascontiguousarray(levels), np.ascontiguousarray(flat[:, 0])


class IntegerFusion(Fusion):
    """A product on integers that takes in what follows it, quantisers among that."""

    def __init__(self, found: Match, var, made: dict, constants: Constants, unit: np.ndarray):
        """`unit` (oc,): what one of the integer sum stands for."""
        super().__init__(found, var, constants)
        self.made, self.unit = made, unit
        self.stored: Affine | None = None  # of the chain's end, where that is 8-bit

    def take(self, binding) -> bool:
        call = binding.value
        if shape_of_or_none(binding.var) != shape_of(self.var):
            return False
        if _is(call, "relax.quantize"):
            made = affine_of(call, self.constants) if self.stored is None else None
            if made is None:
                return False
            self.affine = False
            self.steps.append(("quantize", made))
            self.stored = made
        elif _is(call, "relax.dequantize"):
            if affine_of(call, self.constants) != self.stored:
                return False
            self.stored = None
        else:
            return self.stored is None and super().take(binding)
        self.absorbed, self.var = self.var, binding.var
        return True

    def take_gate(self, pair: list, readers: dict, uses) -> list:
        return super().take_gate(pair, readers, uses) if self.stored is None else []

    def _arithmetic(self, call, name: str) -> bool:
        other = call.args[1] if call.args[0].same_as(self.var) else call.args[0]
        source = self.made.get(other)
        taken = any(step[0] in ("residual", "int_residual") for step in self.steps)
        if name != "relax.add" or not _is(source, "relax.dequantize") or taken:
            return super()._arithmetic(call, name)
        r = affine_of(source, self.constants)
        if source is None or r is None or shape_of_or_none(other) != shape_of(self.var):
            return super()._arithmetic(call, name)
        self.affine = False
        self.steps.append(("int_residual", r.zero, r.scale, r.kind))
        self.found.operands.append(source.args[0])
        return True

    def finish(self, quantisers: Quantisers) -> Match:
        """The kernel with its whole epilogue, each stretch of it in units of the quantiser at its end.

        A chain that would end in a dequantised tensor ends before it: others may read the integers.
        """
        if self.steps and self.steps[-1][0] == "quantize" and self.stored is None:
            self.stored, self.var = self.steps[-1][1], self.absorbed
        writer = _Epilogue(self)
        stretch: list[tuple] = []
        for step in self.steps:
            if step[0] == "quantize":
                writer.stretch(stretch, step[1])
                stretch = []
            else:
                stretch.append(step)
        if self.stored is None:
            writer.stretch(stretch, None)
        self.found.operands = writer.operands
        output = ENCODINGS[self.stored.kind] if self.stored else self.found.spec.output
        if self.stored:
            writer.steps[-1] = ("quantize", *writer.steps[-1][1:], self.stored.zero)
        self.found.spec = replace(self.found.spec, epilogue=tuple(writer.steps), output=output)
        return self.found


class _Epilogue:
    """Writes steps and operands. `unit` is what 1 stands for after the steps so far: (oc,) at first, then a scalar."""

    def __init__(self, fusion: IntegerFusion):
        self.given: Iterator = iter(fusion.found.operands)
        self.unit = fusion.unit if fusion.scale is None else (fusion.unit * fusion.scale).astype(np.float32)
        bias, rest = _integer_bias(fusion.shift, self.unit)
        self.steps: list[tuple] = [("int_bias",)]
        self.operands: list = [bias]
        self.rest = rest

    def stretch(self, steps: list[tuple], end: Affine | None) -> None:
        """Adds `steps` and, if there is an `end`, its clip and rounding."""
        goal = end.scale if end and all(step[0] in LINEAR for step in steps) else np.float32(1)
        self._scale(self.unit / goal)
        if self.rest is not None:
            steps, self.given = [("add",), *steps], _chained(self.rest, self.given)
            self.rest = None
        low, high = (end.low, end.high) if end else (-np.inf, np.inf)
        while end and goal == end.scale and steps and steps[-1] == ("relu",):
            low, steps = max(low, 0), steps[:-1]
        for step in steps:
            self._step(step, goal)
        if end is None:
            self.unit = np.float32(1)
            return
        if goal != end.scale:
            self._scale(np.float32(1) / end.scale)
        self.unit = end.scale
        self.steps.append(("rounded", float(low), float(high)))

    def _scale(self, factor) -> None:
        if np.ndim(factor):
            self.steps.append(("mul",))
            self.operands.append(np.ascontiguousarray(factor, np.float32))
        elif factor != 1:
            self.steps.append(("mul_scalar", float(np.float32(factor))))

    def _step(self, step: tuple, goal: np.float32) -> None:
        match step[0]:
            case "clip":
                step = ("clip", *(float(np.float32(bound) / goal) for bound in step[1:]))
            case "int_residual":
                step = (step[0], step[1], float(step[2] / goal), step[3])
                self.operands.append(next(self.given))
            case "add" | "bias":
                self.operands.append((next(self.given) / goal).astype(np.float32))
            case name if name in CHANNEL_STEPS or name == "residual":
                self.operands.append(next(self.given))
        self.steps.append(step)


def _chained(first, rest: Iterator) -> Iterator:
    yield first
    yield from rest


def _integer_bias(shift: np.ndarray | None, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A bias (oc,) as int32 in units of the sum; where that is not what it is, zeros and the bias as float32.

    Dequantised biases are whole multiples of `unit` up to the roundings of float32.
    """
    if shift is None:
        return np.zeros(len(unit), np.int32), None
    exact = shift / unit.astype(np.float64)
    whole = np.rint(exact)
    near = np.abs(exact - whole) <= 2.0**-21 * np.maximum(np.abs(whole), 1)
    if near.all() and (np.abs(whole) < 2**31).all():
        return whole.astype(np.int32), None
    return np.zeros(len(unit), np.int32), shift.astype(np.float32)
