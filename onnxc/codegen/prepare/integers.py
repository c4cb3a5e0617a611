"""Operators on integers in standard ones that quantised kernels know: DequantizeLinear ahead, QuantizeLinear behind.

QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)  ->  Q(Conv(D(x), D(w), D(b)), sy, zy), b in units of sx sw
MatMulInteger(a, b, za, zb)                   ->  MatMul(a - za, b - zb) on int32
MatMulNBits(a, packed)                        ->  MatMul(a, D(unpacked))
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.prepare.build import REWRITES, Build, rewrites
from onnxc.codegen.prepare.fused import MICROSOFT, added, channels_first, channels_last
from onnxc.codegen.prepare.matrices import Blocks

INT32 = "int32"


def dequantised(b: Build, x: str, scale: str, zero: str | None, axis: int) -> str:
    """(x - zero) scale, with one scale, one for each index of `axis`, or any that broadcast."""
    extents = b.shape(scale)
    if len(extents) > 1 and int(np.prod(extents)) > 1:
        kind = b.walk.element(scale)
        wide = b.cast(x, kind)
        return b("Mul", wide if zero is None else b("Sub", wide, b.cast(zero, kind)), scale)
    if int(np.prod(extents)) == 1:
        scale, zero = b.reshape(scale, ()), zero and b.reshape(zero, ())
        return b("DequantizeLinear", x, scale, zero)
    if zero is not None and b.shape(zero) in ((), (1,)):  # one zero point for all scales
        zero = b("Expand", b.reshape(zero, (1,)), b.constant(extents, np.int64))
    return b("DequantizeLinear", x, scale, zero, axis=axis)


def quantised(b: Build, y: str, scale: str, zero: str | None) -> str:
    """y / scale, rounded to even, plus the zero point, cut to its type."""
    return b("QuantizeLinear", y, b.reshape(scale, ()), zero and b.reshape(zero, ()))


@rewrites("QLinearConv")
def _conv(b: Build):
    x, sx, zx, w, sw, zw, sy, zy = (b.needs(i) for i in range(8))
    bias = b.input(8)
    own = b.attributes()
    last = bool(own.pop("channels_last", 0))
    real = dequantised(b, channels_first(b, x) if last else x, sx, zx, 1)
    operands = [real, dequantised(b, w, sw, zw, 0)]
    if bias is not None:
        unit = b("Mul", b.reshape(sx, ()), sw)
        unit = b.reshape(unit, ()) if int(np.prod(b.shape(unit))) == 1 else unit
        operands.append(dequantised(b, bias, unit, None, 0))
    y = quantised(b, b("Conv", *operands, **own), sy, zy)
    return channels_last(b, y) if last else y


REWRITES[MICROSOFT, "QLinearConv"] = REWRITES["", "QLinearConv"]


@rewrites("QLinearMatMul")
def _matmul(b: Build):
    x, sx, zx, w, sw, zw, sy, zy = (b.needs(i) for i in range(8))
    left = dequantised(b, x, sx, zx, len(b.shape(x)) - 2)
    return quantised(b, b("MatMul", left, dequantised(b, w, sw, zw, len(b.shape(w)) - 1)), sy, zy)


@rewrites("QGemm", domain=MICROSOFT)
def _gemm(b: Build):
    x, sx, zx, w, sw, zw = (b.needs(i) for i in range(6))
    c, sy, zy = (b.input(i) for i in (6, 7, 8))
    columns = 0 if b.attribute("transB", 0) else 1
    operands = [dequantised(b, x, sx, zx, 0), dequantised(b, w, sw, zw, columns)]
    if c is not None:
        unit = b("Mul", b.like(b.attribute("alpha", 1.0), sx), b("Mul", b.reshape(sx, ()), sw))
        operands.append(dequantised(b, c, unit, None, len(b.shape(c)) - 1))
    y = b("Gemm", *operands, **b.attributes())
    return y if sy is None else quantised(b, y, sy, zy)


def widened(b: Build, x: str, zero: str | None, rows: bool) -> str:
    """x - zero in int32; a zero point for each row, or for each column, is spread over the other axis."""
    x = b.cast(x, INT32)
    if zero is None:
        return x
    zero, extents = b.cast(zero, INT32), b.shape(zero)
    if rows and len(extents) == 1 and extents[0] > 1:
        zero = b.reshape(zero, (*extents, 1))
    return b("Sub", x, zero)


@rewrites("MatMulInteger")
def _matmul_integer(b: Build):
    a, w = (b.needs(i) for i in range(2))
    za, zw = (b.input(i) for i in (2, 3))
    return b("MatMul", widened(b, a, za, True), widened(b, w, zw, False))


@rewrites("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_to_float(b: Build):
    a, w, sa, sw = (b.needs(i) for i in range(4))
    za, zw, bias = (b.input(i) for i in (4, 5, 6))
    return _scaled(b, a, w, sa, sw, za, zw, bias)


@rewrites("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(b: Build):
    a, w, sw = (b.needs(i) for i in range(3))
    zw, bias = (b.input(i) for i in (3, 4))
    whole, sa, za = b.several("DynamicQuantizeLinear", 3, a)
    return _scaled(b, whole, w, sa, sw, za, zw, bias)


def _scaled(b: Build, a: str, w: str, sa: str, sw: str, za, zw, bias) -> str:
    total = b("MatMulInteger", a, w, za, zw)
    return added(b, b("Mul", b.cast(total, b.walk.element(sw)), b("Mul", sa, sw)), bias)


def _unary(op: str, *attributes: str):
    def made(b: Build):
        x, sx, sy = (b.needs(i) for i in (0, 1, 3))
        zx, zy = (b.input(i) for i in (2, 4))
        own = {name: b.attribute(name) for name in attributes}
        return quantised(b, b(op, dequantised(b, x, sx, zx, 1), **own), sy, zy)

    return made


REWRITES[MICROSOFT, "QLinearSigmoid"] = _unary("Sigmoid")
REWRITES[MICROSOFT, "QLinearLeakyRelu"] = _unary("LeakyRelu", "alpha")


def _binary(op: str):
    def made(b: Build):
        x, sx, y, sy, sz = (b.needs(i) for i in (0, 1, 3, 4, 6))
        zx, zy, zz = (b.input(i) for i in (2, 5, 7))
        return quantised(b, b(op, dequantised(b, x, sx, zx, 1), dequantised(b, y, sy, zy, 1)), sz, zz)

    return made


REWRITES[MICROSOFT, "QLinearAdd"] = _binary("Add")
REWRITES[MICROSOFT, "QLinearMul"] = _binary("Mul")


@rewrites("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def _pool(b: Build):
    x, sx, sy = (b.needs(i) for i in (0, 1, 3))
    zx, zy = (b.input(i) for i in (2, 4))
    own = b.attributes()
    last = bool(own.pop("channels_last", 0))
    real = dequantised(b, channels_first(b, x) if last else x, sx, zx, 1)
    y = quantised(b, b(b.node.op_type.removeprefix("QLinear"), real, **own), sy, zy)
    return channels_last(b, y) if last else y


@rewrites("QLinearSoftmax", domain=MICROSOFT)
def _softmax(b: Build):
    x, sx, sy = (b.needs(i) for i in (0, 1, 3))
    zx, zy = (b.input(i) for i in (2, 4))
    shape, axis = b.shape(x), b.attribute("axis", -1)
    axis = axis % len(shape)
    real = dequantised(b, x, sx, zx, 1)
    if b.attribute("opset", 13) < 13:  # over all axes from `axis` on
        flat = b.reshape(real, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))
        y = b.reshape(b("Softmax", flat, axis=1), shape)
    else:
        order = [*(i for i in range(len(shape)) if i != axis), axis]
        back = [order.index(i) for i in range(len(shape))]
        y = b.transpose(b("Softmax", b.transpose(real, *order), axis=len(shape) - 1), *back)
    return quantised(b, y, sy, zy)


@rewrites("QLinearReduceMean", domain=MICROSOFT)
def _mean(b: Build):
    x, sx, sy = (b.needs(i) for i in (0, 1, 3))
    zx, zy = (b.input(i) for i in (2, 4))
    shape = b.shape(x)
    axes = sorted(axis % len(shape) for axis in b.attribute("axes", range(len(shape))))
    y = dequantised(b, x, sx, zx, 1)
    for axis in axes:
        y = b.mean(y, axis)
    if not b.attribute("keepdims", 1):
        y = b.reshape(y, [extent for i, extent in enumerate(shape) if i not in axes])
    return quantised(b, y, sy, zy)


@rewrites("QLinearConcat", domain=MICROSOFT)
def _concat(b: Build):
    scale, zero, *rest = b.node.input
    parts = [dequantised(b, rest[i], rest[i + 1], rest[i + 2] or None, 1) for i in range(0, len(rest), 3)]
    return quantised(b, b("Concat", *parts, axis=b.attribute("axis")), scale, zero)


@rewrites("QLinearWhere", domain=MICROSOFT)
def _where(b: Build):
    condition, x, sx, y, sy, sz = (b.needs(i) for i in (0, 1, 2, 4, 5, 7))
    zx, zy, zz = (b.input(i) for i in (3, 6, 8))
    return quantised(b, b("Where", condition, dequantised(b, x, sx, zx, 1), dequantised(b, y, sy, zy, 1)), sz, zz)


@rewrites("MatMulNBits", domain=MICROSOFT)
def _few_bits(b: Build):
    a, packed, scales = (b.needs(i) for i in range(3))
    zeros, order, bias = (b.input(i) for i in (3, 4, 5))
    k, n, bits, block = (b.attribute(name) for name in ("K", "N", "bits", "block_size"))
    bits = bits or 4
    b.attribute("accuracy_level")  # how exact ONNX Runtime is: this is exact
    codes, steps, shifts = (b.known(name) for name in (packed, scales, zeros))
    if codes is None or steps is None or (zeros is not None and shifts is None):
        raise b.refusal("its weights are computed at run time", remedy="make them constants")
    if order is not None or bits not in (2, 4, 8):
        raise b.refusal(f"g_idx and {bits} bits are not known")
    count = -(-k // block)
    levels = _fields(codes.reshape(n, count, -1), bits)[:, :, :block].reshape(n, -1)[:, :k]
    scale, middle = steps.reshape(n, count), None
    if shifts is not None and shifts.dtype == np.uint8:
        middle = _fields(shifts.reshape(n, -1), bits)[:, :count]
    if scale.dtype == np.float32 and (shifts is None or middle is not None):
        weights: np.ndarray | Blocks = Blocks(levels, scale, middle, 1, block, bits).turned()
    else:
        zero = np.full((n, count), 1 << bits - 1, np.float32) if shifts is None else shifts.reshape(n, count)
        zero, wide = (np.repeat(part.astype(np.float32), block, 1)[:, :k] for part in (zero, scale))
        weights = ((levels - zero) * wide).T.astype(scale.dtype)
    return added(b, b("MatMul", a, b.constant(weights)), bias)


def _fields(packed: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of `bits` bits in the bytes of the last axis, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (1 << bits) - 1).reshape(*packed.shape[:-1], -1)
