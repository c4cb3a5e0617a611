"""What goes along an axis element by element: running sums and products, the largest, reversals."""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.node import Node, Refused, dtype_of, is_float, shape_of, within
from onnxc.codegen.operators.table import row


def _apart(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """Extents before an axis, of it, and behind it."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


@row("CumSum", "CumProd")
def cumulative(n: Node, x, axis):
    """y[i] = x[0] op ... op x[i] along an axis, from the end with reverse, without x[i] itself with exclusive.

    An axis that is computed is compared with each that there is.
    """
    shape, rank = shape_of(x), len(shape_of(x))
    exclusive, backward = bool(n.attribute("exclusive", 0)), bool(n.attribute("reverse", 0))
    if 0 in shape:
        return x
    known = n.known(1)
    if known is not None:
        return _running(n, x, within(int(known.reshape(-1)[0]), rank), exclusive, backward)
    axis, made = n.reshape(axis, ()), None
    for at in range(rank):
        one = _running(n, x, at, exclusive, backward)
        named = n.do("logical_or", *(n.do("equal", axis, n.like(k, axis)) for k in (at, at - rank)))
        made = one if made is None else n.do("where", named, one, made)
    return made


def _running(n: Node, x, axis: int, exclusive: bool, backward: bool):
    shape, kind = shape_of(x), dtype_of(x)
    before, count, behind = _apart(shape, axis)
    adds = n.op == "CumSum"

    def body(T, source, made):
        def at(i):
            return count - 1 - i if backward else i

        with T.grid(before, behind) as (i, j):
            first = tvm.tirx.const(0 if adds else 1, kind) if exclusive else source[i, at(0), j]
            T.buffer_store(made, first, (i, at(0), j))
            with T.serial(1, count) as t:
                old, new = made[i, at(t - 1), j], source[i, at(t - 1 if exclusive else t), j]
                T.buffer_store(made, old + new if adds else old * new, (i, at(t), j))

    made = loops(n, [n.reshape(x, (before, count, behind))], [((before, count, behind), kind)], body)
    return n.reshape(made, shape)


@row("TopK")
def top(n: Node, x, *_):
    """The k largest (or smallest) along an axis, in order, and where they stand; of equals the first comes first."""
    shape, kind = shape_of(x), dtype_of(x)
    axis = n.axis("axis", -1, len(shape))
    count = int(n.attribute("k") if n.opset < 10 else n.number(1, "k"))
    most = bool(n.attribute("largest", 1))
    n.attribute("sorted", 1)
    if not 0 <= count <= shape[axis]:
        raise Refused(f"k = {count} of {shape[axis]} elements")
    whole = (*shape[:axis], count, *shape[axis + 1 :])
    if 0 in whole:
        return n.const(np.zeros(whole), kind), n.const(np.zeros(whole), "int64")
    before, extent, behind = _apart(shape, axis)
    tirx = tvm.tirx

    def body(T, source, values, places):
        def above(a, b):
            """Whether a stands ahead of b; NaN stands last."""
            ahead = a > b if most else a < b
            return tirx.any(ahead, tirx.all(b != b, a == a)) if is_float(x) else ahead

        with T.grid(before, behind) as (i, j):
            place = T.alloc_buffer((1,), "int32")
            with T.serial(0, extent) as at:
                item = source[i, at, j]
                with when(T, tirx.any(at < count, above(item, values[i, count - 1, j]))):  # most are behind the last
                    T.buffer_store(place, tirx.min(tirx.Cast("int32", at), count - 1), (0,))
                    with T.While(tirx.all(place[0] > 0, above(item, values[i, tirx.max(place[0] - 1, 0), j]))):
                        T.buffer_store(values, values[i, place[0] - 1, j], (i, place[0], j))
                        T.buffer_store(places, places[i, place[0] - 1, j], (i, place[0], j))
                        T.buffer_store(place, place[0] - 1, (0,))
                    T.buffer_store(values, item, (i, place[0], j))
                    T.buffer_store(places, tirx.Cast("int64", at), (i, place[0], j))

    flat = [((before, count, behind), kind), ((before, count, behind), "int64")]
    values, places = loops(n, [n.reshape(x, (before, extent, behind))], flat, body)
    return n.reshape(values, whole), n.reshape(places, whole)


@row("ReverseSequence")
def reverse_sequence(n: Node, x, lengths):
    """The first lengths[b] entries of sample b in reverse along the time axis, the rest as they are."""
    shape = shape_of(x)
    batch, time = int(n.attribute("batch_axis", 1)), int(n.attribute("time_axis", 0))

    def compute(t, count):
        def element(*index):
            i, length = index[time], tvm.tirx.Cast("int64", count(index[batch]))
            back = tvm.tirx.Select(i < length, length - 1 - i, tvm.tirx.Cast("int64", i))
            at = list(index)
            at[time] = tvm.tirx.min(tvm.tirx.max(back, 0), shape[time] - 1)
            return t(*at)

        return tvm.te.compute(shape, element, name="reverse")

    return n.te(compute, x, lengths)
