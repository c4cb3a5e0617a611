"""Elements picked by and written to by indices, of which or among which only some count: Gather and its sisters, ScatterElements.

What does not count picks the first element, and writes into a place behind the last, which is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from onnxc.codegen.prepare.extents import Extent, Result, Sized, rule
from onnxc.codegen.prepare.numbers import Num


def _within(n: Sized, at: str, extents: Sequence[Extent | None], bounds: Sequence[int]) -> str:
    """Indices into axes of which only so much counts, counted from the front; those beyond it lie out of range. `extents` are those of
    the one axis, or of one for each place of the last axis of the indices."""
    if all(extent is None for extent in extents):
        return at
    kind = n.walk.element(at)
    parts = [
        n.constant([bound], np.int64) if extent is None else n.reshape(extent.scalar, (1,))
        for bound, extent in zip(bounds, extents)
    ]
    limit = parts[0] if len(parts) == 1 else n("Concat", *parts, axis=0)
    if n.shape(at) == ():
        limit = n.reshape(limit, ())
    wide, zero, far = n.cast(at, "int64"), n.constant(0, np.int64), n.constant(max(bounds), np.int64)
    front = n("Where", n("Less", wide, zero), n("Add", wide, limit), wide)
    beyond = n("Or", n("Less", front, zero), n("Not", n("Less", front, limit)))
    return n.mark(n.cast(n("Where", beyond, far, front), kind), n.extents(at))


def _sized(n: Sized) -> bool:
    return any(name in n.walk.actual for name in n.node.input)


@rule("Gather")
def _gather(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, at = n.needs(0), n.needs(1)
    extents = n.extents(x)
    axis = n.attribute("axis", 0) % len(extents)
    made = [*extents[:axis], *n.extents(at), *extents[axis + 1 :]]
    picked = _within(n, at, [extents[axis]], [n.shape(x)[axis]])
    return n.node_as_it_is([made], [x, n.masked(picked, 0)])


@rule("GatherND")
def _gather_nd(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, at = n.needs(0), n.needs(1)
    if n.attribute("batch_dims", 0):
        raise n.refusal("batch_dims beside lengths that data decide")
    extents, shape, rows = n.extents(x), n.shape(x), n.extents(at)
    count = n.shape(at)[-1]
    if rows[-1] is not None:
        raise n.refusal("data decide how many axes it picks from", tensor=at)
    picked = _within(n, at, extents[:count], shape[:count])
    return n.node_as_it_is([[*rows[:-1], *extents[count:]]], [x, n.masked(picked, 0)])


@rule("GatherElements")
def _gather_elements(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, at = n.needs(0), n.needs(1)
    axis = n.attribute("axis", 0) % len(n.shape(x))
    picked = _within(n, at, [n.extents(x)[axis]], [n.shape(x)[axis]])
    return n.node_as_it_is([n.extents(at)], [x, n.masked(picked, 0)])


@rule("ScatterElements")
def _scatter_elements(n: Sized) -> Result:
    if not _sized(n):
        return None
    x, at, new = n.needs(0), n.needs(1), n.needs(2)
    if n.extents(at) != n.extents(new):
        raise n.refusal("its indices and its updates have lengths that may differ", tensor=at)
    shape, extents = n.shape(x), n.extents(x)
    axis = n.attribute("axis", 0) % len(shape)
    picked = _within(n, at, [extents[axis]], [shape[axis]])
    mask = n.counts(picked)
    if mask is None:
        return n.node_as_it_is([extents], [x, picked, new])
    wide, size = n.cast(picked, "int64"), n.constant(shape[axis], np.int64)
    zero, beyond = n.constant(0, np.int64), n.constant(shape[axis] + 1, np.int64)
    front = n("Where", n("Less", wide, zero), n("Add", wide, size), wide)
    wrong = n("Or", n("Less", front, zero), n("Not", n("Less", front, size)))
    place = n("Where", mask, n("Where", wrong, beyond, front), size)  # behind the last: cut off again
    more = n.like(np.zeros([1 if i == axis else extent for i, extent in enumerate(shape)]), x)
    (made,) = n.node_as_it_is([[None] * len(shape)], [n("Concat", x, more, axis=axis), place, new])
    return [n.mark(n.cut(made, axis, 0, shape[axis]), extents)]


@rule("Compress")
def _compress(n: Sized) -> Result:
    x, wanted = n.needs(0), n.needs(1)
    axis = n.attribute("axis")
    if wanted in n.walk.constants and not _sized(n):
        return None
    if axis is None:
        if x in n.walk.actual:
            raise n.refusal("it picks among all elements of a tensor whose length data decide", tensor=x)
        x, axis = n.reshape(x, (prod(n.shape(x)),)), 0
    axis %= len(n.shape(x))
    count = n.shape(wanted)[0]
    if count > n.shape(x)[axis] or count == 0:
        return None
    extents = list(n.extents(x))
    kept = n.masked(wanted, 0)
    if extents[axis] is not None:
        least = n("Less", n.constant(np.arange(count), np.int64), extents[axis].scalar)
        kept = n("And", kept, least)
    places, many = n.own("NonZero", kept, types=[(TensorProto.INT64, (1, count)), (TensorProto.INT64, (1,))])
    extents[axis] = n.counted(n.reshape(many, ()), count)
    return [n.mark(n("Gather", x, n.reshape(places, (count,)), axis=axis), extents)]


@rule("NonMaxSuppression")
def _suppressed(n: Sized) -> Result:
    boxes, scores = n.needs(0), n.needs(1)
    places, kind = n.shape(scores)[2], TensorProto.INT64
    if n.extents(boxes)[1] != n.extents(scores)[2] or any(
        e is not None for e in (n.extents(boxes)[0], *n.extents(scores)[:2])
    ):
        raise n.refusal("its boxes and its scores have lengths that may differ", tensor=boxes)

    def number(i: int, default: float, dtype: str) -> str:
        name = n.input(i)
        return n.constant([default], dtype) if name is None else n.cast(n.reshape(name, (1,)), dtype)

    nums = (Num("", 0),) if n.input(2) is None else n.nums(n.input(2))
    most = places if nums is None or len(nums) != 1 else max(min(n.walk.numbers.high(nums[0]), places), 0)
    rows = n.shape(scores)[0] * n.shape(scores)[1] * most
    if rows == 0:
        return [n.constant(np.zeros((0, 3)), np.int64)]
    extent = n.extents(scores)[2]
    many = n.constant([places], np.int64) if extent is None else n.reshape(extent.scalar, (1,))
    given = [number(2, 0, "int64"), number(3, 0.0, "float32"), number(4, -np.inf, "float32"), many]
    op = "NonMaxSuppression" + ("Centred" if n.attribute("center_point_box", 0) else "")
    made, count = n.own(op, boxes, scores, *given, types=[(kind, (rows, 3)), (kind, (1,))])
    return [n.mark(made, [n.counted(n.reshape(count, ()), rows), None])]
