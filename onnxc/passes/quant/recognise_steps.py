"""Uniform quantisers of activations, however an exporter wrote them, as Quantize.

    Mul(Clip(Round(Div(x, s)), low, high), s)       ->  Quantize(x, s, low, high)
    Clip(Round(v), low, high)                       ->  Quantize(v, 1, low, high), other factors stay
    Round(Mul(Clip(x, a, b), c)), a c and b c whole ->  Quantize(Mul(x, c), 1, a c, b c): rounding and clipping are monotone
    DequantizeLinear(QuantizeLinear(x, s, z), s, z) ->  Quantize(x, s, least - z, largest - z)

The last holds as QuantizeLinear rounds x / s before it adds z. Bounds are whole, so that rounding and clipping change places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.analysis import Analysis
from ...ir.model import Model, Tensor
from .recognise_signs import maker, scalar

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3),
          "int16": (-32768, 32767), "uint16": (0, 65535)}  # fmt: skip


@dataclass
class Uniform:
    """y = scale * clip(round(x / scale), low, high), ended by `node`. factor: what x is multiplied by first, if any."""

    node: gs.Node
    x: Tensor
    scale: np.ndarray | np.floating
    low: float
    high: float
    factor: Tensor | None = None

    @property
    def bits(self) -> int:
        return max(1, int(self.high - self.low).bit_length())


def uniform(model: Model, node: gs.Node, analysis: Analysis) -> Uniform | None:
    """The uniform quantiser that `node` ends, or None."""
    if model.is_standard(node, "DequantizeLinear"):
        return _pair(model, node, analysis)
    if model.is_standard(node, "Mul"):
        return _scaled(model, node)
    return _whole(model, node)


def _whole(model: Model, node: gs.Node) -> Uniform | None:
    """Clip(Round(v)), Round(Clip(v)) and Round(Mul(Clip(x), c)), with whole bounds."""
    if model.is_standard(node, "Clip"):
        inner, bounds = maker(model, node.inputs[0], "Round"), limits(node)
        if inner is not None and bounds and _whole_numbers(*bounds):
            return Uniform(node, inner.inputs[0], np.float32(1), *bounds)
    if not model.is_standard(node, "Round"):
        return None
    inner = maker(model, node.inputs[0], "Clip")
    if inner is not None:
        bounds = limits(inner)
        if bounds and _whole_numbers(*bounds):
            return Uniform(node, inner.inputs[0], np.float32(1), *bounds)
        return None
    product = maker(model, node.inputs[0], "Mul")
    if product is None:
        return None
    for i in (0, 1):
        inner, c = maker(model, product.inputs[i], "Clip"), scalar(product.inputs[1 - i])
        if inner is None or c is None or c <= 0 or not (bounds := limits(inner)):
            continue
        low, high = (float(np.float32(b) * np.float32(c)) for b in bounds)
        if _whole_numbers(low, high):
            return Uniform(node, inner.inputs[0], np.float32(1), low, high, product.inputs[1 - i])
    return None


def _scaled(model: Model, node: gs.Node) -> Uniform | None:
    """The form with the same scale on both sides."""
    for i in (0, 1):
        scale = node.inputs[1 - i]
        inner = maker(model, node.inputs[i], "Clip", "Round")
        if inner is None or not isinstance(scale, gs.Constant) or not (scale.values > 0).all():
            continue
        found = _whole(model, inner)
        if found is None or found.factor is not None:
            continue
        division = maker(model, found.x, "Div")
        if division is None or not isinstance(division.inputs[1], gs.Constant):
            continue
        if np.array_equal(division.inputs[1].values, scale.values):
            return Uniform(node, division.inputs[0], scale.values, found.low, found.high)
    return None


def _pair(model: Model, node: gs.Node, analysis: Analysis) -> Uniform | None:
    """QuantizeLinear and DequantizeLinear with one scale, by tensor or by channel."""
    first = maker(model, node.inputs[0], "QuantizeLinear")
    if first is None or isinstance(first.inputs[0], gs.Constant) or len(first.inputs) < 3 or len(node.inputs) < 3:
        return None
    stored = [*first.inputs[1:3], *node.inputs[1:3]]
    if not all(isinstance(t, gs.Constant) for t in stored):
        return None
    scale, zero = (t.values for t in stored[:2])
    if not (np.array_equal(scale, stored[2].values) and np.array_equal(zero, stored[3].values)):
        return None
    if zero.dtype.name not in RANGES or len({int(z) for z in np.ravel(zero)}) != 1 or scale.dtype != np.float32:
        return None
    if scale.size == 1:
        scale = scale.reshape(())
    else:
        shape = analysis.shape(first.inputs[0].name)
        if shape is None or scale.ndim != 1 or first.attrs.get("block_size", 0):
            return None
        scale = scale.reshape(-1, *(1,) * (len(shape) - 1 - first.attrs.get("axis", 1) % len(shape)))
    low, high = RANGES[zero.dtype.name]
    z = int(np.ravel(zero)[0])
    return Uniform(node, first.inputs[0], scale, low - z, high - z)


def limits(node: gs.Node) -> tuple[float, float] | None:
    """The bounds of a Clip, or None where they are not both constant."""
    if len(node.inputs) > 1 or "min" not in node.attrs:
        found = [scalar(t) if t.name else None for t in node.inputs[1:3]]
    else:
        found = [node.attrs.get("min"), node.attrs.get("max")]
    low, high = found if len(found) == 2 else (None, None)
    return (low, high) if low is not None and high is not None else None


def _whole_numbers(low: float, high: float) -> bool:
    return low < high and float(low).is_integer() and float(high).is_integer() and max(-low, high) < 1 << 16


def write(model: Model, found: Uniform) -> str:
    """Put Quantize in the place of a quantiser, and say how."""
    node, x = found.node, found.x
    if found.factor is not None:
        x = model.node("Mul", [x, found.factor], before=node).outputs[0]
    inputs = [x, found.scale, np.float32(found.low), np.float32(found.high)]
    made = functions.call(model, "Quantize", inputs, stem=f"{node.name}_quantize", before=node).outputs[0]
    model.bypass(node, made)
    return f"{node.op} becomes Quantize to {found.low:g} .. {found.high:g}, {found.bits} bits"
