"""Quantisers and what computes on integers with scales."""

from __future__ import annotations

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.cast import dtype_name, to_type
from onnxc.codegen.operators.narrow import is_narrow
from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of, within
from onnxc.codegen.operators.table import row
from onnxc.runtime.elements import PACKED

PRECISIONS = ("float32", "float64", "float16", "bfloat16")


def _axis(n: Node, x, scale) -> int:
    rank = len(shape_of(x))
    axis = int(n.attribute("axis", 1))
    if not shape_of(scale) or shape_of(scale) == (1,):
        return max(rank - 1, 0)
    return within(axis, rank)


def _spread(n: Node, part, x, axis: int, block: int):
    """A scale or zero point so that it broadcasts to x: one number, one for each place of an axis, or one for each block."""
    shape, own = shape_of(x), shape_of(part)
    if not own or own == (1,):
        return n.reshape(part, ())
    if not block:
        return n.reshape(part, [own[0] if i == axis else 1 for i in range(len(shape))])
    if len(own) != len(shape) or -(-shape[axis] // block) != own[axis]:
        raise Refused(f"its scales {list(own)} are not those of blocks of {block} along axis {axis} of {list(shape)}")

    def compute(t):
        def element(*index):
            return t(*(tvm.tirx.floordiv(i, block) if d == axis else i for d, i in enumerate(index)))

        return tvm.te.compute([shape[d] if d == axis else e for d, e in enumerate(own)], element, name="blocks")

    return n.te(compute, part, name="blocks")


@row("QuantizeLinear")
def quantize(n: Node, x, scale, zero=None):
    """saturate(round(x / scale) + zero), with one scale, one for each place of an axis, or one for each block."""
    block, saturate, precision = n.attribute("block_size", 0), n.attribute("saturate", 1), n.attribute("precision", 0)
    n.attribute("output_dtype", 0)
    kind = n.results[0][1] if n.results[0] else "uint8"
    axis = _axis(n, x, scale)
    exact = dtype_name(precision) if precision else "float32"
    if exact not in PRECISIONS:
        raise Refused(f"attribute precision = {exact} is not known, only {', '.join(PRECISIONS)}")
    if not block and not is_narrow(kind) and exact == "float32":
        zero = n.const(0, kind) if zero is None else zero
        return n.do("quantize", n.cast(x, "float32"), scale, zero, axis=axis, out_dtype=kind)
    parts = (x, _spread(n, scale, x, axis, block))
    if exact == "float32":
        ratio = n.do("divide", *(n.cast(part, exact) for part in parts))
    else:
        ratio = to_type(n, n.do("divide", *(to_type(n, part, exact) for part in parts)), exact)
    whole = "int" in kind
    made = n.do("round", ratio) if whole else ratio
    if zero is not None and (whole or kind == "float4_e2m1fn"):
        made = n.do("add", made, n.cast(_spread(n, zero, x, axis, block), dtype_of(made)))
    if not whole:
        return to_type(n, made, kind, bool(saturate))
    low, high = _limits(kind)
    least = n.like(low, made)
    made = n.do("where", n.do("greater_equal", made, least), made, least)  # NaN too, as in kernels.rounding
    made = n.do("minimum", made, n.like(high, made))
    return n.cast(made, held(kind))


def _limits(kind: str) -> tuple[int, int]:
    """The least and the largest of an integer type."""
    bits, signed = PACKED.get(kind) or int(kind.lstrip("uint")), kind.startswith("int")
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


@row("DequantizeLinear")
def dequantize(n: Node, x, scale, zero=None):
    """(x - zero) scale, with one scale, one for each place of an axis, or one for each block."""
    block = n.attribute("block_size", 0)
    n.attribute("output_dtype", 0)
    axis = _axis(n, x, scale)
    kind = dtype_of(x)
    if not block and not kind.startswith("float"):
        zero = n.const(0, kind) if zero is None else zero
        return n.do("dequantize", x, scale, zero, axis=axis, out_dtype="float32")
    wide = "int32" if "int" in kind else kind
    if zero is not None:
        x = n.do("subtract", n.cast(x, wide), n.cast(_spread(n, zero, x, axis, block), wide))
    return n.do("multiply", n.cast(x, "float32"), _spread(n, scale, x, axis, block))
