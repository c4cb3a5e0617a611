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
    """The k largest (or smallest) along an axis, in order, and where they stand; of equals the first comes first.

    The best so far are a heap with the last of them at its top, which what is better replaces; at the end it is sorted.
    """
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

        def later(a, at, b, other):
            """Whether a, which stood at `at`, comes after b of `other`: of equals the first comes first."""
            return tirx.any(above(b, a), tirx.all(tirx.Not(above(a, b)), at > other))

        with T.grid(before, behind) as (i, j):
            place, child = (T.alloc_buffer((1,), "int32") for _ in range(2))
            item, stood = T.alloc_buffer((1,), kind), T.alloc_buffer((1,), "int64")

            def behind_item(k, size):
                k = tirx.min(k, size - 1)
                return later(values[i, k, j], places[i, k, j], item[0], stood[0])

            def descend(size) -> None:
                """The later of the two below `place`."""
                left = T.bind(2 * place[0] + 1)
                one, two = (tirx.min(left + k, size - 1) for k in range(2))
                second = later(values[i, two, j], places[i, two, j], values[i, one, j], places[i, one, j])
                T.buffer_store(child, left + tirx.Cast("int32", tirx.all(left + 1 < size, second)), (0,))

            def sift(start, size) -> None:
                """Put `item` into the heap of `size`, from `start` down, under whatever comes later."""
                T.buffer_store(place, start, (0,))
                descend(size)
                with T.While(tirx.all(child[0] < size, behind_item(child[0], size))):
                    T.buffer_store(values, values[i, child[0], j], (i, place[0], j))
                    T.buffer_store(places, places[i, child[0], j], (i, place[0], j))
                    T.buffer_store(place, child[0], (0,))
                    descend(size)
                T.buffer_store(values, item[0], (i, place[0], j))
                T.buffer_store(places, stood[0], (i, place[0], j))

            def take(value, at) -> None:
                T.buffer_store(item, value, (0,))
                T.buffer_store(stood, at, (0,))

            with T.serial(0, count) as at:
                T.buffer_store(values, source[i, at, j], (i, at, j))
                T.buffer_store(places, tirx.Cast("int64", at), (i, at, j))
            with T.serial(0, count // 2) as turn:
                start = count // 2 - 1 - turn
                take(values[i, start, j], places[i, start, j])
                sift(tirx.Cast("int32", start), count)
            with T.serial(0, extent - count) as rest:
                at = count + rest
                with when(T, above(source[i, at, j], values[i, 0, j])):  # most are not
                    take(source[i, at, j], tirx.Cast("int64", at))
                    sift(tirx.const(0, "int32"), count)
            with T.serial(0, count - 1) as turn:  # the last of all that are left goes to their end
                end = T.bind(tirx.Cast("int32", count - 1 - turn))
                take(values[i, end, j], places[i, end, j])
                T.buffer_store(values, values[i, 0, j], (i, end, j))
                T.buffer_store(places, places[i, 0, j], (i, end, j))
                sift(tirx.const(0, "int32"), end)

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
