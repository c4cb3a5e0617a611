"""What goes along an axis element by element: running sums and products, the largest."""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of, within
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
            return a > b if most else a < b

        def number(value):
            return tirx.const(value, "int64")

        with T.grid(before, behind) as (i, j), T.serial(0, count) as k:
            T.buffer_store(places, number(-1), (i, k, j))
            with T.serial(0, extent) as at:
                item, here = source[i, at, j], tirx.Cast("int64", at)
                last = places[i, tirx.max(k - 1, 0), j]
                previous = values[i, tirx.max(k - 1, 0), j]
                later = tirx.any(k == 0, above(previous, item), tirx.all(previous == item, here > last))
                best = tirx.any(places[i, k, j] < number(0), above(item, values[i, k, j]))
                with when(T, tirx.all(later, best)):
                    T.buffer_store(values, item, (i, k, j))
                    T.buffer_store(places, here, (i, k, j))
            with when(T, places[i, k, j] < number(0)):  # nothing but NaN is left
                T.buffer_store(values, source[i, extent - 1, j], (i, k, j))
                T.buffer_store(places, number(extent - 1), (i, k, j))

    flat = [((before, count, behind), kind), ((before, count, behind), "int64")]
    values, places = loops(n, [n.reshape(x, (before, extent, behind))], flat, body)
    return n.reshape(values, whole), n.reshape(places, whole)
