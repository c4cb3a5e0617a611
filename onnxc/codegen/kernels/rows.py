"""Statistics of rows that lie side by side in memory, vectorised along them: sums, extremes, softmax, LayerNormalization.

    sum(x (r, 197), axis 1)   ->   for each row: 4 vectors of partial sums, added at its end

A row is read in vectors whatever its length; partial results of several vectors hide the latency of one. Their number depends
on the target's vectors alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from onnxc.codegen.kernels.vectors import flat, function, shared, span, splat, sweep
from onnxc.codegen.tvm_api import script_builder, tvm_modules

PARTS = 4  # vectors of partial results


def _tirx():
    return tvm_modules().tirx


def fold(x, start, length: int, lanes: int, join: Callable, neutral, of: Callable | None = None):
    """One number: `join` over of(elements) of `length` elements of x from `start` on; `of` is of a vector."""
    T, _ = script_builder()
    of = of or (lambda value, lanes: value)
    acc = T.alloc_buffer((PARTS * lanes,), x.dtype)
    whole = length // (lanes * PARTS)
    for part in range(PARTS if whole else 1):
        T.buffer_store(acc, splat(neutral, lanes), [span(part * lanes, lanes)])

    def add(part: int, place, width: int) -> None:
        here = span(part * lanes, width)
        T.buffer_store(acc, join(acc[here], of(x[tuple(flat(x, span(start + place, width)))], width)), [here])

    if whole:
        with T.serial(0, whole) as turn:
            for part in range(PARTS):
                add(part, (turn * PARTS + part) * lanes, lanes)
    done = whole * lanes * PARTS
    sweep(length - done, lanes, lambda place, width: add(0, done + place, width))
    width = PARTS * lanes if whole else lanes
    while width > 1:
        width //= 2
        low, high = span(0, width), span(width, width)
        T.buffer_store(acc, join(acc[low], acc[high]), [low])
    return T.bind(acc[0])


def trailing(call) -> tuple[int, int] | None:
    """(rows, length) of a reduction of float32 over the last axes, None for others and for rows too short for a vector."""
    shape = [int(extent) for extent in call.args[0].ty.shape.values]
    axes = call.attrs.axis
    gone = sorted(int(a) % len(shape) for a in axes) if axes is not None else list(range(len(shape)))
    if str(call.args[0].ty.dtype) != "float32" or 0 in shape:
        return None
    while gone and gone[0] > 0 and shape[gone[0] - 1] == 1 and gone[0] - 1 not in gone:
        gone.insert(0, gone[0] - 1)
    tail = next((i for i in range(len(shape), -1, -1) if i and i - 1 not in gone and shape[i - 1] != 1), 0)
    if any(axis < tail and shape[axis] != 1 for axis in gone):
        return None
    return prod(shape[:tail]), prod(shape[tail:])


def reduction(join: Callable, neutral: float, lanes: int, mean: bool, instead: Callable, builder, call):
    """sum, mean, max or min over the last axes; `instead` legalises what is no such."""
    rows = trailing(call)
    if rows is None or rows[1] < 2 * lanes or lanes < 2:
        return instead(builder, call)
    count, length = rows
    tirx = _tirx()
    T, _ = script_builder()

    def body(x, y):
        with shared(count, count * length) as row:
            found = fold(x, row * length, length, lanes, join, tirx.const(neutral, "float32"))
            if mean:
                found = found * tirx.const(1 / length, "float32")
            T.buffer_store(y, found, flat(y, row))

    shape = [int(extent) for extent in call.ty.shape.values]
    return function(builder, [call.args[0]], (shape, "float32"), call.op.name.rsplit(".", 1)[1], body)


def softmax(lanes: int, logarithm: bool, builder, call):
    """exp(x - m) / sum exp(x - m) over the last axis, or x - m - log sum exp(x - m)."""
    shape = [int(extent) for extent in call.args[0].ty.shape.values]
    axis = int(call.attrs.axis) % len(shape)
    length, count = shape[axis], prod(shape[:axis])
    if str(call.args[0].ty.dtype) != "float32" or prod(shape[axis + 1 :]) != 1 or 0 in shape or length < 4 or lanes < 2:
        return call.op.get_attr("FLegalize")(builder, call)
    tirx = _tirx()
    T, _ = script_builder()

    def body(x, y):
        with shared(count, count * length) as row:
            start = row * length
            most = fold(x, start, length, lanes, tirx.max, tirx.const(float("-inf"), "float32"))

            def less(place, width):
                return x[tuple(flat(x, span(start + place, width)))] - splat(most, width)

            if logarithm:
                total = fold(
                    x, start, length, lanes, lambda a, b: a + b, tirx.const(0, "float32"),
                    lambda value, width: tirx.exp(value - splat(most, width)),
                )  # fmt: skip
                shift = T.bind(tirx.log(total))
                sweep(
                    length, lanes,
                    lambda place, width: T.buffer_store(
                        y, less(place, width) - splat(shift, width), flat(y, span(start + place, width))
                    ),
                )  # fmt: skip
                return
            sweep(
                length, lanes,
                lambda place, width: T.buffer_store(y, tirx.exp(less(place, width)), flat(y, span(start + place, width))),
            )  # fmt: skip
            total = fold(y, start, length, lanes, lambda a, b: a + b, tirx.const(0, "float32"))
            factor = T.bind(tirx.const(1, "float32") / total)

            def scaled(place, width) -> None:
                here = flat(y, span(start + place, width))
                T.buffer_store(y, y[tuple(here)] * splat(factor, width), here)

            sweep(length, lanes, scaled)

    return function(builder, [call.args[0]], (shape, "float32"), "softmax", body)


def layer_norm(lanes: int, builder, call):
    """(x - mean) / sqrt(variance + epsilon) scale + shift over the last axes, the variance as the mean of squares about the mean."""
    x, scale, shift = call.args
    shape = [int(extent) for extent in x.ty.shape.values]
    axes = sorted(int(a) % len(shape) for a in call.attrs.axes)
    length, count = prod(shape[axes[0] :]), prod(shape[: axes[0]])
    operands = all(prod(int(e) for e in a.ty.shape.values) == length for a in (scale, shift))
    plain = axes == list(range(axes[0], len(shape))) and str(x.ty.dtype) == "float32" and 0 not in shape
    if not plain or not operands or length < 4 or lanes < 2:
        return call.op.get_attr("FLegalize")(builder, call)
    tirx = _tirx()
    T, _ = script_builder()
    epsilon = float(call.attrs.epsilon)

    def body(x, scale, shift, y):
        with shared(count, count * length) as row:
            start = row * length
            zero, share = tirx.const(0, "float32"), tirx.const(1 / length, "float32")
            mean = T.bind(fold(x, start, length, lanes, lambda a, b: a + b, zero) * share)

            def squared(value, width):
                apart = value - splat(mean, width)
                return apart * apart

            total = fold(x, start, length, lanes, lambda a, b: a + b, zero, squared)
            factor = T.bind(tirx.const(1, "float32") / tirx.sqrt(total * share + tirx.const(epsilon, "float32")))

            def one(place, width) -> None:
                here, own = flat(x, span(start + place, width)), span(place, width)
                value = (x[tuple(here)] - splat(mean, width)) * splat(factor, width)
                value = value * scale[tuple(flat(scale, own))] + shift[tuple(flat(shift, own))]
                T.buffer_store(y, value, flat(y, span(start + place, width)))

            sweep(length, lanes, one)

    return function(builder, [x, scale, shift], (shape, "float32"), "layer_norm", body)
