"""Rows of reductions, ArgMax and TopK."""

from __future__ import annotations

from math import prod

import numpy as np

from ..axes import extent, numbers
from ..table import Unreadable, Use, row


def _reduced(use: Use) -> list[int]:
    xs = use.ax(0)
    axes = use.ints("axes", 1)
    if axes is None:
        if use.has(1):
            raise Unreadable("its axes are computed at run time")
        axes = []
    if not axes:
        return [] if use.attr("noop_with_empty_axes", 0) else list(range(len(xs)))
    return sorted(k % len(xs) for k in axes)


def _shrink(use: Use, axes: list[int]) -> None:
    xs = use.ax(0)
    keep = use.attr("keepdims", 1)
    use.out([a if k not in axes else use.fixed(1) for k, a in enumerate(xs) if keep or k not in axes])


@row("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
def sums(use: Use) -> None:
    """A zero adds nothing: reduced axes are contracted."""
    axes = _reduced(use)
    for k in axes:
        use.contract(0, k)
    _shrink(use, axes)


@row("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
def statistics(use: Use) -> None:
    axes = _reduced(use)
    reduced = [use.ax(0)[k] for k in axes]
    if use.node.op in ("ReduceMean", "ReduceMax", "ReduceMin"):
        use.statistic(*reduced)
    else:
        use.fix(*reduced, why="not a sum over this axis")
    _shrink(use, axes)
    if use.node.op == "ReduceProd":
        values = use.known(0)
        if values is not None and all(isinstance(v, int) for v in values.ravel()):
            use.result(values.prod(keepdims=bool(use.attr("keepdims", 1))))


@row("ArgMax", "ArgMin")
def arg(use: Use) -> None:
    k = use.axis(0)
    use.fix(use.ax(0)[k], why="its indices are results")
    _shrink(use, [k])


@row("TopK")
def top_k(use: Use) -> None:
    xs = use.ax(0)
    k = use.axis(-1)
    use.fix(xs[k], why="its indices are results")
    count = use.ints("k", 1)
    out = [*xs[:k], use.fixed(count[0] if count else None), *xs[k + 1 :]]
    use.out(out)
    use.out(out, 1)


@row("Size")
def size(use: Use) -> None:
    use.fix(*use.ax(0), why="its extent is used as data")
    sizes = numbers([extent(a) for a in use.ax(0)])
    use.out([])
    if sizes is not None:
        use.result(np.array(prod(sizes), object))
