"""Numbers of few bits: from their codes to the wider type that holds them, and back, by plain integer arithmetic.

    float8_e4m3fn 0x7e   <->   float32 448.0
    int4 0x9             <->   int8 -7

Rounding is to the nearest, ties to even. What is beyond the largest number becomes that, or without `saturate` infinity
or NaN, as ONNX's table for Cast says. For a float with M bits of mantissa and bias B, as an integer without its sign:

    code = round(bits(|x|) / 2^(23 - M)) - (127 - B) 2^M      where |x| >= 2^(1 - B)
    code = round(|x| 2^(B - 1 + M))                           below, where numbers are evenly spaced
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import grid, loops, picked, when
from onnxc.codegen.operators.node import Node, held, shape_of
from onnxc.runtime.elements import PACKED, stored

INFINITE = 0x7F800000  # the bits of float32's infinity
QUIET = 0x7FC00000  # of a NaN
MAGIC = 0x4B000000  # of 2^23, whose unit is 1


@dataclass(frozen=True)
class Format:
    """A float of `exponent` and `mantissa` bits. Codes without the sign: of the largest number, of what is beyond it, of NaN;
    `unsigned_zero`: minus zero is NaN, the only one."""

    exponent: int
    mantissa: int
    bias: int
    largest: int
    beyond: int
    nan: int
    unsigned_zero: bool = False


FORMATS = {
    "bfloat16": Format(8, 7, 127, 0x7F80, 0x7F80, 0x7FC0),
    "float8_e4m3fn": Format(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": Format(4, 3, 8, 0x7F, 0x80, 0x80, True),
    "float8_e5m2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": Format(5, 2, 16, 0x7F, 0x80, 0x80, True),
    "float4_e2m1fn": Format(2, 1, 1, 7, 7, 0),
}
POWERS = "float8_e8m0fnu"
ROUND_MODES = ("up", "down", "nearest")


def is_narrow(dtype: str) -> bool:
    """Whether tensors of a type are carried as codes."""
    return dtype in FORMATS or dtype in PACKED or dtype == POWERS


def _number(value: float, dtype: str = "int32"):
    return tvm.tirx.const(value, dtype)


def _bits(x):
    return tvm.tirx.reinterpret("int32", x)


def _real(bits):
    return tvm.tirx.reinterpret("float32", bits)


class Steps:
    """Variables of a function that `loops` writes: what is used more than once is computed once, as expressions are trees."""

    def __init__(self, T) -> None:
        self.T = T

    def __call__(self, value):
        """`value`, kept."""
        kept = self.T.alloc_buffer((1,), str(value.ty.dtype))
        self.T.buffer_store(kept, value, (0,))
        return kept[0]


def decoded(code, dtype: str, let: Steps):
    """The number of an int32 `code`, in the type that holds `dtype`."""
    select, code = tvm.tirx.Select, let(code)
    if dtype.startswith(("int", "uint")):
        sign = 1 << PACKED[dtype] - 1
        return tvm.tirx.Cast(held(dtype), (code ^ sign) - sign if dtype.startswith("int") else code)
    nan = _number(math.nan, "float32")
    if dtype == "bfloat16":
        return _real(code << 16)
    if dtype == POWERS:
        return select(code == 0xFF, nan, _real(select(code == 0, _number(0x400000), code << 23)))
    form = FORMATS[dtype]
    e, m = form.exponent, form.mantissa
    size = let(code & ((1 << e + m) - 1))
    low = tvm.tirx.Cast("float32", size) * _number(2.0 ** (1 - form.bias - m), "float32")
    bits = let(select(size < 1 << m, _bits(low), (size << 23 - m) + ((127 - form.bias) << 23)))
    if form.unsigned_zero:
        bits = let(select(code == 1 << e + m, _number(QUIET), bits))
    elif form.beyond > form.largest:
        special = (
            _number(QUIET) if form.beyond == form.nan else select(size > form.beyond, _number(QUIET), _number(INFINITE))
        )
        bits = let(select(size >= form.beyond, special, bits))
    return _real(bits | select(code >= 1 << e + m, _number(-(1 << 31)), _number(0)))


def coded(x, dtype: str, let: Steps, saturate: bool = True, round_mode: str = "up"):
    """The code (int32) of a number, given in any type."""
    select = tvm.tirx.Select
    if dtype.startswith(("int", "uint")):
        return tvm.tirx.Cast("int32", x) & ((1 << PACKED[dtype]) - 1)
    bits = let(_single(x, let))
    size = let(bits & 0x7FFFFFFF)
    if dtype == POWERS:
        return _power(size, let, saturate, round_mode)
    form = FORMATS[dtype]
    m, top = form.mantissa, 1 << form.exponent + form.mantissa
    bounded = let(tvm.tirx.min(size, _number(INFINITE)))
    shift = 23 - m
    code = let(((bounded + ((1 << shift - 1) - 1) + ((bounded >> shift) & 1)) >> shift) - ((127 - form.bias) << m))
    if form.bias != 127:
        least = _number(2.0 ** (1 - form.bias), "float32")
        scaled = tvm.tirx.min(_real(bounded), least) * _number(2.0 ** (form.bias - 1 + m), "float32")
        code = let(select(_real(bounded) < least, _bits(scaled + _number(2.0**23, "float32")) - MAGIC, code))
    code = let(select(code > form.largest, _number(form.largest if saturate else form.beyond), code))
    sign = let(select(bits < 0, _number(top), _number(0)))
    if dtype == "float4_e2m1fn":  # it has no NaN, which becomes minus zero
        return select(size > INFINITE, _number(top), code | sign)
    code = let(select(size > INFINITE, _number(form.nan), code))
    if form.unsigned_zero:
        return select(tvm.tirx.any(code == 0, code == form.nan), code, code | sign)
    return code | sign


def _power(size, let: Steps, saturate: bool, round_mode: str):
    """The exponent alone: a power of two, rounded as `round_mode` says. There is no zero, and 0xFF is NaN."""
    select = tvm.tirx.Select
    rest = size & 0x7FFFFF
    up = {"up": rest > 0, "nearest": rest >= 0x400000, "down": rest < 0}[round_mode]
    code = let((size >> 23) + select(up, _number(1), _number(0)))
    if round_mode == "nearest":  # below 2^-126 numbers are evenly spaced: half of it is the least
        code = let(select(size < 0x800000, select(size >= 0x600000, _number(1), _number(0)), code))
    if round_mode == "up":
        code = let(select(size <= 0x400000, _number(0), code))
    if saturate:
        return select(size > INFINITE, _number(0xFF), tvm.tirx.min(code, _number(0xFE)))
    return select(tvm.tirx.any(size < 0x400000, code > 0xFE), _number(0xFF), code)


def _single(x, let: Steps):
    """The bits of a number as float32. What that has not is cut and its last bit set, so that rounding it once more is right."""
    kind = str(x.ty.dtype)
    if kind in ("float32", "float16"):
        return _bits(tvm.tirx.Cast("float32", x))
    wide = let(x if kind == "float64" else tvm.tirx.Cast("float64", x))
    near = let(tvm.tirx.Cast("float32", wide))
    back = let(tvm.tirx.Cast("float64", near))
    away = tvm.tirx.Select(wide < _number(0, "float64"), back < wide, back > wide)
    bits = let(_bits(near))
    odd = (bits - tvm.tirx.Select(away, _number(1), _number(0))) | 1
    return tvm.tirx.Select(tvm.tirx.any(back == wide, tvm.tirx.isnan(wide)), bits, odd)


def unpack(n: Node, x, shape: tuple[int, ...], dtype: str):
    """A tensor of `shape` in the type that holds `dtype`, from its `stored` bytes."""
    bits = PACKED.get(dtype, 8)

    def body(T, given, made):
        let = Steps(T)
        with grid(T, shape) as index:
            index = picked(index, shape)
            if dtype not in PACKED:
                code = tvm.tirx.Cast("int32", given[index if shape else ()])
            else:
                at = let(_flat(index, shape))
                byte = tvm.tirx.Cast("int32", given[tvm.tirx.floordiv(at, 8 // bits)])
                code = (byte >> (tvm.tirx.floormod(at, 8 // bits) * bits)) & ((1 << bits) - 1)
            T.buffer_store(made, decoded(code, dtype, let), index if shape else ())

    return loops(n, [x], [(shape, held(dtype))], body, name="unpack")


def _flat(index, shape: tuple[int, ...]):
    """Which element in order stands at an index."""
    at = tvm.tirx.const(0, "int32")
    for i, extent in zip(index, shape):
        at = at * extent + i
    return at


def pack(n: Node, x, shape: tuple[int, ...], dtype: str):
    """The `stored` bytes of a tensor whose values `dtype` has, from the type that holds it."""
    extents, plain = stored(shape, dtype)
    bits = PACKED.get(dtype, 8)

    def plainly(T, given, made):
        let = Steps(T)
        with grid(T, shape) as index:
            index = picked(index, shape) if shape else ()
            T.buffer_store(made, tvm.tirx.Cast(plain, coded(given[index], dtype, let, saturate=False)), index)

    def together(T, given, made):
        let, byte = Steps(T), T.alloc_buffer((1,), "int32")
        count = math.prod(shape)
        with T.serial(0, extents[0]) as i:
            T.buffer_store(byte, 0, (0,))
            for k in range(8 // bits):
                with when(T, i * (8 // bits) + k < count):
                    code = coded(given[i * (8 // bits) + k], dtype, let, saturate=False)
                    T.buffer_store(byte, byte[0] | (code << bits * k), (0,))
            T.buffer_store(made, tvm.tirx.Cast(plain, byte[0]), (i,))

    if dtype not in PACKED:
        return loops(n, [x], [(extents, plain)], plainly, name="pack")
    return loops(n, [n.reshape(x, (math.prod(shape),))], [(extents, plain)], together, name="pack")


def rounded(n: Node, x, dtype: str, saturate: bool = True, round_mode: str = "up"):
    """x as numbers that `dtype` has, in the type that holds it."""
    shape = shape_of(x)

    def body(T, given, made):
        let = Steps(T)
        with grid(T, shape) as index:
            index = picked(index, shape) if shape else ()
            T.buffer_store(made, decoded(coded(given[index], dtype, let, saturate, round_mode), dtype, let), index)

    return loops(n, [x], [(shape, held(dtype))], body, name="rounded")
