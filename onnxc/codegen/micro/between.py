"""What stands between products of 8-bit networks, as calls of `runtime/c/micro.h`: quantisers, means, sums, softmax, layouts.

Each rule looks at one operator of the imported graph and at those that made its operands. What it takes in is left without
readers, and goes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from onnxc.codegen.match.products import shape_of
from onnxc.codegen.match.quantised import Affine, affine_of
from onnxc.codegen.micro.calls import Micro, Over, stub
from onnxc.codegen.micro.fixed import arithmetic, c_float, flip, inside, residual_ends, scales

FIRST, LAST = "nchw", "nhwc"
UP = 16  # ONNXC_UP of micro.h: a mean of few elements times a large scale has a factor that is too large as it is
Walk = Any  # lowering's state of a walk: get, constant, emit_micro, values, definitions, constants


def take(walk: Walk, var, call) -> bool:
    """Emits `call`, which makes `var`, as C code; False where no rule takes it."""
    rule = RULES.get(getattr(getattr(call, "op", None), "name", ""))
    made = rule(walk, var, call) if rule is not None else None
    if made is not None:
        walk.values[var] = made
    return made is not None


def _name(call) -> str:
    return getattr(getattr(call, "op", None), "name", "")


def _dequantised(walk: Walk, expr) -> tuple[Any, Affine] | None:
    """The integers that a tensor is made of, and what they stand for."""
    call = walk.definitions.get(expr)
    if _name(call) != "relax.dequantize":
        return None
    affine = affine_of(call, walk.constants)
    return None if affine is None else (call.args[0], affine)


def _quantize(walk: Walk, var, call):
    affine = affine_of(call, walk.constants)
    if affine is None or call.args[0] in walk.constants:
        return None
    source = walk.definitions.get(call.args[0])
    return (
        _mean(walk, source, affine)
        or _sum(walk, source, affine)
        or _from_floats(walk, call.args[0], affine, _turned(walk, var))
    )


def _turned(walk: Walk, var) -> bool:
    """Whether the model itself brings a tensor's axes into another order."""
    return any(_name(binding.value) == "relax.permute_dims" for binding in walk.readers.get(var, ()))


def _from_floats(walk: Walk, x, affine: Affine, turned: bool):
    """y = saturate(round(x / scale) + zero), channels last where x has four axes which the model leaves as they are."""
    shape, forms = shape_of(x), walk.values.get(x)
    if forms is None or str(x.ty.dtype) != "float32" or not prod(shape):
        return None
    spatial = not turned and len(shape) == 4 and shape[0] == 1 and shape[1] > 1 and shape[2] * shape[3] > 1
    if LAST in forms or not spatial:
        order = LAST if LAST in forms else FIRST
        value, extents, strides = walk.get(x, order), (1, 1, prod(shape)), (0, 0, 1)
        made = [shape[0], *shape[2:], shape[1]] if order == LAST else list(shape)
    else:
        _, c, h, w = shape
        value, order, made = walk.get(x, FIRST), LAST, [1, h, w, c]
        extents, strides = (h, w, c), (w, 1, h * w)
    numbers = [*extents, *strides, *(c_float(v) for v in (affine.scale, affine.low, affine.high)), affine.zero]
    call = Micro("onnxc_quantise", "onnxc_move_layer", _values(numbers), (0, 1))
    return {order: walk.emit_micro(call, [value], made, affine.kind)}


def _mean(walk: Walk, call, affine: Affine):
    """Q(AveragePool(D(x))) of windows that lie inside of x, and Q(mean over rows and columns)."""
    windows = _windows(call)
    source = _dequantised(walk, call.args[0]) if windows is not None else None
    if windows is None or source is None:
        return None
    x, read = source
    n, c, _, w = shape_of(x)
    (kh, kw), stride, oh, ow, keep = windows
    factor = np.float64(read.scale) / (float(affine.scale) * kh * kw * UP)
    zero, bias = inside(affine.zero, affine.kind), -UP * kh * kw * inside(read.zero, read.kind)
    table = scales(
        np.asarray([bias]), np.asarray([factor]), np.asarray([256 * UP * kh * kw]), zero, arithmetic(walk.target)
    )
    if n > 1 or table is None:
        return None
    numbers = [w, c, oh, ow, kh, kw, *stride, flip(read.kind), flip(affine.kind)]
    made = Micro("onnxc_mean", "onnxc_mean_layer", _values(numbers), (0, 1, 2))
    shape = [1, oh, ow, c] if keep else [1, c]
    result = walk.emit_micro(made, [walk.get(x, LAST), walk.constant(table)], shape, affine.kind)
    return {LAST if keep else FIRST: result}


def _windows(call) -> tuple | None:
    """Extents and strides of windows, output rows and columns, and whether there are four axes; of a mean of four axes."""
    if _name(call) == "relax.nn.avg_pool2d":
        a = call.attrs
        pads, dilation = ([int(v) for v in values] for values in (a.padding, a.dilation))
        size, stride = ([int(v) for v in values] for values in (a.pool_size, a.strides))
        _, _, h, w = shape_of(call.args[0])
        oh, ow = ((e - k) // s + 1 for e, k, s in zip((h, w), size, stride))
        if a.layout != "NCHW" or any(pads) or any(d != 1 for d in dilation) or a.ceil_mode:
            return None
        return size, stride, oh, ow, True
    if _name(call) == "relax.mean" and call.attrs.axis is not None and len(shape_of(call.args[0])) == 4:
        if sorted(int(axis) % 4 for axis in call.attrs.axis) == [2, 3]:
            return shape_of(call.args[0])[2:], (1, 1), 1, 1, bool(call.attrs.keepdims)
    return None


def _sum(walk: Walk, call, affine: Affine):
    """Q(D(a) + D(b)), with a ReLU between or without."""
    low = affine.low
    if _name(call) == "relax.nn.relu":
        call, low = walk.definitions.get(call.args[0]), 0
    if _name(call) != "relax.add":
        return None
    found = [_dequantised(walk, arg) for arg in call.args]
    shapes = [shape_of(arg) for arg in call.args]
    if found[0] is None or found[1] is None or shapes[0] != shapes[1] or not prod(shapes[0]):
        return None
    (a, a_read), (b, b_read) = found[0], found[1]
    if a_read.kind == "uint8":  # the first is read as int8
        (a, a_read), (b, b_read) = (b, b_read), (a, a_read)
    zero = inside(affine.zero, affine.kind)
    if a_read.kind == "uint8" or max(a_read.scale, b_read.scale) / affine.scale > 2**12:
        return None
    own = (-128, 127, a_read.zero, float(a_read.scale / affine.scale))
    other = (inside(b_read.zero, b_read.kind), float(b_read.scale / affine.scale), flip(b_read.kind))
    ends = residual_ends(own, other, (zero, max(-128, low + zero), min(127, affine.high + zero), flip(affine.kind)))
    order = LAST if any(LAST in walk.values[v] and FIRST not in walk.values[v] for v in (a, b)) else FIRST
    shape = [int(extent) for extent in walk.get(a, order).ty.shape.values]
    made = Micro(
        "onnxc_sum", "onnxc_sum_layer", f"{prod(shape)}, {ends.c(walk.target.fpu)}", (0, 1, 2), over=(Over(0), Over(1))
    )
    return {order: walk.emit_micro(made, [walk.get(a, order), walk.get(b, order)], shape, affine.kind)}


def _dequantize(walk: Walk, var, call):
    affine = affine_of(call, walk.constants)
    if affine is None or call.args[0] in walk.constants:
        return None
    order = LAST if LAST in walk.values[call.args[0]] else FIRST
    value = walk.get(call.args[0], order)
    shape = [int(extent) for extent in value.ty.shape.values]
    numbers = [prod(shape), c_float(affine.scale), inside(affine.zero, affine.kind), flip(affine.kind)]
    made = Micro("onnxc_dequantise", "onnxc_dequantise_layer", _values(numbers), (0, 1))
    return {order: walk.emit_micro(made, [value], shape, "float32")}


def _softmax(walk: Walk, var, call):
    """Softmax(D(x)) over the last axis."""
    source, shape = _dequantised(walk, call.args[0]), shape_of(call.args[0])
    if source is None or int(call.attrs.axis) % len(shape) != len(shape) - 1 or not prod(shape):
        return None
    x, read = source
    table = np.exp(-np.arange(256) * np.float64(read.scale)).astype(np.float32)
    numbers = [prod(shape[:-1]), shape[-1], flip(read.kind)]
    made = Micro("onnxc_softmax", "onnxc_softmax_layer", _values(numbers), (0, 1, 2))
    return {FIRST: walk.emit_micro(made, [walk.get(x, FIRST), walk.constant(table)], list(shape), "float32")}


def permute(walk: Walk, value, axes: tuple[int, ...]):
    """A tensor of 8 bits (1, .., .., ..) with other axes first, or None where that is no job for this code."""
    shape = [int(extent) for extent in value.ty.shape.values]
    if str(value.ty.dtype) not in ("int8", "uint8") or len(shape) != 4 or axes[0] != 0 or shape[0] != 1:
        return None
    strides = [prod(shape[axis + 1 :]) for axis in axes]
    made = [shape[axis] for axis in axes]
    numbers = [*made[1:], *strides[1:], c_float(1), c_float(0), c_float(0), 0]
    call = Micro("onnxc_permute", "onnxc_move_layer", _values(numbers), (0, 1))
    return walk.emit_micro(call, [value], made, str(value.ty.dtype))


def _values(numbers: list) -> str:
    return ", ".join(map(str, numbers))


RULES: dict[str, Callable] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.nn.softmax": _softmax,
}


def emit(name: str, call: Micro, operands: list, shape: list[int], kind: str):
    """The stub of a call on `operands`, Relax expressions, with a result of this shape and type."""
    rows = [
        (f"a{i}", tuple(int(extent) for extent in value.ty.shape.values), str(value.ty.dtype))
        for i, value in enumerate(operands)
    ]
    return stub(name, [*rows, ("y", tuple(shape), kind)], call)
