"""Elements picked by indices. An index out of range reads the nearest element there is, and raises a flag."""

from __future__ import annotations

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.table import row


def checked(n: Node, indices, extents: tuple[int, ...], i: int) -> None:
    """Raises a flag at run time where an index is none of [-extent, extent): `extents` has one number for all, or one for
    each place of the last axis. Constant indices are judged at once."""
    known = n.known(i)
    limits = np.asarray(extents)
    if known is not None:
        if known.size and ((known < -limits) | (known >= limits)).any():
            raise Refused(f"its indices ({n.inputs[i]}) are out of range for extents {list(extents)}")
        return
    shape = shape_of(indices)
    if 0 in shape:
        return

    def count(t):
        ranges = [tvm.te.reduce_axis((0, extent)) for extent in shape]

        def wrong():
            value = t(*ranges)
            last = ranges[-1] if ranges else 0
            limit = tvm.tirx.const(int(extents[0]), t.dtype)
            for place, extent in enumerate(extents[1:], 1):
                limit = tvm.tirx.Select(last == place, tvm.tirx.const(int(extent), t.dtype), limit)
            outside = tvm.tirx.any(value < tvm.tirx.const(0, t.dtype) - limit, value >= limit)
            return tvm.tirx.Cast("int32", outside)

        if not ranges:
            return tvm.te.compute((), wrong, name="outside")
        return tvm.te.compute((), lambda: tvm.te.max(wrong(), axis=ranges), name="outside")

    n.flags.append(n.te(count, indices, name="check_index"))


def wrapped(index, extent: int):
    """An index counted from the front and kept within the axis."""
    zero, most = tvm.tirx.const(0, index.ty.dtype), tvm.tirx.const(extent - 1, index.ty.dtype)
    front = tvm.tirx.Select(index < zero, index + tvm.tirx.const(extent, index.ty.dtype), index)
    return tvm.tirx.min(tvm.tirx.max(front, zero), most)


@row("Gather")
def gather(n: Node, x, indices):
    """Slices of x along an axis, one for each index."""
    shape = shape_of(x)
    axis = n.axis("axis", 0, len(shape))
    if 0 in shape_of(indices) or 0 in shape:
        return n.const(np.zeros((*shape[:axis], *shape_of(indices), *shape[axis + 1 :])), dtype_of(x))
    checked(n, indices, (shape[axis],), 1)
    known = n.known(1)
    rank = len(shape_of(indices))
    if known is not None:
        front = np.where(known < 0, known + shape[axis], known)
        return n.do("take", x, n.const(front, str(known.dtype)), axis, mode="fast")

    def compute(t, at):
        def element(*index):
            picked = wrapped(at(*index[axis : axis + rank]), shape[axis])
            return t[(*index[:axis], picked, *index[axis + rank :])]

        return tvm.te.compute((*shape[:axis], *at.shape, *shape[axis + 1 :]), element, name="gather")

    return n.te(compute, x, indices)


@row("GatherElements")
def gather_elements(n: Node, x, indices):
    """y[i][j] = x[indices[i][j]][j], for axis 0."""
    shape = shape_of(x)
    axis = n.axis("axis", 0, len(shape))
    if 0 in shape_of(indices):
        return n.const(np.zeros(shape_of(indices)), dtype_of(x))
    checked(n, indices, (shape[axis],), 1)

    def compute(t, at):
        def element(*index):
            return t[(*index[:axis], wrapped(at(*index), shape[axis]), *index[axis + 1 :])]

        return tvm.te.compute(at.shape, element, name="gather")

    return n.te(compute, x, indices)


@row("GatherND")
def gather_nd(n: Node, x, indices):
    """Slices of x at tuples of indices, the last axis of `indices`; the first batch_dims axes go along."""
    batch, shape, at = n.attribute("batch_dims", 0), shape_of(x), shape_of(indices)
    count = at[-1]
    result = (*at[:-1], *shape[batch + count :])
    if 0 in result:
        return n.const(np.zeros(result), dtype_of(x))
    checked(n, indices, shape[batch : batch + count], 1)

    def compute(t, places):
        def element(*index):
            lead = index[: len(at) - 1]
            picked = [wrapped(places(*lead, i), shape[batch + i]) for i in range(count)]
            return t[(*index[:batch], *picked, *index[len(at) - 1 :])]

        return tvm.te.compute(result, element, name="gather")

    return n.te(compute, x, indices)


@row("OneHot")
def one_hot(n: Node, indices, depth, values):
    """values[1] where the place along the new axis is the index, values[0] elsewhere; others than [-depth, depth) have none."""
    count = int(n.number(1, "depth"))
    rank = len(shape_of(indices)) + 1
    axis = n.axis("axis", -1, rank)

    def compute(at, two):
        kind = at.dtype

        def element(*index):
            given = at(*index[:axis], *index[axis + 1 :])
            front = tvm.tirx.Select(given < tvm.tirx.const(0, kind), given + tvm.tirx.const(count, kind), given)
            return tvm.tirx.Select(front == tvm.tirx.Cast(kind, index[axis]), two[1], two[0])

        shape = list(at.shape)
        return tvm.te.compute((*shape[:axis], count, *shape[axis:]), element, name="one_hot")

    return n.te(compute, indices, values)


@row("Trilu")
def trilu(n: Node, x, *_):
    """The upper or the lower triangle of the last two axes, with 0 in the place of the rest."""
    upper = n.attribute("upper", 1)
    computed = n.given(1) and n.known(1) is None
    k = 0 if computed else int(n.number(1, "diagonal", 0))

    def compute(t, *diagonal):
        def element(*index):
            i, j = index[-2:]
            first = diagonal[0](*[0] * len(diagonal[0].shape)) if diagonal else k
            keep = j - i >= first if upper else j - i <= first
            return tvm.tirx.Select(keep, t[index], tvm.tirx.const(0, t.dtype))

        return tvm.te.compute(t.shape, element, name="triangle")

    if computed and 0 not in shape_of(x):
        return n.te(compute, x, n.args[1])
    return n.te(compute, x) if 0 not in shape_of(x) else x
