"""Rows of operators that regroup axes: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Expand, Tile, Shape."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..axes import Atom, Axis, Extent, Prod, Sum, extent, freeze, numbers, same
from ..errors import DimensionError
from ..table import VALUE_LIMIT, Unreadable, Use, row
from ..unify import split_product
from ..values import attribute_array

INT = (int, np.integer)
AXIS = (Atom, Prod, Sum)


@row("Reshape")
def reshape(use: Use) -> None:
    """Factor both sides into common atoms, else freeze. The target follows; 0, -1 and computed extents stay."""
    ins = list(use.ax(0))
    target = use.value(1)
    if target is None or target.ndim != 1:
        raise Unreadable("its target is computed at run time")
    constant = use.array(1) is not None
    wanted: list = []
    for k, v in enumerate(target):
        v = int(v) if isinstance(v, INT) else v
        if v == 0 and isinstance(v, int) and not use.attr("allowzero", 0):
            if k >= len(ins):
                raise DimensionError(
                    "the target copies an axis that is not there",
                    node=use.node.name,
                    tensor=use.node.inputs[1].name,
                    axis=k,
                )
            v = ins[k]
        wanted.append(v)
    out = _match(use, ins, wanted)
    for v, a in zip(wanted, out, strict=True):
        if isinstance(v, AXIS):
            _follow(use, a, v)
    template = []
    for v, raw, a in zip(wanted, target, out, strict=True):
        literal = isinstance(raw, INT) and int(raw) in (0, -1) and not (int(raw) == 0 and use.attr("allowzero", 0))
        if not constant and (v is None or (isinstance(v, int) and v > 0)):
            freeze(a, f"Reshape {use.node.name}: its target is computed")
        template.append(int(raw) if literal else a)
    if constant:
        use.operand(1, template)
    use.out(out)
    values, sizes = use.known(0), numbers([extent(a) for a in out])
    if values is not None and sizes is not None:
        use.result(values.reshape(sizes))


def _follow(use: Use, a: Axis, v: Axis) -> None:
    """The computed extent of `v` is that of `a`: both must change together, or not at all."""
    m, n = extent(a), extent(v)
    if same(a, v):
        return
    if m is not None and m == n:
        use.tie(a, v, 1, 0)
    else:
        use.fix(a, v, why="its target is computed")


def _size(v) -> Extent:
    return extent(v) if isinstance(v, AXIS) else v


def _alike(a: Axis, v) -> bool:
    """Whether target entry `v` surely stands for `a`; of two extents of 0 that says nothing, since all products are 0."""
    n = extent(a)
    if isinstance(v, AXIS):
        return same(a, v) or (n is not None and n != 0 and n == extent(v))
    return isinstance(v, int) and v > 0 and n == v


def _match(use: Use, ins: list[Axis], wanted: list) -> list[Axis]:
    left: list[Axis] = []
    right: list[Axis] = []
    lo_i, lo_o, hi_i, hi_o = 0, 0, len(ins), len(wanted)
    while True:  # groups of equal products from the left
        got = _group(ins[lo_i:hi_i], wanted[lo_o:hi_o])
        if got is None:
            break
        left += _regroup(use, ins[lo_i : lo_i + got[0]], wanted[lo_o : lo_o + got[1]])
        lo_i, lo_o = lo_i + got[0], lo_o + got[1]
    while True:  # and from the right
        got = _group(ins[lo_i:hi_i][::-1], wanted[lo_o:hi_o][::-1])
        if got is None:
            break
        right = _regroup(use, ins[hi_i - got[0] : hi_i], wanted[hi_o - got[1] : hi_o]) + right
        hi_i, hi_o = hi_i - got[0], hi_o - got[1]
    return left + _rest(use, ins[lo_i:hi_i], wanted[lo_o:hi_o]) + right


def _group(ins: list[Axis], wanted: list) -> tuple[int, int] | None:
    """The shortest non-empty heads of both lists with the same known product."""
    if not ins or not wanted:
        return None
    if _alike(ins[0], wanted[0]):
        return 1, 1
    m, n, i, o = extent(ins[0]), _size(wanted[0]), 1, 1
    while isinstance(m, int) and isinstance(n, int) and n >= 0 and m != n:
        if m < n:
            if i == len(ins):
                return None
            step, i = extent(ins[i]), i + 1
            m = m * step if isinstance(step, int) else None
        else:
            if o == len(wanted):
                return None
            step, o = _size(wanted[o]), o + 1
            n = n * step if isinstance(step, int) and step >= 0 else None
    return (i, o) if isinstance(m, int) and m == n and m > 0 else None


def _regroup(use: Use, ins: list[Axis], wanted: list) -> list[Axis]:
    if len(ins) == len(wanted) == 1:
        return ins
    sizes = [_size(v) for v in wanted]
    big = [s for s in sizes if s != 1]
    whole = ins[0] if len(ins) == 1 else Prod(ins)
    pieces: tuple[Axis, ...] | None = (whole,) * len(big)
    if len(big) > 1:
        known = numbers(big)
        pieces = split_product(whole, known) if known is not None else None
    if pieces is None:
        why = f"Reshape {use.node.name}: its factors are no refinement of its input's"
        freeze(whole, why)
        return [Atom(s, why) for s in sizes]
    left = iter(pieces)
    return [next(left) if s != 1 else Atom(1, "extent 1") for s in sizes]


def _rest(use: Use, ins: list[Axis], wanted: list) -> list[Axis]:
    """What is left between the matched ends: it holds a -1, or extents that are not known."""
    if not wanted:
        if any(isinstance(extent(a), int) for a in ins if extent(a) != 1):
            _disagree(use, ins, wanted)
        use.fix(*ins, why="it must be 1")
        return []
    unknown = [k for k, v in enumerate(wanted) if v is None or (v == -1 and isinstance(v, int))]
    m = numbers([extent(a) for a in ins])
    if len(unknown) == 1 and m is not None:
        others = numbers([_size(v) for k, v in enumerate(wanted) if k != unknown[0]])
        if others is not None:
            rest = prod(others)
            if rest == 0 or prod(m) % rest:
                _disagree(use, ins, wanted)
            wanted = list(wanted)
            wanted[unknown[0]] = prod(m) // rest
            if 0 not in m:  # where nothing is left to divide, equal extents say nothing of the rest
                return _match(use, ins, wanted) if len(ins) > 0 else [Atom(1, "extent 1") for _ in wanted]
    if len(wanted) == 1:
        return [ins[0] if len(ins) == 1 else Prod(ins)]
    sizes = numbers([_size(v) for v in wanted])
    if not unknown and m is not None and sizes is not None:
        if prod(m) != prod(sizes):
            _disagree(use, ins, wanted)
        if 0 not in m:
            return _regroup(use, ins, wanted) if ins else [Atom(1, "extent 1") for _ in wanted]
    why = f"Reshape {use.node.name}: unknown extents"
    for a in ins:
        freeze(a, why)
    return [Atom(s if isinstance(s := _size(v), (str, int)) and s != -1 else None, why) for v in wanted]


def _disagree(use: Use, ins: list[Axis], wanted: list) -> None:
    raise DimensionError(
        "Reshape does not fit", node=use.node.name, tensor=use.node.inputs[0].name,
        expected=f"elements for {[_size(v) for v in wanted]}", found=[extent(a) for a in ins],
    )  # fmt: skip


@row("Flatten")
def flatten(use: Use) -> None:
    """n c *s -> n c·*s"""
    xs = use.ax(0)
    k = use.attr("axis", 1)
    k = k + len(xs) if k < 0 else k
    out = [xs[:k], xs[k:]]
    use.out([use.fixed(1) if not part else part[0] if len(part) == 1 else Prod(part) for part in out])


@row("Squeeze")
def squeeze(use: Use) -> None:
    xs = use.ax(0)
    axes = use.ints("axes", 1)
    if axes is None:
        if use.has(1) or any(not isinstance(extent(a), int) for a in xs):
            raise Unreadable("its axes are not known")
        axes = [k for k, a in enumerate(xs) if extent(a) == 1]
        use.fix(*xs, why="it names no axes and would drop one that shrinks to 1")
    gone = {k % len(xs) for k in axes}
    for k in gone:
        if isinstance(extent(xs[k]), int) and extent(xs[k]) != 1:
            raise DimensionError(
                "Squeeze does not fit",
                node=use.node.name,
                tensor=use.node.inputs[0].name,
                axis=k,
                expected=1,
                found=extent(xs[k]),
            )
        use.fix(xs[k])
    use.out([a for k, a in enumerate(xs) if k not in gone])
    _pass_values(use, lambda v: v.reshape(()) if v.size == 1 and not use.outs[0] else v)


@row("Unsqueeze")
def unsqueeze(use: Use) -> None:
    xs = list(use.ax(0))
    axes = use.ints("axes", 1)
    if axes is None:
        raise Unreadable("its axes are computed at run time")
    rank = len(xs) + len(axes)
    for k in sorted(k % rank for k in axes):
        xs.insert(k, use.fixed(1))
    use.out(xs)
    _pass_values(use, lambda v: v.reshape((1,) * rank) if v.ndim == 0 else v if rank == 1 else None)


def _pass_values(use: Use, f) -> None:
    array = use.array(0)
    if use.node.inputs[0].name in use.analysis.values or (
        array is not None and array.dtype.kind == "i" and array.size <= VALUE_LIMIT
    ):
        got = f(use.value(0))
        if got is None:
            use._read.discard(0)
        else:
            use.result(got)


@row("Transpose")
def transpose(use: Use) -> None:
    xs = use.ax(0)
    perm = use.attr("perm") or list(range(len(xs)))[::-1]
    if sorted(perm) != list(range(len(xs))):
        raise DimensionError(
            "perm is no permutation of the axes",
            node=use.node.name,
            tensor=use.node.inputs[0].name,
            expected=f"rank {len(perm)}",
            found=f"rank {len(xs)}",
        )
    use.out([xs[k] for k in perm])


@row("Expand")
def expand(use: Use) -> None:
    """Axes of extent 1 are stretched to a fixed extent, the others pass through; the target follows them."""
    xs = use.ax(0)
    target = use.value(1)
    if target is None or target.ndim != 1:
        raise Unreadable("its target is computed at run time")
    rank = max(len(xs), len(target))
    own = [None] * (rank - len(xs)) + list(xs)
    want = [1] * (rank - len(target)) + [int(v) if isinstance(v, INT) else v for v in target]
    out: list[Axis] = []
    for d, (a, v) in enumerate(zip(own, want, strict=True)):
        n = _size(v)
        if a is not None and extent(a) != 1:
            if isinstance(n, int) and isinstance(extent(a), int) and n not in (1, extent(a)):
                raise DimensionError(
                    "Expand does not fit",
                    node=use.node.name,
                    tensor=use.node.inputs[0].name,
                    axis=d - rank + len(xs),
                    expected=f"1 or {n}",
                    found=extent(a),
                )
            if isinstance(n, int) and n != 1 and not isinstance(extent(a), int):
                use.fix(a, *([v] if isinstance(v, AXIS) else []), why="it stretches or keeps an unknown extent")
                out.append(use.fixed(n))
                continue
            if isinstance(v, int) and v != 1 and use.array(1) is None:
                use.fix(a, why="its target is computed")
            elif v is None or (
                isinstance(v, AXIS) and not same(a, v) and (extent(v) is None or extent(v) != extent(a))
            ):
                use.fix(a, *([] if v is None else [v]), why="it stretches or keeps an unknown extent")
                a = use.fixed(extent(a) if isinstance(extent(a), int) else None)
            elif isinstance(v, AXIS):
                _follow(use, a, v)
            out.append(a)
        elif isinstance(v, AXIS):
            use.fix(v)
            out.append(v)
        else:
            out.append(use.fixed(n))
    if use.array(1) is not None:
        tail = out[rank - len(target) :]
        use.operand(1, [1 if int(v) == 1 else a for v, a in zip(target, tail, strict=True)])
    use.out(out)


@row("Tile")
def tile(use: Use) -> None:
    """An axis that is repeated r times is r·axis."""
    xs = use.ax(0)
    repeats = use.value(1)
    if repeats is None or len(repeats) != len(xs):
        raise Unreadable("its repeats are computed at run time")
    out: list[Axis] = []
    for a, r in zip(xs, repeats, strict=True):
        if isinstance(r, INT):
            out.append(a if r == 1 else Prod((use.fixed(int(r)), a)) if isinstance(extent(a), int) else use.fixed(None))
        else:
            use.fix(a)
            if isinstance(r, AXIS) and extent(a) == 1:
                out.append(r)
            else:
                if r is not None:
                    use.fix(r)
                out.append(use.fixed(None))
    use.out(out)


@row("Shape")
def shape(use: Use) -> None:
    xs = use.ax(0)
    start, end = use.attr("start", 0), use.attr("end", len(xs))
    picked = xs[slice(start, end)]
    use.out([use.fixed(len(picked))])
    values = np.empty(len(picked), object)
    values[:] = picked
    use.result(values)


@row("ConstantOfShape")
def constant_of_shape(use: Use) -> None:
    target = use.value(0)
    if target is None:
        raise Unreadable("its shape is computed at run time")
    for v in target.ravel():
        if isinstance(v, AXIS):
            use.fix(v)
    use.out([v if isinstance(v, AXIS) else use.fixed(None if v is None else int(v)) for v in target.ravel()])
    fill = attribute_array(use.attr("value"))
    sizes = [_size(v) for v in target.ravel()]
    known = [int(s) for s in sizes if isinstance(s, INT)]
    if fill is not None and fill.dtype == np.int64 and len(known) == len(sizes) and prod(known) <= 64:
        use.result(np.full(known, int(fill.ravel()[0]), object))


@row("Range")
def arange(use: Use) -> None:
    values = [use.value(i) for i in range(3)]
    scalars: list[Any] = [v.ravel()[0] if v is not None and v.size == 1 else None for v in values]
    first, limit, step = scalars
    n = None
    if all(isinstance(v, (int, float, np.number)) for v in (first, limit, step)) and step != 0:
        n = max(0, int(np.ceil((limit - first) / step)))
    for v in (first, limit, step):
        if isinstance(v, AXIS):
            use.fix(v)
    if n is None and isinstance(limit, AXIS) and first == 0 and step == 1:
        use.out([limit])
    else:
        use.out([use.fixed(n)])
