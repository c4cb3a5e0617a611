"""Comparisons, booleans and bits."""

from __future__ import annotations

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.cast import dtype_name
from onnxc.codegen.operators.narrow import is_narrow, pack, unpack
from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of
from onnxc.codegen.operators.table import row
from onnxc.runtime.elements import PACKED, stored

COMPARE = {
    "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
}  # fmt: skip
LOGIC = {"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor"}
BITS = {"BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor"}


@row(*COMPARE)
def compare(n: Node, a, b):
    """a == b and its sisters; booleans are compared as 0 and 1."""
    if dtype_of(a) == "bool":
        a, b = n.cast(a, "int8"), n.cast(b, "int8")
    return n.do(COMPARE[n.op], a, b)


@row(*LOGIC)
def logic(n: Node, a, b):
    """Booleans joined."""
    return n.do(LOGIC[n.op], a, b)


@row("Not")
def negation(n: Node, x):
    """not x."""
    return n.do("logical_not", x)


@row(*BITS)
def bits(n: Node, a, b):
    """Bits joined."""
    return n.do(BITS[n.op], a, b)


@row("BitwiseNot")
def inverse(n: Node, x):
    """Every bit turned over."""
    return n.do("bitwise_not", x)


@row("BitShift")
def shift(n: Node, a, b):
    """Bits moved left or right; a shift by the type's width or more leaves 0, or the sign."""
    way, kind = n.attribute("direction"), dtype_of(a)
    if way not in ("LEFT", "RIGHT"):
        raise Refused(f"attribute direction = {way} is not known, only LEFT, RIGHT")
    width = int(kind.lstrip("uint"))

    def moved(x, y):
        most, zero = tvm.tirx.const(width - 1, kind), tvm.tirx.const(0, kind)
        beyond = y > most if kind.startswith("uint") else tvm.tirx.any(y > most, y < zero)
        near = tvm.tirx.Select(beyond, most, y)
        if way == "RIGHT" and not kind.startswith("uint"):
            return x >> near
        return tvm.tirx.Select(beyond, zero, x << near if way == "LEFT" else x >> near)

    return broadcast_with(n, moved, a, b)


def broadcast_with(n: Node, function, *args):
    """`function` of one element of each operand, over their broadcast shape."""

    def compute(*tensors):
        shapes = [tuple(int(extent) for extent in t.shape) for t in tensors]
        shape = np.broadcast_shapes(*shapes)

        def element(*index):
            picked = []
            for tensor, own in zip(tensors, shapes, strict=True):
                tail = index[len(index) - len(own) :]
                picked.append(tensor(*(0 if extent == 1 else i for i, extent in zip(tail, own, strict=True))))
            return function(*picked)

        return tvm.te.compute(shape, element, name="elements")

    return n.te(compute, *args)


@row("IsNaN")
def is_nan(n: Node, x):
    """Whether x is no number."""
    return n.do("isnan", x)


@row("IsInf")
def is_inf(n: Node, x):
    """Whether x is infinite; either sign can be left out."""
    above, below = n.attribute("detect_positive", 1), n.attribute("detect_negative", 1)
    top, bottom = (n.do("equal", x, n.like(value, x)) for value in (float("inf"), float("-inf")))
    if above and below:
        return n.do("logical_or", top, bottom)
    if above or below:
        return top if above else bottom
    return n.do("logical_and", top, bottom)


@row("BitCast")
def bit_cast(n: Node, x):
    """The same bits read as another type of as many bits."""
    source, kind = n.kinds[0], dtype_name(n.attribute("to"))
    if source == kind:
        return x
    x, plain = _stored(n, x, source), stored((), kind)[1]
    if source in PACKED or kind in PACKED or element_bits(dtype_of(x)) != element_bits(plain):
        raise Refused(f"bits of {source} as {kind} are not known")
    if kind == "bool":
        return n.do("not_equal", n.cast(x, "uint8"), n.const(0, "uint8"))
    made = broadcast_with(n, lambda v: tvm.tirx.reinterpret(plain, v), x) if dtype_of(x) != plain else x
    return unpack(n, made, shape_of(x), kind) if is_narrow(kind) else n.cast(made, held(kind))


def element_bits(plain: str) -> int:
    """Bits of a plain type as NumPy keeps it."""
    return np.dtype(plain).itemsize * 8


def _stored(n: Node, x, kind: str):
    """The bits of a tensor, whose model's type is `kind`, as a plain type."""
    if is_narrow(kind):
        return pack(n, x, shape_of(x), kind)
    return n.cast(x, "uint8" if kind == "bool" else kind)
