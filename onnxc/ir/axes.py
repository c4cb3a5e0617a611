"""The axis algebra: an axis is an atom, a product (row-major, as Flatten makes it) or a sum (as Concat makes it).

Reading a graph once *ties* axes together by unification. An atom that meets a product or a sum is refined into it;
an extent that disagrees raises `Conflict`. One unfrozen atom is then one group of coupled indices: a boolean mask on it
gives the mask of every tensor axis that holds it (outer product for a product, concatenation for a sum).

    Flatten of [n, c, h, w]     c tied to the rows of a fully connected weight k:   k := c·h·w
    Concat of c1 and c2         tied to the scale of a BatchNormalization s:        s := c1+c2
    channel shuffle of 8 in 2   c := 2·4, transposed 4·2, tied to a depthwise weight
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import TypeAlias

import numpy as np

Extent: TypeAlias = "int | str | None"
"""A number, the name of a symbolic dimension, or None where nothing is known."""


class Conflict(Exception):
    """Two axes that must be one have different extents."""

    def __init__(self, a: Extent, b: Extent):
        super().__init__(f"extent {a} is not {b}")
        self.a, self.b = a, b


class Atom:
    """One independent extent. `frozen` is None, or the reason why it must not change.

    `soft` is None, or (kind, reason) where an operator takes a statistic over it: removing indices is then not the
    same as zeroing them. Kind "window" (a sum over neighbours) or "statistic" (a mean, a variance).
    """

    __slots__ = ("__weakref__", "frozen", "ref", "size", "soft")

    def __init__(self, size: Extent, frozen: str | None = None, soft: tuple[str, str] | None = None):
        self.size = size
        self.ref: Axis | None = None
        self.frozen = frozen
        self.soft = soft

    def __repr__(self) -> str:
        return show(self)


class Prod:
    """A row-major product: index = (i * size(b) + j) for parts (a, b)."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        return show(self)


class Sum:
    """A disjoint sum: the indices of the first part, then those of the second, and so on."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        return show(self)


class Aligned:
    """The second weight axis of a grouped convolution: block j of its first axis holds the indices of parts[j].

    All parts have one extent and must keep equally many indices; which ones may differ from block to block.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        return show(self)


Axis: TypeAlias = "Atom | Prod | Sum | Aligned"


def find(a: Axis) -> Axis:
    """Follow substitutions to the axis that stands for `a`, shortening the path on the way."""
    if type(a) is not Atom or a.ref is None:
        return a
    root = a.ref
    while type(root) is Atom and root.ref is not None:
        root = root.ref
    while a is not root and type(a) is Atom and a.ref is not root:
        a.ref, a = root, a.ref
    return root


def extent(a: Axis) -> Extent:
    """The number of indices of `a`; None for a product or sum with a part that is not a number."""
    a = find(a)
    if type(a) is Atom:
        return a.size
    if type(a) is Aligned:
        return extent(a.parts[0])
    sizes = [extent(p) for p in a.parts]
    if len(sizes) == 1:
        return sizes[0]
    if not all(isinstance(s, int) for s in sizes):
        return None
    return prod(sizes) if type(a) is Prod else sum(sizes)


def atoms(a: Axis) -> Iterator[Atom]:
    """The atoms of `a`, left to right; one that stands twice is given twice."""
    a = find(a)
    if type(a) is Atom:
        yield a
    else:
        for part in a.parts:
            yield from atoms(part)


def normal(a: Axis) -> Axis:
    """`a` with nested products and sums flattened, factors of extent 1 and summands of extent 0 dropped."""
    a = find(a)
    if type(a) is Atom or type(a) is Aligned:
        return a
    kind, neutral = type(a), 1 if type(a) is Prod else 0
    parts: list[Axis] = []
    for part in a.parts:
        part = normal(part)
        parts += part.parts if type(part) is kind else [part]
    parts = [p for p in parts if extent(p) != neutral] or parts[:1]
    return parts[0] if len(parts) == 1 else kind(parts)


def freeze(a: Axis, reason: str) -> None:
    """Forbid any change to the atoms of `a`; the first reason given stays."""
    for atom in atoms(a):
        if atom.frozen is None:
            atom.frozen = reason


def soften(a: Axis, kind: str, reason: str) -> None:
    """Record that a statistic is taken over the atoms of `a`; "statistic" outweighs "window"."""
    for atom in atoms(a):
        if atom.soft is None or (atom.soft[0] == "window" and kind == "statistic"):
            atom.soft = (kind, reason)


def frozen(a: Axis) -> str | None:
    """The reason why some atom of `a` is frozen, or None."""
    return next((x.frozen for x in atoms(a) if x.frozen is not None), None)


def same(a: Axis, b: Axis) -> bool:
    """Whether both are known to be the same axis."""
    a, b = normal(a), normal(b)
    if a is b:
        return True
    return (
        type(a) is type(b)
        and type(a) is not Atom
        and len(a.parts) == len(b.parts)
        and all(same(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    )


def tie(a: Axis, b: Axis, reason: str = "axes that do not factor alike") -> None:
    """Make `a` and `b` one axis. Raises Conflict where their extents are different numbers.

    Where both are composite and no common refinement exists, all their atoms are frozen with `reason`.
    """
    a, b = normal(a), normal(b)
    if a is b:
        return
    m, n = extent(a), extent(b)
    if isinstance(m, int) and isinstance(n, int) and m != n:
        raise Conflict(m, n)
    if type(a) is not Atom and type(b) is Atom:
        a, b = b, a
    if type(a) is Atom:
        _substitute(a, b, reason)
    elif type(a) is Aligned or type(b) is Aligned:
        for x in a.parts if type(a) is Aligned else (a,):
            for y in b.parts if type(b) is Aligned else (b,):
                tie(x, y, reason)
    elif not _refine(a, b, reason):
        freeze(a, reason)
        freeze(b, reason)


def _substitute(a: Atom, b: Axis, reason: str) -> None:
    if any(x is a for x in atoms(b)):
        freeze(b, reason)
        return
    if type(b) is Atom:
        if not isinstance(b.size, int) and (isinstance(a.size, int) or b.size is None):
            b.size = a.size
    elif isinstance(a.size, int) and extent(b) is None:
        freeze(b, reason)
    if a.frozen is not None:
        freeze(b, a.frozen)
    if a.soft is not None:
        soften(b, *a.soft)
    a.ref = b


def _refine(a: Axis, b: Axis, reason: str) -> bool:
    """Tie two composite axes part by part; False where they share no refinement."""
    if type(a) is not type(b):
        product, total = (a, b) if type(a) is Prod else (b, a)
        spread = _distribute(product)
        if spread is not None:
            return _refine(spread, total, reason)
        sizes = tuple(extent(p) for p in total.parts)
        pieces = split_sum(product, sizes) if all(isinstance(n, int) for n in sizes) else None
        for x, y in zip(pieces or (), total.parts, strict=bool(pieces)):
            tie(x, y, reason)
        return pieces is not None
    if all(isinstance(extent(p), int) for p in (*a.parts, *b.parts)):
        return _refine_known(a, b, reason)
    if len(a.parts) != len(b.parts):
        return False
    pairs = list(zip(a.parts, b.parts, strict=True))
    if sum(extent(x) is None or extent(x) != extent(y) for x, y in pairs if not same(x, y)) > 1:
        return False  # 2·n and n·2 with n unknown: equal extents, different order
    for x, y in pairs:
        tie(x, y, reason)
    return True


def _refine_known(a: Axis, b: Axis, reason: str) -> bool:
    left, right = list(a.parts), list(b.parts)
    while left and right:
        x, y = normal(left[0]), normal(right[0])
        m, n = extent(x), extent(y)
        if m == n:
            tie(x, y, reason)
            left.pop(0)
            right.pop(0)
            continue
        if m < n:
            left, right, x, y, m, n = right, left, y, x, n, m
        pieces = split_sum(x, (n, m - n)) if type(a) is Sum else split_product(x, (n, m // n)) if m % n == 0 else None
        if pieces is None:
            return False
        left[0:1] = pieces
    return not left and not right


def _distribute(a: Prod) -> Sum | None:
    """(x+y)·z is x·z + y·z, and k·z is z+...+z for a frozen k; None where the first factor is a free atom."""
    first, rest = find(a.parts[0]), a.parts[1:]
    if type(first) is Sum:
        return Sum([Prod((p, *rest)) for p in first.parts])
    if type(first) is Atom and first.frozen is not None and isinstance(first.size, int) and first.size <= 64:
        return Sum([Prod(rest)] * first.size)
    return None


def split_sum(a: Axis, sizes: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """Cut `a` into consecutive ranges of the given sizes, refining its atoms; None where a cut would split a product.

    8 -> 3+5;   (2·4 where 2 is frozen) -> 4+4;   (8·3) at 12 -> 4·3 + 4·3
    """
    sizes = tuple(s for s in sizes)
    a = normal(a)
    if len(sizes) == 1:
        return (a,)
    if not isinstance(extent(a), int) or sum(sizes) != extent(a):
        return None
    if type(a) is Atom:
        parts = tuple(Atom(s, a.frozen, a.soft) for s in sizes)
        a.ref = Sum(parts)
        return parts
    if type(a) is Prod:
        return _split_product_range(a, sizes)
    queue = list(a.parts)
    result: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        left = size
        while left:
            part = queue.pop(0)
            n = extent(part)
            if n > left:
                pieces = split_sum(part, (left, n - left))
                if pieces is None:
                    return None
                part, rest = pieces
                queue.insert(0, rest)
                n = left
            taken.append(part)
            left -= n
        result.append(Atom(0, "extent 0") if not taken else taken[0] if len(taken) == 1 else Sum(taken))
    return tuple(result)


def _split_product_range(a: Prod, sizes: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """Cut rows·inner at positions that may lie inside a row; such a row is frozen, and so are the inner factors then.

    80·3 at 80 and 160 -> (26·3 + 2), (1 + 26·3 + 1), (2 + 26·3)
    """
    first, rest = a.parts[0], a.parts[1:]
    inner = prod(extent(p) for p in rest)
    if all(s % inner == 0 for s in sizes):
        pieces = split_sum(first, tuple(s // inner for s in sizes))
        return None if pieces is None else tuple(Prod((p, *rest)) for p in pieces)
    spread = _distribute(a)
    if spread is not None:
        return split_sum(spread, sizes)
    why = "a range that ends inside a row of a product"
    ends = np.cumsum(sizes).tolist()
    broken = {end // inner for end in ends if end % inner}
    cuts = sorted({0, extent(first), *(end // inner for end in ends), *(row + 1 for row in broken)})
    rows = split_sum(first, tuple(b - a for a, b in pairwise(cuts)))
    if rows is None:
        return None
    for p in rest:
        freeze(p, why)
    result: list[Axis] = []
    start = 0
    for end in ends:
        taken: list[Axis] = []
        for row, low, high in zip(rows, cuts, cuts[1:], strict=False):
            overlap = min(end, high * inner) - max(start, low * inner)
            if overlap <= 0:
                continue
            if low in broken:
                freeze(row, why)
                taken.append(Atom(overlap, why))
            else:
                taken.append(Prod((row, *rest)))
        result.append(taken[0] if len(taken) == 1 else Sum(taken))
        start = end
    return tuple(result)


def split_product(a: Axis, sizes: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """Factor `a` into row-major factors of the given sizes, refining its atoms; None where that is impossible.

    8 -> 2·4;   (4+4) into 2·4 -> frozen 2, and both summands tied
    """
    a = normal(a)
    if not isinstance(extent(a), int) or prod(sizes) != extent(a):
        return None
    if type(a) is Atom:
        parts = tuple(Atom(s, a.frozen, a.soft) for s in sizes)
        a.ref = Prod(parts)
        return parts
    if type(a) is Sum:
        if len(sizes) != 2 or sizes[0] < 2:
            return None
        pieces = split_sum(a, (sizes[1],) * sizes[0])
        if pieces is None:
            return None
        for piece in pieces[1:]:
            tie(pieces[0], piece)
        return Atom(sizes[0], "a factor that repeats one axis"), pieces[0]
    result: list[Axis] = []
    queue = list(a.parts)
    for size in sizes:
        taken: list[Axis] = []
        left = size
        while left > 1:
            part = queue.pop(0)
            n = extent(part)
            if n > left:
                pieces = split_product(part, (left, n // left)) if n % left == 0 else None
                if pieces is None:
                    return None
                part, rest = pieces
                queue.insert(0, rest)
                n = left
            elif left % n:
                return None
            taken.append(part)
            left //= n
        result.append(Atom(1, "extent 1") if not taken else taken[0] if len(taken) == 1 else Prod(taken))
    return tuple(result)


def mask(a: Axis, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    """The boolean mask of `a`, shape [extent(a)], from masks of atoms; atoms without one are kept whole."""
    a = find(a)
    if type(a) is Atom:
        got = keep.get(a)
        return np.ones(a.size, bool) if got is None else got
    if type(a) is Aligned:
        raise TypeError("an aligned axis has a mask for each block, not one")
    masks = [mask(p, keep) for p in a.parts]
    if type(a) is Sum:
        return np.concatenate(masks)
    out = masks[0]
    for m in masks[1:]:
        out = np.logical_and.outer(out, m).ravel()
    return out


def kept(a: Axis, keep: Mapping[Atom, np.ndarray]) -> int:
    """How many indices of `a` stay under the masks of its atoms."""
    a = find(a)
    if type(a) is Atom:
        got = keep.get(a)
        return a.size if got is None else int(np.count_nonzero(got))
    sizes = [kept(p, keep) for p in a.parts]
    if type(a) is Aligned:
        return max(sizes)
    return prod(sizes) if type(a) is Prod else sum(sizes)


def touched(a: Axis, keep: Mapping[Atom, np.ndarray]) -> bool:
    """Whether any atom of `a` has a mask."""
    return any(x in keep for x in atoms(a))


def show(a: Axis) -> str:
    """`64`, `3·8`, `16+16`, `N`, `?`: how an axis stands in messages."""
    a = find(a)
    if type(a) is Atom:
        return "?" if a.size is None else str(a.size)
    if type(a) is Aligned:
        return show(a.parts[0])
    if type(a) is Prod:
        return "·".join(f"({show(p)})" if type(find(p)) is Sum else show(p) for p in a.parts)
    return "+".join(show(p) for p in a.parts)
