"""Values put to places that indices name, in order; a place out of range is left out and raises the flag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import grid, loops, picked
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.table import row

REDUCTIONS = ("add", "mul", "max", "min")


def _join(kind: str, reduction: str) -> Callable:
    """(old, new) -> what is stored."""
    tirx = tvm.tirx
    if kind == "bool":
        both = {"add": tirx.any, "max": tirx.any, "mul": tirx.all, "min": tirx.all}
        return both.get(reduction, lambda old, new: new)
    return {
        "none": lambda old, new: new, "add": lambda old, new: old + new, "mul": lambda old, new: old * new,
        "max": lambda old, new: tirx.Select(new > old, new, old), "min": lambda old, new: tirx.Select(new < old, new, old),
    }[reduction]  # fmt: skip


def _run(n: Node, x, indices, updates, i: int, where: Callable, reduction: str):
    """x with `updates` put in: `where(T, indices, index)` gives the place of an update and the tests that it be inside."""
    join, kind, at = _join(dtype_of(x), reduction), dtype_of(x), shape_of(updates)
    known = n.known(i)
    results = [(shape_of(x), kind)] + ([((), "int32")] if known is None else [])

    def body(T, source, places, values, made, flag=None):
        with grid(T, shape_of(x)) as index:
            index = picked(index, shape_of(x))
            T.buffer_store(made, source[index], index)
        if flag is not None:
            T.buffer_store(flag, tvm.tirx.const(0, "int32"), ())
        if 0 in at:
            return
        with grid(T, at) as index:
            index = picked(index, at)
            place, inside = where(places, index)
            if flag is None:
                T.buffer_store(made, join(made[place], values[index]), place)
                return
            with T.If(tvm.tirx.all(*inside)):
                with T.Then():
                    T.buffer_store(made, join(made[place], values[index]), place)
                with T.Else():
                    T.buffer_store(flag, tvm.tirx.const(1, "int32"), ())

    made = loops(n, [x, indices, updates], results, body)
    if known is not None:
        return made
    n.flags.append(made[1])
    return made[0]


def _front(index, extent: int):
    """An index counted from the front, and the tests that it is within the axis."""
    kind = index.ty.dtype
    zero, size = tvm.tirx.const(0, kind), tvm.tirx.const(extent, kind)
    front = tvm.tirx.Select(index < zero, index + size, index)
    return front, [front >= zero, front < size]


def _known_inside(n: Node, i: int, extents: tuple[int, ...]) -> None:
    known = n.known(i)
    limits = np.asarray(extents)
    if known is not None and known.size and ((known < -limits) | (known >= limits)).any():
        raise Refused(f"its indices ({n.inputs[i]}) are out of range for extents {list(extents)}")


@row("ScatterElements", "Scatter")
def scatter_elements(n: Node, x, indices, updates):
    """y = x, but y[indices[i][j]][j] = updates[i][j], for axis 0."""
    shape, reduction = shape_of(x), n.choice("reduction", "none", *REDUCTIONS)
    axis = n.axis("axis", 0, len(shape))
    _known_inside(n, 1, (shape[axis],))

    def where(places, index):
        front, inside = _front(places[index], shape[axis])
        return (*index[:axis], front, *index[axis + 1 :]), inside

    return _run(n, x, indices, updates, 1, where, reduction)


@row("ScatterND")
def scatter_nd(n: Node, x, indices, updates):
    """y = x, but y[indices[i]] = updates[i], indices[i] a tuple of the first axes."""
    return scattered(n, x, indices, updates, 1, n.choice("reduction", "none", *REDUCTIONS))


def scattered(n: Node, x, indices, updates, i: int, reduction: str):
    """ScatterND of expressions; input `i` of the node is where the indices come from."""
    shape, at = shape_of(x), shape_of(indices)
    lead, depth = len(at) - 1, at[-1]
    if n.op == "ScatterND":
        _known_inside(n, i, shape[:depth])

    def where(places, index):
        found = [_front(places[(*index[:lead], d)], shape[d]) for d in range(depth)]
        return (*(front for front, _ in found), *index[lead:]), [test for _, tests in found for test in tests]

    return _run(n, x, indices, updates, i, where, reduction)


@row("TensorScatter")
def tensor_scatter(n: Node, cache, update, starts=None):
    """A cache with new entries from a place of each sample on, along the axis; "circular" begins anew at its end."""
    shape, new = shape_of(cache), shape_of(update)
    axis, mode = n.axis("axis", -2, len(shape)), n.choice("mode", "linear", "circular")
    starts = n.const(np.zeros(shape[0]), "int64") if starts is None else starts
    size = tvm.tirx.const(shape[axis], "int64")

    def body(T, old, values, first, made, flag):
        with T.grid(*shape) as index:
            T.buffer_store(made, old[tuple(index)], tuple(index))
        T.buffer_store(flag, tvm.tirx.const(0, "int32"), ())
        with T.grid(*new) as index:
            at = first[index[0]] + tvm.tirx.Cast("int64", index[axis])
            at = tvm.tirx.floormod(at, size) if mode == "circular" else at
            with T.If(tvm.tirx.all(at >= 0, at < size)):
                with T.Then():
                    T.buffer_store(made, values[tuple(index)], (*index[:axis], at, *index[axis + 1 :]))
                with T.Else():
                    T.buffer_store(flag, tvm.tirx.const(1, "int32"), ())

    made, flag = loops(n, [cache, update, starts], [(shape, dtype_of(cache)), ((), "int32")], body)
    n.flags.append(flag)
    return made
