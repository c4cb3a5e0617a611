"""Channels-last: which operators run on (n, h, w, c) operands, and how their arguments change.

A rule takes a call on (n, c, h, w) operands and makes the same call on (n, h, w, c) ones. It answers None when
that cannot be, and the caller converts back. What has no rule stays as the model has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen.tvm_api import tvm_modules

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)
AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # axis of (n, c, h, w) -> axis of (n, h, w, c)

UNARY = """abs acos acosh asin asinh atan atanh ceil clip cos cosh erf exp floor log negative nn.gelu nn.gelu_tanh
nn.leakyrelu nn.relu nn.silu nn.softplus round rsqrt sigmoid sign sin sinh sqrt square tan tanh astype logical_not
bitwise_not isnan isinf isfinite nn.relu6 nn.selu"""
BINARY = """add subtract multiply divide power maximum minimum mod floor_mod floor_divide equal not_equal less
less_equal greater greater_equal logical_and logical_or logical_xor where"""
ELEMENTWISE = frozenset("relax." + name for name in (UNARY + " " + BINARY).split())
POOLS = ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
REDUCTIONS = frozenset("relax." + name for name in ("mean", "sum", "max", "min", "prod"))


def constant_last(array: np.ndarray) -> np.ndarray:
    """A constant that broadcasts to (n, c, h, w) -> one that broadcasts to (n, h, w, c). Scalars stay."""
    if array.ndim == 0:
        return array
    return array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_LAST)


def _pool(call, x):
    op = getattr(tvm_modules().relax.op.nn, call.op.name.rsplit(".", 1)[1])
    a = call.attrs
    if a.layout != "NCHW":
        return None
    ints = [[int(v) for v in part] for part in (a.pool_size, a.strides, a.padding, a.dilation)]
    return op(x, *ints, bool(a.ceil_mode), bool(a.count_include_pad), "NHWC", "NHWC")


def _reduce(call, x):
    op = getattr(tvm_modules().relax.op, call.op.name.rsplit(".", 1)[1])
    if call.attrs.axis is None or not call.attrs.keepdims:
        return None
    return op(x, [AXIS[int(axis) % 4] for axis in call.attrs.axis], True)


def _prelu(call, x, slope):
    return tvm_modules().relax.op.nn.prelu(x, slope, 3) if int(call.attrs.axis) % 4 == 1 else None


def _softmax(call, x):
    op = getattr(tvm_modules().relax.op.nn, call.op.name.rsplit(".", 1)[1])
    return op(x, AXIS[int(call.attrs.axis) % 4])


def _pad(call, x):
    a = call.attrs
    if str(a.pad_mode) != "constant":
        return None
    pairs = [[int(a.pad_width[2 * i]), int(a.pad_width[2 * i + 1])] for i in range(4)]
    last = [value for axis in TO_LAST for value in pairs[axis]]
    return tvm_modules().relax.op.nn.pad(x, last, "constant", float(a.pad_value))


def _concat(call, x):
    return tvm_modules().relax.op.concat(x, AXIS[int(call.attrs.axis) % 4])


def _split(call, x):
    parts = call.attrs.indices_or_sections
    parts = [int(p) for p in parts] if hasattr(parts, "__len__") else int(parts)
    return tvm_modules().relax.op.split(x, parts, AXIS[int(call.attrs.axis) % 4])


def _resize(call, x, size):
    a = call.attrs
    if a.layout != "NCHW":
        return None
    how = (str(a.method), str(a.coordinate_transformation_mode), str(a.rounding_method))
    numbers = (float(a.cubic_alpha), int(a.cubic_exclude), float(a.extrapolation_value))
    roi = tuple(float(value) for value in a.roi)
    return tvm_modules().relax.op.image.resize2d(x, size, roi, "NHWC", *how, *numbers, a.out_dtype)


def _quantize(call, x, scale, zero):
    if any(extent != 1 for operand in (scale, zero) for extent in operand.ty.shape.values):
        return None
    op = getattr(tvm_modules().relax.op, call.op.name.rsplit(".", 1)[1])
    return op(x, scale, zero, axis=3, out_dtype=str(call.attrs.out_dtype))


QUANTISERS = ("relax.quantize", "relax.dequantize")
RAW = frozenset(("relax.nn.prelu", *QUANTISERS))  # operands after the first keep their form

RULES: dict[str, Callable] = {
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "relax.nn.prelu": _prelu,
    "relax.image.resize2d": _resize,
    "relax.quantize": _quantize,
    "relax.dequantize": _quantize,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.split": _split,
}
