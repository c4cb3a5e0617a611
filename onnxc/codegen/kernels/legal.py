"""How Relax operators become loops where TVM's own way is not ONNX's.

relu, clip, sign, maximum, minimum, max, min ->   NaN stays NaN
x * 0 of floats                             ->   NaN where x is none or infinite
a / b, a mod b of integers                  ->   towards zero; 0 where b is 0, as no trap may end the program
quantize                                    ->   rounding.py
sum, softmax, layer_norm over the last axes ->   rows.py
permute_dims, pools of large windows        ->   transpose.py, windows.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from onnxc.codegen.kernels import rounding, rows, transpose, windows


def larger(a, b):
    """The larger of two; where neither is as large as the other one is NaN, and so is the sum."""
    from tvm import tirx

    if "float" not in str(a.ty.dtype):
        return tirx.max(a, b)
    return tirx.Select(a > b, a, tirx.Select(b >= a, b, a + b))


def smaller(a, b):
    """The smaller of two, NaN where one is."""
    from tvm import tirx

    if "float" not in str(a.ty.dtype):
        return tirx.min(a, b)
    return tirx.Select(a < b, a, tirx.Select(b <= a, b, a + b))


def _constant(expr):
    """A scalar constant as a TIR number, anything else as it is."""
    from tvm import tirx
    from tvm.ir import GenericConst

    if isinstance(expr, GenericConst) and not expr.value.numpy().ndim:
        return tirx.const(expr.value.numpy().item(), str(expr.ty.dtype))
    return expr


def _elements(function, name: str, builder, call):
    """`function` of one element of each operand, broadcast."""
    import numpy as np
    from tvm import te
    from tvm.tirx import FloatImm, IntImm

    def compute(*operands):
        shapes = [() if isinstance(t, FloatImm | IntImm) else tuple(int(e) for e in t.shape) for t in operands]

        def element(*index):
            picked = []
            for operand, own in zip(operands, shapes, strict=True):
                if isinstance(operand, FloatImm | IntImm):
                    picked.append(operand)
                    continue
                tail = index[len(index) - len(own) :]
                picked.append(operand(*(0 if e == 1 else i for i, e in zip(tail, own, strict=True))))
            return function(*picked)

        return te.compute(np.broadcast_shapes(*shapes), element, name=name)

    args = [_constant(arg) for arg in call.args]
    if all(isinstance(arg, FloatImm | IntImm) for arg in args):
        args[0] = call.args[0]
    return builder.call_te(compute, *args, primfunc_name_hint=name)


def _relu(x):
    """Written so that the hardware's maximum, whose second operand wins against NaN, is the instruction."""
    from tvm import tirx

    zero = tirx.const(0, x.ty.dtype)
    return tirx.Select(x < zero, zero, x)


def _sign(x):
    """-1, 0, 1, or NaN: what is neither above nor below 0 is its own sign."""
    from tvm import tirx

    kind = x.ty.dtype
    below = x if "uint" in str(kind) else tirx.Select(x < tirx.const(0, kind), tirx.const(-1, kind), x)
    return tirx.Select(x > tirx.const(0, kind), tirx.const(1, kind), below)


def _clip(builder, call):
    from tvm import tirx

    kind = str(call.args[0].ty.dtype)
    low, high = (tirx.const(_number(arg), kind) for arg in call.args[1:3])

    def bounded(x):
        floor = tirx.Select(x < low, low, x)
        return tirx.Select(floor > high, high, floor)

    return _elements(bounded, "clip", builder, _Operands(call.args[:1]))


class _Operands:
    """Stands for a call of which only some operands are tensors."""

    def __init__(self, args):
        self.args = list(args)


def _number(arg):
    value = arg.value if hasattr(arg, "value") else arg
    return value.value if hasattr(value, "value") else value


def _multiply(builder, call):
    """By a constant 0 that is a quotient by infinity, to the bit: TVM takes 0 times NaN for 0."""
    from tvm import tirx

    kind = str(call.args[0].ty.dtype)
    zeros = [isinstance(a, tirx.FloatImm) and a.value == 0 for a in map(_constant, call.args)]
    if "float" not in kind or sum(zeros) != 1:
        return call.op.get_attr("FLegalize")(builder, call)
    at = zeros.index(True)
    infinite = tirx.const(math.copysign(math.inf, _constant(call.args[at]).value), kind)
    return _elements(lambda x: x / infinite, "multiply", builder, _Operands([call.args[1 - at]]))


def _divide(builder, call):
    from tvm import tirx

    kind = str(call.args[0].ty.dtype)
    divisor = _constant(call.args[1])
    if "float" in kind and isinstance(divisor, tirx.FloatImm) and divisor.value == 0:
        by_zero = rounding.division(divisor.value, kind)
        return _elements(by_zero, "divide", builder, _Operands(call.args[:1]))
    if "float" in kind:
        return call.op.get_attr("FLegalize")(builder, call)

    def quotient(a, b):
        one, zero = tirx.const(1, kind), tirx.const(0, kind)
        trap = b == zero
        if kind.startswith("int"):
            trap = tirx.any(trap, b == tirx.const(-1, kind))
        whole = tirx.truncdiv(a, tirx.Select(trap, one, b))
        return tirx.Select(b == zero, zero, whole if kind.startswith("uint") else tirx.Select(trap, zero - a, whole))

    return _elements(quotient, "divide", builder, call)


def _remainder(floor: bool, builder, call):
    """The remainder with the sign of the dividend, or with `floor` that of the divisor; of integers 0 where the divisor is 0."""
    from tvm import tirx

    kind = str(call.args[0].ty.dtype)
    if "float" in kind:
        return call.op.get_attr("FLegalize")(builder, call)

    def rest(a, b):
        one, zero = tirx.const(1, kind), tirx.const(0, kind)
        idle = b == zero
        if kind.startswith("int"):  # of -1 nothing is left, but the quotient of the least integer is none
            idle = tirx.any(idle, b == tirx.const(-1, kind))
        left = tirx.truncmod(a, tirx.Select(idle, one, b))
        if floor and kind.startswith("int"):
            apart = tirx.any(tirx.all(left < zero, b > zero), tirx.all(left > zero, b < zero))
            left = left + tirx.Select(apart, b, zero)
        return tirx.Select(idle, zero, left)

    return _elements(rest, "remainder", builder, call)


def _extreme(which, builder, call):
    """max and min over axes, NaN where one is among them."""
    from tvm import te, tirx

    x, axes, keep = call.args[0], call.attrs.axis, bool(call.attrs.keepdims)
    shape = [int(extent) for extent in x.ty.shape.values]
    kind = str(x.ty.dtype)
    if "float" not in kind:
        return call.op.get_attr("FLegalize")(builder, call)
    gone = sorted(int(a) % len(shape) for a in axes) if axes is not None else list(range(len(shape)))
    worst = tirx.const(float("-inf") if which is larger else float("inf"), kind)
    reducer = te.comm_reducer(which, lambda _: worst, name="extreme")

    def compute(t):
        runs = {axis: te.reduce_axis((0, shape[axis])) for axis in gone}

        def element(*index):
            left = iter(index)
            at = []
            for axis in range(len(shape)):
                at.append(runs[axis] if axis in runs else next(left))
                if axis in runs and keep:
                    next(left)
            return reducer(t[tuple(at)], axis=list(runs.values()))

        result = [1 if axis in runs else extent for axis, extent in enumerate(shape) if keep or axis not in runs]
        return te.compute(result, element, name="extreme")

    return builder.call_te(compute, x, primfunc_name_hint=call.op.name.rsplit(".", 1)[1])


def rules(target) -> dict:
    """The rules for a target: what has a kernel on rows of memory gets it, for the target's vectors."""
    lanes = target.lanes
    default, sums = _default, (lambda a, b: a + b)
    return RULES | {
        "relax.sum": partial(rows.reduction, sums, 0.0, lanes, False, default),
        "relax.mean": partial(rows.reduction, sums, 0.0, lanes, True, default),
        "relax.max": partial(rows.reduction, larger, float("-inf"), lanes, False, RULES["relax.max"]),
        "relax.min": partial(rows.reduction, smaller, float("inf"), lanes, False, RULES["relax.min"]),
        "relax.nn.softmax": partial(rows.softmax, lanes, False),
        "relax.nn.log_softmax": partial(rows.softmax, lanes, True),
        "relax.nn.layer_norm": partial(rows.layer_norm, lanes),
        "relax.permute_dims": partial(transpose.legalise, lanes),
        **{
            f"relax.nn.{how}_pool{d}d": partial(windows.legalise, lanes, default)
            for how in ("max", "avg")
            for d in (1, 2, 3)
        },
    }


def _default(builder, call):
    return call.op.get_attr("FLegalize")(builder, call)


RULES: dict[str, Callable] = {
    "relax.quantize": rounding.legalise,
    "relax.nn.relu": partial(_elements, _relu, "relu"),
    "relax.sign": partial(_elements, _sign, "sign"),
    "relax.maximum": partial(_elements, larger, "maximum"),
    "relax.minimum": partial(_elements, smaller, "minimum"),
    "relax.clip": _clip,
    "relax.multiply": _multiply,
    "relax.divide": _divide,
    "relax.mod": partial(_remainder, False),
    "relax.floor_mod": partial(_remainder, True),
    "relax.max": partial(_extreme, larger),
    "relax.min": partial(_extreme, smaller),
}
