"""Channels-last: which operators run on (n, h, w, c) operands, and how their arguments change.

A rule takes a call on (n, c, h, w) operands and makes the same call on (n, h, w, c) ones; tensors of one and of three axes of
pixels, (n, w, c) and (n, d, h, w, c), alike. It answers None when that cannot be, and the caller converts back. What has no
rule stays as the model has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen.tvm_api import tvm_modules

RANKS = (3, 4, 5)
NAMES = {3: "NWC", 4: "NHWC", 5: "NDHWC"}
FIRST_NAMES = {3: "NCW", 4: "NCHW", 5: "NCDHW"}

UNARY = """abs acos acosh asin asinh atan atanh ceil clip cos cosh erf exp floor log negative nn.gelu nn.gelu_tanh
nn.leakyrelu nn.relu nn.silu nn.softplus round rsqrt sigmoid sign sin sinh sqrt square tan tanh astype logical_not
bitwise_not isnan isinf isfinite nn.relu6 nn.selu"""
BINARY = """add subtract multiply divide power maximum minimum mod floor_mod floor_divide equal not_equal less
less_equal greater greater_equal logical_and logical_or logical_xor where"""
ELEMENTWISE = frozenset("relax." + name for name in (UNARY + " " + BINARY).split())
POOLS = tuple(f"relax.nn.{how}_pool{d}d" for how in ("max", "avg") for d in (1, 2, 3))
REDUCTIONS = frozenset("relax." + name for name in ("mean", "sum", "max", "min", "prod"))


def to_last(rank: int) -> tuple[int, ...]:
    """The transposition of (n, c, h, w) to (n, h, w, c)."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The transposition of (n, h, w, c) to (n, c, h, w)."""
    return (0, rank - 1, *range(1, rank - 1))


def moved(axis: int, rank: int) -> int:
    """Where an axis of (n, c, h, w) stands in (n, h, w, c)."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def constant_last(array: np.ndarray, rank: int) -> np.ndarray:
    """A constant that broadcasts to (n, c, h, w) -> one that broadcasts to (n, h, w, c). Scalars stay."""
    if array.ndim == 0:
        return array
    return array.reshape((1,) * (rank - array.ndim) + array.shape).transpose(to_last(rank))


def _rank(x) -> int:
    return int((x.fields[0] if hasattr(x, "fields") else x).ty.ndim)


def _pool(call, x):
    op = getattr(tvm_modules().relax.op.nn, call.op.name.rsplit(".", 1)[1])
    a, rank = call.attrs, _rank(x)
    if a.layout != FIRST_NAMES[rank]:
        return None
    ints = [[int(v) for v in part] for part in (a.pool_size, a.strides, a.padding, a.dilation)]
    return op(x, *ints, bool(a.ceil_mode), bool(a.count_include_pad), NAMES[rank], NAMES[rank])


def _reduce(call, x):
    op = getattr(tvm_modules().relax.op, call.op.name.rsplit(".", 1)[1])
    if call.attrs.axis is None or not call.attrs.keepdims:
        return None
    return op(x, [moved(int(axis), _rank(x)) for axis in call.attrs.axis], True)


def _prelu(call, x, slope):
    rank = _rank(x)
    return tvm_modules().relax.op.nn.prelu(x, slope, rank - 1) if int(call.attrs.axis) % rank == 1 else None


def _softmax(call, x):
    op = getattr(tvm_modules().relax.op.nn, call.op.name.rsplit(".", 1)[1])
    return op(x, moved(int(call.attrs.axis), _rank(x)))


def _pad(call, x):
    a = call.attrs
    if str(a.pad_mode) != "constant":
        return None
    pairs = [[int(a.pad_width[2 * i]), int(a.pad_width[2 * i + 1])] for i in range(_rank(x))]
    last = [value for axis in to_last(_rank(x)) for value in pairs[axis]]
    return tvm_modules().relax.op.nn.pad(x, last, "constant", float(a.pad_value))


def _concat(call, x):
    return tvm_modules().relax.op.concat(x, moved(int(call.attrs.axis), _rank(x)))


def _split(call, x):
    parts = call.attrs.indices_or_sections
    parts = [int(p) for p in parts] if hasattr(parts, "__len__") else int(parts)
    return tvm_modules().relax.op.split(x, parts, moved(int(call.attrs.axis), _rank(x)))


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
    return op(x, scale, zero, axis=_rank(x) - 1, out_dtype=str(call.attrs.out_dtype))


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
