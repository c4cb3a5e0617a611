"""Operators of ours for tensors whose lengths data decide (`prepare.extents`): what counts is found and put side by side."""

from __future__ import annotations

from math import prod

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import grid, loops, picked, when
from onnxc.codegen.operators.node import Node, dtype_of, shape_of
from onnxc.codegen.operators.table import row

DOMAIN = "onnxc.extents"


@row("NonZero", domain=DOMAIN)
def non_zero(n: Node, x):
    """(rank, elements): the places of elements that are other than 0, in order, then zeros; (1,): how many they are."""
    n.attribute("types")
    shape, kind = shape_of(x), dtype_of(x)

    def body(T, x, places, count):
        found = T.alloc_buffer((1,), "int32")
        T.buffer_store(found, tvm.tirx.const(0, "int32"), (0,))
        with T.grid(len(shape), prod(shape)) as (axis, i):
            T.buffer_store(places, tvm.tirx.const(0, "int64"), (axis, i))
        with grid(T, shape) as index:
            at = picked(index, shape)
            with when(T, x[at] if kind == "bool" else x[at] != tvm.tirx.const(0, kind)):
                for axis, one in enumerate(at):
                    T.buffer_store(places, tvm.tirx.Cast("int64", one), (axis, found[0]))
                T.buffer_store(found, found[0] + 1, (0,))
        T.buffer_store(count, tvm.tirx.Cast("int64", found[0]), (0,))

    return loops(n, [x], [((len(shape), prod(shape)), "int64"), ((1,), "int64")], body)


@row("Pack", domain=DOMAIN)
def pack(n: Node, x, extents):
    """(elements,): those of x whose index is below `extents` (rank,) on each axis, in order, then zeros."""
    n.attribute("types")
    shape, kind, x_ = shape_of(x), dtype_of(x), tvm.tirx

    def body(T, x, extents, made):
        with T.serial(0, prod(shape)) as i:
            T.buffer_store(made, x_.const(0, kind), (i,))
        with grid(T, shape) as index:
            at = picked(index, shape)
            place, inside = x_.const(0, "int32"), []
            for axis, (one, bound) in enumerate(zip(at, shape)):
                limit = x_.max(x_.min(extents[axis], x_.const(bound, "int64")), x_.const(0, "int64"))
                limit = x_.Cast("int32", limit)
                inside.append(one < limit)
                place = place * limit + one
            with when(T, x_.all(*inside) if len(inside) > 1 else inside[0]):
                T.buffer_store(made, x[at], (place,))

    return loops(n, [x, extents], [((prod(shape),), kind)], body)
