"""Rows of operators that join, cut and pick: Concat, Split, Slice, Gather, Pad, OneHot."""

from __future__ import annotations

import numpy as np

from ..axes import Atom, Axis, Prod, Sum, extent, freeze
from ..errors import DimensionError
from ..masks import Minus
from ..table import Unreadable, Use, row

INT = (int, np.integer)
AXIS = (Atom, Prod, Sum)


@row("Concat")
def concat(use: Use) -> None:
    """n c1 *s; n c2 *s -> n c1+c2 *s"""
    count = len(use.node.inputs)
    first = use.ax(0)
    k = use.axis(1)
    for i in range(1, count):
        other = use.ax(i)
        if len(other) != len(first):
            raise DimensionError(
                "Concat does not fit",
                node=use.node.name,
                tensor=use.node.inputs[i].name,
                expected=f"rank {len(first)}",
                found=f"rank {len(other)}",
            )
        for d in range(len(first)):
            if d != k:
                use.tie(other[d], first[d], i, d)
    use.out([*first[:k], use.join(*(use.ax(i)[k] for i in range(count))), *first[k + 1 :]])
    _concat_values(use, count, len(first))


def _concat_values(use: Use, count: int, rank: int) -> None:
    names = [t.name for t in use.node.inputs]
    if rank != 1 or not any(n in use.analysis.values for n in names):
        return
    parts = []
    for i in range(count):
        v = use.value(i)
        if v is None:
            n = use.shape(i)[0]
            if not isinstance(n, int) or n > 64:
                return
            v = np.full(n, None, object)
        parts.append(v.astype(object))
    use.result(np.concatenate(parts))


@row("Split")
def split(use: Use) -> None:
    """n c1+c2 *s -> n c1 *s; n c2 *s. The sizes follow the parts."""
    xs = use.ax(0)
    k = use.axis(0)
    n, count = extent(xs[k]), len(use.node.outputs)
    sizes = use.ints("split", 1)
    if sizes is None:
        if use.has(1):
            raise Unreadable("its sizes are computed at run time")
        if isinstance(n, int):
            chunk = -(-n // (use.attr("num_outputs") or count))
            sizes = [min(chunk, n - j * chunk) for j in range(count)]
    if sizes is not None and isinstance(n, int) and sum(sizes) != n:
        raise DimensionError(
            "the sizes of Split do not add up",
            node=use.node.name,
            tensor=use.node.inputs[0].name,
            axis=k,
            expected=n,
            found=f"{sizes}",
        )
    cut = use.cut(xs[k], *sizes) if sizes is not None and isinstance(n, int) else None
    parts: list[Axis] = list(cut or ())
    if cut is None:
        use.fix(xs[k], why="it cuts through a product")
        parts = [use.fixed(s) for s in sizes] if sizes is not None else [use.fixed(None)] * count
    elif "split" in use.node.attrs:
        use.follow("split", list(parts))
    elif use.has(1):
        if use.array(1) is None:
            use.fix(xs[k], why="its sizes are computed")
        else:
            use.operand(1, list(parts))
    else:
        _equal_parts(use, list(parts))
    for j, part in enumerate(parts):
        use.out([*xs[:k], part, *xs[k + 1 :]], j)


def _equal_parts(use: Use, parts: list[Axis]) -> None:
    """Sizes that are not written down are equal: the parts must shrink together, whatever they are."""
    from ..axes import Conflict
    from ..unify import tie

    for part in parts[1:]:
        try:
            tie(parts[0], part)
        except Conflict:  # the last part of an uneven split
            freeze(parts[0], f"Split {use.node.name}: its parts are not equal")
            freeze(part, f"Split {use.node.name}: its parts are not equal")


@row("Slice")
def slice_(use: Use) -> None:
    """A range with step 1 is a part of a sum; the bounds follow. Any other range freezes its axis."""
    xs = list(use.ax(0))
    starts, ends = use.attr("starts") or use.value(1), use.attr("ends") or use.value(2)
    if starts is None or ends is None:
        axes = use.ints("axes", 3)
        if axes is None:
            raise Unreadable("its bounds are computed at run time")
        for k in axes:
            use.fix(xs[k], why="its bounds are computed at run time")
            xs[k] = use.fixed(None)
        use.out(xs)
        return
    starts, ends = list(np.ravel(starts)), list(np.ravel(ends))
    axes = use.ints("axes", 3)
    if axes is None and use.has(3):
        raise Unreadable("its axes are computed at run time")
    axes = list(range(len(starts))) if axes is None else [a % len(xs) for a in axes]
    steps = use.ints("steps", 4)
    if steps is None:
        if use.has(4):
            raise Unreadable("its steps are computed at run time")
        steps = [1] * len(starts)
    new_starts, new_ends = list(starts), list(ends)
    for j, k in enumerate(axes):
        xs[k], new_starts[j], new_ends[j] = _slice_one(use, xs[k], starts[j], ends[j], steps[j])
    if "starts" in use.node.attrs:
        use.follow("starts", new_starts)
        use.follow("ends", new_ends)
    else:
        for i, new in ((1, new_starts), (2, new_ends)):
            if use.array(i) is not None:
                use.operand(i, new)
    use.out(xs)
    _slice_values(use, starts, ends, steps)


def _slice_one(use: Use, a: Axis, start, end, step: int) -> tuple[Axis, object, object]:
    n = extent(a)
    if not isinstance(start, INT) or not isinstance(end, INT) or not isinstance(n, int):
        whole = isinstance(start, INT) and start == 0 and step == 1 and isinstance(end, INT) and end >= 2**31 - 1
        if whole:
            return a, start, end
        use.fix(a, *(v for v in (start, end) if isinstance(v, AXIS)), why="its bounds are not known")
        first, last = (v if isinstance(v, INT) else 0 for v in (start, end))
        return use.fixed(None), first, last
    lo, hi, by = slice(int(start), int(end), step).indices(n)
    count = len(range(lo, hi, by))
    if count == n and by == 1:
        return a, start, end
    pieces = use.cut(a, lo, count, n - lo - count) if by == 1 and count else None
    if pieces is None:
        use.fix(a, why="it does not take a plain range" if by != 1 else "it cuts through a product")
        return use.fixed(count), start, end
    before, middle, after = pieces
    if use.opset >= 10 and any(use.array(i) is None for i in (1, 2)):
        use.fix(a, why="its bounds are computed")
    new_start = start if lo == 0 else before if start >= 0 else Minus(Sum((middle, after)))
    new_end = end if end >= n else Sum((before, middle)) if end >= 0 else Minus(after)
    return middle, new_start, new_end


def _slice_values(use: Use, starts: list, ends: list, steps: list[int]) -> None:
    values = use.known(0)
    if values is not None and len(use.ax(0)) == len(starts) == 1 and all(isinstance(v, INT) for v in (*starts, *ends)):
        use.result(values[int(starts[0]) : min(int(ends[0]), 2**62) : steps[0]])


@row("Gather")
def gather(use: Use) -> None:
    """The gathered axis is frozen: an index is a position in it."""
    xs, index = use.ax(0), use.ax(1)
    k = use.axis(0)
    use.out([*xs[:k], *index, *xs[k + 1 :]])
    values, at = use.known(0), use.array(1)
    if values is not None and at is not None and len(xs) == 1:
        if at.size and (at.min() < -len(values) or at.max() >= len(values)):
            raise DimensionError(
                "an index is out of range",
                node=use.node.name,
                tensor=use.node.inputs[1].name,
                expected=f"below {len(values)}",
                found=int(at.max()),
            )
        use.result(np.asarray(values[at.astype(np.int64)], object))
    use.fix(xs[k], why="its indices are positions in this axis")
    use.fix(*index)


@row("GatherElements")
def gather_elements(use: Use) -> None:
    use.fix(*use.ax(0), *use.ax(1), why="its indices are positions")
    use.out(use.ax(1))


@row("ScatterElements", "ScatterND", "Scatter")
def scatter(use: Use) -> None:
    for i in range(3):
        use.fix(*use.ax(i), why="its indices are positions")
    use.out(use.ax(0))


@row("GatherND")
def gather_nd(use: Use) -> None:
    data, index = use.ax(0), use.ax(1)
    last, batch = extent(index[-1]), use.attr("batch_dims", 0)
    use.fix(*data, *index, why="its indices are positions")
    if not isinstance(last, int):
        raise Unreadable("the length of its indices is not known")
    use.out([*index[:-1], *data[batch + last :]])


@row("Pad")
def pad(use: Use) -> None:
    """A padded axis is before+axis+after with fixed ends; other modes than constant read the axis and freeze it."""
    xs = list(use.ax(0))
    pads = use.ints("pads", 1)
    axes = use.ints("axes", 3)
    if pads is None or (axes is None and use.has(3)):
        raise Unreadable("its pads are computed at run time")
    axes = [k % len(xs) for k in axes] if axes else list(range(len(xs)))
    for j, k in enumerate(axes):
        before, after = pads[j], pads[j + len(axes)]
        if before == after == 0:
            continue
        n = extent(xs[k])
        if use.attr("mode", "constant") == "constant" and min(before, after) >= 0 and isinstance(n, int):
            ends = [(use.fixed(p, "padding"),) if p else () for p in (before, after)]
            xs[k] = use.join(*ends[0], xs[k], *ends[1])
        else:
            use.fix(xs[k])
            xs[k] = use.fixed(n + before + after if isinstance(n, int) else None)
    use.out(xs)


@row("CenterCropPad")
def center_crop_pad(use: Use) -> None:
    """An axis that keeps its extent passes through; its target follows."""
    xs = list(use.ax(0))
    target = use.ints("shape", 1)
    if target is None:
        raise Unreadable("its target is computed at run time")
    template: list = list(target)
    for j, (k, n) in enumerate(zip(use.attr("axes") or range(len(xs)), target, strict=True)):
        if extent(xs[k]) == n and use.array(1) is not None:
            template[j] = xs[k]
        else:
            use.fix(xs[k])
            xs[k] = use.fixed(n)
    if use.array(1) is not None:
        use.operand(1, template)
    use.out(xs)


@row("Compress")
def compress(use: Use) -> None:
    """What is picked by a condition is a list of positions; without an axis the input is flattened."""
    xs = use.ax(0)
    flags = use.array(1)
    count = None if flags is None else int(np.count_nonzero(flags))
    if "axis" not in use.node.attrs:
        use.fix(*xs)
        use.out([use.fixed(count)])
        return
    k = use.axis()
    use.fix(xs[k], why="its condition is a list of positions")
    use.out([*xs[:k], use.fixed(count), *xs[k + 1 :]])


@row("OneHot")
def one_hot(use: Use) -> None:
    xs = list(use.ax(0))
    depth = use.value(1)
    n = (
        int(depth.ravel()[0])
        if depth is not None and depth.size and isinstance(depth.ravel()[0], (*INT, float, np.floating))
        else None
    )
    k = use.axis(-1, rank=len(xs) + 1)
    use.fix(*xs)
    xs.insert(k, use.fixed(n))
    use.out(xs)


@row("NonZero")
def non_zero(use: Use) -> None:
    use.fix(*use.ax(0))
    use.out([use.fixed(len(use.ax(0))), use.fixed(None)])


@row("Constant")
def constant(use: Use) -> None:
    """Only a Constant that is itself a graph output is still a node."""
    raise Unreadable("a constant result")
