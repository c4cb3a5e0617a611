"""Statistics over axes: sums, means, extremes and their places, softmax."""

from __future__ import annotations

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, dtype_of, is_float, shape_of, within
from onnxc.codegen.operators.table import row

PLAIN = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
BEFORE = {"ReduceL1": "abs", "ReduceL2": "square", "ReduceSumSquare": "square", "ReduceLogSum": None}
AFTER = {"ReduceL2": "sqrt", "ReduceLogSum": "log"}
INPUT_SINCE = {"ReduceSum": 13}  # the others have their axes as an input from opset 18 on


def _axes(n: Node, rank: int) -> tuple[list[int], bool]:
    """The axes that go, and whether extents of 1 stay in their places."""
    axes = n.axes_of(1, "axes", None, INPUT_SINCE.get(n.op, 18))
    keep, empty = bool(n.attribute("keepdims", 1)), n.attribute("noop_with_empty_axes", 0)
    if not axes:
        axes = [] if empty else list(range(rank))
    return sorted(within(axis, rank, "axes") for axis in axes), keep


@row(*PLAIN)
def reduction(n: Node, x, *_):
    """The sum, mean, extreme or product over axes; the mean of integers is cut towards zero."""
    axes, keep = _axes(n, len(shape_of(x)))
    if not axes:
        return x
    if any(shape_of(x)[axis] == 0 for axis in axes):
        return _of_nothing(n, x, axes, keep)
    kind = dtype_of(x)
    if kind == "bool":
        return n.cast(n.do(PLAIN[n.op], n.cast(x, "int8"), axes, keep), "bool")
    if n.op == "ReduceMean" and not is_float(x):
        count = int(np.prod([shape_of(x)[axis] for axis in axes]))
        return n.do("divide", n.do("sum", x, axes, keep), n.like(count, x))
    return n.do(PLAIN[n.op], x, axes, keep)


def _of_nothing(n: Node, x, axes: list[int], keep: bool):
    """What a reduction over no elements gives: the neutral element."""
    kind = dtype_of(x)
    floats = kind.startswith("float")
    least, most = (-np.inf, np.inf) if floats else (0, 1)
    if not floats and kind != "bool":
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
    neutral = {"ReduceMax": least, "ReduceMin": most, "ReduceProd": 1, "ReduceMean": np.nan}
    neutral |= {"ReduceLogSum": -np.inf, "ReduceLogSumExp": -np.inf}
    shape = [1 if i in axes else e for i, e in enumerate(shape_of(x)) if keep or i not in axes]
    return n.const(np.full(shape, neutral.get(n.op, 0)), kind)


@row(*BEFORE)
def norm(n: Node, x, *_):
    """Sums of |x| or x^2, the root of the latter, and the logarithm of a sum."""
    axes, keep = _axes(n, len(shape_of(x)))
    if any(shape_of(x)[axis] == 0 for axis in axes):
        return _of_nothing(n, x, axes, keep)
    kind = dtype_of(x)
    if (before := BEFORE[n.op]) is not None:
        x = n.do(before, x)
    x = n.do("sum", x, axes, keep) if axes else x
    if n.op not in AFTER:
        return x
    return n.cast(n.do(AFTER[n.op], x if is_float(x) else n.cast(x, "float64")), kind)


@row("ReduceLogSumExp")
def log_sum_exp(n: Node, x, *_):
    """ln sum exp(x) = m + ln sum exp(x - m), m the maximum (0 where that is infinite)."""
    axes, keep = _axes(n, len(shape_of(x)))
    if any(shape_of(x)[axis] == 0 for axis in axes):
        return _of_nothing(n, x, axes, keep)
    kind = dtype_of(x)
    x = x if is_float(x) else n.cast(x, "float64")
    if not axes:
        return n.cast(x, kind)
    most = n.do("max", x, axes, True)
    finite = n.do("less", n.do("abs", most), n.like(np.inf, x))
    most = n.do("where", finite, most, n.like(0, x))
    total = n.do("log", n.do("sum", n.do("exp", n.do("subtract", x, most)), axes, True))
    shape = [1 if i in axes else e for i, e in enumerate(shape_of(x)) if keep or i not in axes]
    return n.cast(n.reshape(n.do("add", total, most), shape), kind)


@row("ArgMax", "ArgMin")
def place(n: Node, x):
    """Where the extreme stands along an axis; the first of equals, or the last with select_last_index."""
    shape = shape_of(x)
    axis, keep = n.axis("axis", 0, len(shape)), n.attribute("keepdims", 1)
    last, most = bool(n.attribute("select_last_index", 0)), n.op == "ArgMax"
    tirx = tvm.tirx

    def better(a, b):
        strict = a[1] > b[1] if most else a[1] < b[1]
        order = a[0] > b[0] if last else a[0] < b[0]
        first = tirx.any(strict, tirx.all(a[1] == b[1], order))
        return tirx.Select(first, a[0], b[0]), tirx.Select(first, a[1], b[1])

    def neutral(index, value):
        worst = tirx.min_value(value) if most else tirx.max_value(value)
        return tirx.const(-1 if last else 2**31 - 1, index), worst

    reducer = tvm.te.comm_reducer(better, neutral, name="place")

    def compute(t):
        run = tvm.te.reduce_axis((0, shape[axis]))

        def element(*index):
            at = (*index[:axis], run, *index[axis + 1 :]) if keep else (*index[:axis], run, *index[axis:])
            return reducer((tirx.Cast("int32", run), t(*at)), axis=run)

        result = [1 if i == axis else e for i, e in enumerate(shape) if keep or i != axis]
        found, _ = tvm.te.compute(result, element, name="place")
        return tvm.te.compute(result, lambda *i: tirx.Cast("int64", tirx.max(tirx.min(found(*i), shape[axis] - 1), 0)))

    return n.te(compute, n.cast(x, "int8") if dtype_of(x) == "bool" else x)


@row("Softmax", "LogSoftmax", "Hardmax", until=12)
def flat_softmax(n: Node, x):
    """Before opset 13: over all axes from `axis` on together."""
    shape = shape_of(x)
    axis = int(n.attribute("axis", 1))
    axis += len(shape) if axis < 0 else 0
    flat = n.reshape(x, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))
    if n.op == "Hardmax":
        return n.reshape(_hardmax(n, flat, 1), shape)
    if axis == len(shape) - 1:
        flat = x
    made = n.do("nn.softmax" if n.op == "Softmax" else "nn.log_softmax", flat, -1)
    return n.reshape(made, shape)


@row("Softmax", "LogSoftmax", since=13)
def softmax(n: Node, x):
    """exp(x - m) / sum exp(x - m) along one axis, or the logarithm of that."""
    axis = n.axis("axis", -1, len(shape_of(x)))
    return n.do("nn.softmax" if n.op == "Softmax" else "nn.log_softmax", x, axis)


@row("Hardmax", since=13)
def hardmax(n: Node, x):
    """1 at the first maximum along an axis, 0 elsewhere."""
    return _hardmax(n, x, n.axis("axis", -1, len(shape_of(x))))


def _hardmax(n: Node, x, axis: int):
    places = n.do("argmax", x, axis, True)

    def compute(t):
        shape = list(shape_of(x))
        kind = dtype_of(x)

        def element(*index):
            found = t(*index[:axis], 0, *index[axis + 1 :])
            one, zero = (tvm.tirx.const(v, kind) for v in (1, 0))
            return tvm.tirx.Select(found == tvm.tirx.Cast(t.dtype, index[axis]), one, zero)

        return tvm.te.compute(shape, element, name="hardmax")

    return n.te(compute, places)
