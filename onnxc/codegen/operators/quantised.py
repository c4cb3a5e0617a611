"""Quantisers and what computes on integers with scales."""

from __future__ import annotations

from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of, within
from onnxc.codegen.operators.table import row


def _axis(n: Node, x, scale) -> int:
    rank = len(shape_of(x))
    axis = int(n.attribute("axis", 1))
    if not shape_of(scale) or shape_of(scale) == (1,):
        return max(rank - 1, 0)
    return within(axis, rank)


@row("QuantizeLinear")
def quantize(n: Node, x, scale, zero=None):
    """saturate(round(x / scale) + zero), with one scale or one for each place of an axis."""
    if n.attribute("block_size", 0):
        raise Refused("blocks of scales are not known")
    n.attribute("saturate", 1), n.attribute("precision", 0), n.attribute("output_dtype", 0)
    kind = n.results[0][1] if n.results[0] else "uint8"
    if held(kind) != kind:
        raise Refused(f"quantising to {kind} is not known")
    axis = _axis(n, x, scale)
    zero = n.const(0, kind) if zero is None else zero
    return n.do("quantize", n.cast(x, "float32"), scale, zero, axis=axis, out_dtype=kind)


@row("DequantizeLinear")
def dequantize(n: Node, x, scale, zero=None):
    """(x - zero) scale, with one scale or one for each place of an axis."""
    if n.attribute("block_size", 0):
        raise Refused("blocks of scales are not known")
    n.attribute("output_dtype", 0)
    axis = _axis(n, x, scale)
    zero = n.const(0, dtype_of(x)) if zero is None else zero
    return n.do("dequantize", x, scale, zero, axis=axis, out_dtype="float32")
