"""Operators on tensors whose lengths data decide: which make them, and what each makes of how much counts.

Rules say for each operator what counts of its result; where elements that do not count would be summed, picked by or written to, they
are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from onnxc.codegen.prepare.extents import Extent, Extents, Result, Sized, rule
from onnxc.codegen.prepare.numbers import Num

ALONE = (
    *("Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
    *("Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
)  # fmt: skip
TOGETHER = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu"),
    *("Pow", "Sub", "Sum", "Where", "Xor"),
)  # fmt: skip
REDUCED = {
    "ReduceSum": 0.0, "ReduceMax": -np.inf, "ReduceMin": np.inf, "ReduceProd": 1.0, "ReduceSumSquare": 0.0, "ReduceL1": 0.0,
    "ReduceL2": 0.0,
}  # fmt: skip
"""Reductions, and what an element that does not count is to be."""


def _sized(n: Sized) -> bool:
    """Whether the node reads a tensor whose length data decide."""
    return any(name in n.walk.actual for name in n.node.input)


def _only(n: Sized, *places: int) -> None:
    """Raises Unsupported where another input than these has a length that data decide."""
    for i, name in enumerate(n.node.input):
        if i not in places and name in n.walk.actual:
            raise n.refusal("an operand has a length that data decide", tensor=name)


def _still(n: Sized, name: str, axis: int) -> None:
    """Raises Unsupported where data decide how long this axis is."""
    if n.extents(name)[axis] is not None:
        raise n.refusal(f"data decide how long axis {axis} of its operand is", tensor=name)


def _axes(n: Sized, place: int, since: int) -> list[int] | None:
    """The axes that are an attribute before opset `since` and an input from then on, as they stand."""
    if n.walk.opset < since:
        found = n.attribute("axes")
        return None if found is None else list(found)
    return None if n.input(place) is None else n.whole(n.input(place), "axes")


@rule(*ALONE)
def _alone(n: Sized) -> Result:
    if not _sized(n):
        return None
    _only(n, 0)
    if n.node.op_type == "BatchNormalization":
        _still(n, n.node.input[0], 1)
    return n.node_as_it_is([n.extents(n.needs(0))])


def together(n: Sized, names: Sequence[str]) -> tuple[list[str], Extents]:
    """Operands that broadcast to one another, cut to bounds that agree, and what counts of the result."""
    rank = max(len(n.shape(name)) for name in names)
    out: list[Extent | None] = []
    for axis in range(rank):
        found: dict[Extent | int, None] = {}
        for name in names:
            place = axis - rank + len(n.shape(name))
            if place >= 0:
                extent = n.extents(name)[place]
                found[n.shape(name)[place] if extent is None else extent] = None
        found.pop(1, None)
        if len(found) > 1 and any(isinstance(one, Extent) for one in found):
            raise n.refusal("its operands have lengths that may differ", tensor=names[0])
        one = next(iter(found), None)
        out.append(one if isinstance(one, Extent) else None)
    made = []
    for name in names:
        for axis, extent in enumerate(out):
            place = axis - rank + len(n.shape(name))
            if extent is not None and place >= 0 and n.extents(name)[place] is not None:
                least = min(n.shape(b)[axis - rank + len(n.shape(b))] for b in names
                            if axis - rank + len(n.shape(b)) >= 0 and n.extents(b)[axis - rank + len(n.shape(b))] is not None)  # fmt: skip
                name = n.mark(n.cut(name, place, 0, least), n.extents(name))
        made.append(name)
    return made, tuple(out)


@rule(*TOGETHER)
def _together(n: Sized) -> Result:
    if not _sized(n):
        return None
    names, extents = together(n, list(n.node.input))
    return n.node_as_it_is([extents], names)


@rule("LayerNormalization", "RMSNormalization")
def _normalised(n: Sized) -> Result:
    if not _sized(n):
        return None
    _only(n, 0)
    x = n.needs(0)
    for axis in range(n.attribute("axis", -1) % len(n.shape(x)), len(n.shape(x))):
        _still(n, x, axis)
    return n.node_as_it_is([n.extents(x)] + [()] * (len(n.node.output) - 1))


@rule("Softmax", "LogSoftmax", "ArgMax", "ArgMin")
def _softmax(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, rows = n.needs(0), n.node.op_type in ("Softmax", "LogSoftmax")
    shape, extents = n.shape(x), list(n.extents(x))
    axis = n.attribute("axis", (-1 if n.walk.opset >= 13 else 1) if rows else 0) % len(shape)
    if rows and n.walk.opset < 13 and axis != len(shape) - 1:
        raise n.refusal(
            "before opset 13 it runs over several axes, one of which has a length that data decide", tensor=x
        )
    fill = np.inf if n.node.op_type == "ArgMin" else -np.inf
    if extents[axis] is not None and not rows and n.whole_numbers(x):
        raise n.refusal("the extreme of whole numbers along an axis whose length data decide", tensor=x)
    if extents[axis] is not None and not rows and n.attribute("select_last_index", 0):
        raise n.refusal("the last of equal elements, along an axis whose length data decide", tensor=x)
    given = n.masked(x, fill, [axis])
    if not rows:
        extents = [e for i, e in enumerate(extents) if i != axis] if not n.attribute("keepdims", 1) else extents
        extents = [None if i == axis and n.attribute("keepdims", 1) else e for i, e in enumerate(extents)]
    return n.node_as_it_is([extents], [given])


@rule(*REDUCED, "ReduceMean")
def _reduced(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, op = n.needs(0), n.node.op_type
    shape, extents = n.shape(x), n.extents(x)
    axes = _axes(n, 1, 13 if op == "ReduceSum" else 18)
    if not axes:
        if n.attribute("noop_with_empty_axes", 0):
            return n.node_as_it_is([extents])
        axes = list(range(len(shape)))
    axes = [axis % len(shape) for axis in axes]
    keep = n.attribute("keepdims", 1)
    left = [None if i in axes else e for i, e in enumerate(extents) if keep or i not in axes]
    moving = [i for i in axes if extents[i] is not None]
    if op == "ReduceMean" and moving:
        total = n.product([shape[i] for i in axes], [extents[i] for i in axes]).scalar
        total = n.larger(total, n.constant(1, np.int64))  # the mean of nothing is 0, as in ONNX Runtime
        kept = list(n.node.input)
        kept[0] = n.masked(x, 0, moving)
        own = {} if n.walk.opset >= 13 else {"axes": axes}
        given = [n.constant(axes, np.int64)] if n.walk.opset >= 13 else []
        added = n("ReduceSum", kept[0], *given, keepdims=keep, **own)
        return [n.mark(n("Div", added, n.cast(total, n.walk.element(x))), left)]
    if moving and op != "ReduceSum" and not np.isfinite(REDUCED[op]) and n.whole_numbers(x):
        raise n.refusal("the extreme of whole numbers along an axis whose length data decide", tensor=x)
    inputs = list(n.node.input)
    inputs[0] = n.masked(x, REDUCED.get(op, 0.0), moving) if moving else x
    return n.node_as_it_is([left], inputs)


@rule("Transpose")
def _transpose(n: Sized) -> Result:
    if not _sized(n):
        return None
    extents = n.extents(n.needs(0))
    perm = n.attribute("perm") or list(range(len(extents)))[::-1]
    return n.node_as_it_is([[extents[axis] for axis in perm]])


@rule("Unsqueeze", "Squeeze")
def _squeeze(n: Sized) -> Result:
    if not _sized(n):
        return None
    x = n.needs(0)
    extents, axes = list(n.extents(x)), _axes(n, 1, 13)
    if n.node.op_type == "Unsqueeze":
        rank = len(extents) + len(axes or ())
        for axis in sorted(axis % rank for axis in axes or ()):
            extents.insert(axis, None)
    else:
        if axes is None:
            if any(extent is not None and bound < 2 for bound, extent in zip(n.shape(x), extents)):
                raise n.refusal("an axis may or may not have an extent of 1", tensor=x)
            axes = [axis for axis, bound in enumerate(n.shape(x)) if bound == 1]
        gone = {axis % len(extents) for axis in axes}
        for axis in gone:
            _still(n, x, axis)
        extents = [extent for axis, extent in enumerate(extents) if axis not in gone]
    return n.node_as_it_is([extents])


@rule("Concat")
def _concat(n: Sized) -> Result:
    if not _sized(n):
        return None
    names = list(n.node.input)
    rank = len(n.shape(names[0]))
    axis = n.attribute("axis", 0) % rank
    out: list[Extent | None] = []
    for place in range(rank):
        found = {n.shape(name)[place] if (e := n.extents(name)[place]) is None else e for name in names}
        moving = [one for one in found if isinstance(one, Extent)]
        if moving and (place == axis or len(found) > 1 or len({n.shape(name)[place] for name in names}) > 1):
            raise n.refusal(
                "it joins tensors whose lengths data decide, along that axis or beside others", tensor=names[0]
            )
        out.append(moving[0] if moving else None)
    return n.node_as_it_is([out])


@rule("Split")
def _split(n: Sized) -> Result:
    if not _sized(n):
        return None
    x = n.needs(0)
    _still(n, x, n.attribute("axis", 0))
    return n.node_as_it_is([n.extents(x)] * len(n.node.output))


@rule("Gemm")
def _gemm(n: Sized) -> Result:
    if not _sized(n):
        return None
    _only(n, 0)
    a = n.extents(n.needs(0))
    rows = 1 if n.attribute("transA", 0) else 0
    _still(n, n.needs(0), 1 - rows)
    return n.node_as_it_is([[a[rows], None]])


@rule("MatMul")
def _matmul(n: Sized) -> Result:
    if not _sized(n):
        return None
    a, b = n.needs(0), n.needs(1)
    ea, eb = list(n.extents(a)), list(n.extents(b))
    inner = (len(ea) - 1, max(len(eb) - 2, 0))
    if len(ea) < 2 or len(eb) < 2 or any(e is not None for e in (*ea[:-2], *eb[:-2])):
        raise n.refusal("its batches or its vector have a length that data decide", tensor=a)
    if ea[inner[0]] != eb[inner[1]]:
        raise n.refusal("it sums along axes whose lengths may differ", tensor=a)
    left = [None] * (max(len(ea), len(eb)) - 2)
    return n.node_as_it_is([[*left, ea[-2], eb[-1]]], [n.masked(a, 0, [inner[0]]), n.masked(b, 0, [inner[1]])])


@rule("Shape")
def _shape(n: Sized) -> Result:
    if not _sized(n):
        return None
    x = n.needs(0)
    rank = len(n.shape(x))
    start, end = n.attribute("start", 0), n.attribute("end", rank)
    return [n.vector(n.shape(x)[start:end], n.extents(x)[start:end])]


@rule("Size")
def _size(n: Sized) -> Result:
    return [n.product(n.shape(n.needs(0)), n.extents(n.needs(0))).scalar] if _sized(n) else None


@rule("Slice")
def _slice(n: Sized) -> Result:
    if n.walk.opset < 10 or n.walk.shape(n.needs(0)) is None:
        return None
    computed = [name for name in n.node.input[1:] if name and name not in n.walk.constants]
    if not computed and not _sized(n):
        return None
    x = n.needs(0)
    starts, ends = (n.nums(n.needs(i)) for i in (1, 2))
    if starts is None or ends is None:
        return None
    axes = n.whole(n.input(3), "axes") if n.input(3) else list(range(len(starts)))
    steps = n.whole(n.input(4), "steps") if n.input(4) else [1] * len(axes)
    for axis, start, end, step in zip(axes, starts, ends, steps):
        x = _sliced(n, x, axis % len(n.shape(x)), start, end, step)
    return [x]


def _sliced(n: Sized, x: str, axis: int, start: Num, end: Num, step: int) -> str:
    """x[..., start:end:step, ...] on one axis, whose bounds may be computed."""
    extents, numbers, size = list(n.extents(x)), n.walk.numbers, n.shape(x)[axis]
    known, actual = not start.symbol and not end.symbol, extents[axis]
    if known and actual is None:
        whole = [n.constant([v], np.int64) for v in (start.offset, end.offset, axis, step)]
        return n.mark(n("Slice", x, *whole), extents)
    if step != 1:
        raise n.refusal("steps along an axis whose length or whose bounds are computed", tensor=x)
    if actual is not None:
        if start != Num("", 0) or (end != actual.num and end.offset < size):
            raise n.refusal("it cuts an axis whose length data decide", tensor=x)
        return x
    if start.symbol == end.symbol and numbers.low(start) >= 0 and numbers.high(end) <= size:
        count = max(end.offset - start.offset, 0)  # as many elements each time, from a place that is computed
        at = n("Add", n.constant(np.arange(count), np.int64), n.scalar(start))
        return n.mark(n("Gather", x, at, axis=axis), extents)
    first, last = _place(n, start, size), _place(n, end, size)
    most = min(size, max(numbers.high(end) if numbers.low(end) >= 0 else size, 0))
    if start == Num("", 0):
        extents[axis] = n.counted(last, most)
        return n.mark(n.cut(x, axis, 0, most), extents)
    length = n.larger(n("Sub", last, first), n.constant(0, np.int64))
    at = n.smaller(n("Add", n.constant(np.arange(size), np.int64), first), n.constant(max(size - 1, 0), np.int64))
    extents[axis] = n.counted(length, size)
    return n.mark(n("Gather", x, at, axis=axis), extents)


def _place(n: Sized, v: Num, size: int) -> str:
    """A bound of a slice counted from the front and kept within the axis."""
    one, none, most = n.scalar(v), n.constant(0, np.int64), n.constant(size, np.int64)
    if n.walk.numbers.low(v) < 0:
        one = n.larger(n("Where", n("Less", one, none), n("Add", one, most), one), none)
    return n.smaller(one, most)


@rule("Range")
def _range(n: Sized) -> Result:
    found = [n.nums(n.needs(i)) for i in range(3)]
    kind = n.walk.element(n.needs(0))
    if kind not in (TensorProto.INT64, TensorProto.INT32) or any(one is None or len(one) != 1 for one in found):
        return None
    start, end, step = (one[0] for one in found if one)
    if (not start.symbol and not end.symbol) or step.symbol or not step.offset:
        return None
    numbers, jump = n.walk.numbers, step.offset
    if start.symbol == end.symbol:
        steps = np.arange(0, end.offset - start.offset, jump)
        return [n.cast(n("Add", n.constant(steps, np.int64), n.scalar(start)), kind)]
    if jump != 1:
        raise n.refusal("steps other than 1 to an end that is computed")
    most = n.bound(Num("", numbers.high(end) - numbers.low(start)))
    length = n.larger(n("Sub", n.scalar(end), n.scalar(start)), n.constant(0, np.int64))
    made = n("Add", n.constant(np.arange(most), np.int64), n.scalar(start))
    return [n.mark(n.cast(made, kind), [n.counted(length, most)])]


@rule("NonZero")
def _nonzero(n: Sized) -> Result:
    x = n.needs(0)
    shape, zero = n.shape(x), n.masked(x, 0)
    if not shape or 0 in shape:
        return None
    count = prod(shape)
    places, many = n.own("NonZero", zero, types=[(TensorProto.INT64, (len(shape), count)), (TensorProto.INT64, (1,))])
    return [n.mark(places, [None, n.counted(n.reshape(many, ()), count)])]


@rule("TopK")
def _topk(n: Sized) -> Result:
    k = n.nums(n.input(1))
    if n.walk.opset < 10 or k is None or len(k) != 1 or (not k[0].symbol and not _sized(n)):
        return None
    x = n.needs(0)
    shape, extents = n.shape(x), list(n.extents(x))
    axis = n.attribute("axis", -1) % len(shape)
    _still(n, x, axis)
    if not k[0].symbol:
        return n.node_as_it_is([extents] * 2)
    if not n.attribute("sorted", 1):
        raise n.refusal("a computed number of largest elements in no order")
    extents[axis] = n.extent(k[0], shape[axis])
    most = n.bound(k[0], shape[axis])
    return n.node_as_it_is([extents] * 2, [x, n.constant([most], np.int64)])
