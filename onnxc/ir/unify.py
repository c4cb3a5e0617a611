"""Unification of axes: two become one, composite ones by a common refinement, and an axis is cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np

from .axes import (
    Aligned,
    Atom,
    Axis,
    Conflict,
    Prod,
    Sum,
    atoms,
    extent,
    find,
    freeze,
    normal,
    number,
    numbers,
    same,
    soften,
)  # fmt: skip


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
    elif isinstance(a, (Prod, Sum)) and isinstance(b, (Prod, Sum)) and not _refine(a, b, reason):
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


def _refine(a: Prod | Sum, b: Prod | Sum, reason: str) -> bool:
    """Tie two composite axes part by part; False where they share no refinement."""
    if isinstance(a, Prod) and isinstance(b, Sum):
        return _refine_across(a, b, reason)
    if isinstance(a, Sum) and isinstance(b, Prod):
        return _refine_across(b, a, reason)
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


def _refine_across(product: Prod, total: Sum, reason: str) -> bool:
    spread = _distribute(product)
    if spread is not None:
        return _refine(spread, total, reason)
    sizes = numbers([extent(p) for p in total.parts])
    pieces = split_sum(product, sizes) if sizes is not None else None
    for x, y in zip(pieces or (), total.parts, strict=bool(pieces)):
        tie(x, y, reason)
    return pieces is not None


def _refine_known(a: Prod | Sum, b: Prod | Sum, reason: str) -> bool:
    left, right = list(a.parts), list(b.parts)
    while left and right:
        x, y = normal(left[0]), normal(right[0])
        m, n = number(extent(x)), number(extent(y))
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


def split_sum(a: Axis, sizes: Sequence[int]) -> tuple[Axis, ...] | None:
    """Cut `a` into consecutive ranges of the given sizes, refining its atoms; None where a cut would split a product.

    8 -> 3+5;   (2·4 where 2 is frozen) -> 4+4;   (8·3) at 12 -> 4·3 + 4·3
    """
    a = normal(a)
    if len(sizes) == 1:
        return (a,)
    if not isinstance(extent(a), int) or sum(sizes) != extent(a):
        return None
    if type(a) is Atom:
        parts = tuple(Atom(s, a.frozen, a.soft, a.cuts + 1) for s in sizes)
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
            n = number(extent(part))
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


def _split_product_range(a: Prod, sizes: Sequence[int]) -> tuple[Axis, ...] | None:
    """Cut rows·inner at positions that may lie inside a row; such a row is frozen, and so are the inner factors then.

    80·3 at 80 and 160 -> (26·3 + 2), (1 + 26·3 + 1), (2 + 26·3)
    """
    first, rest = a.parts[0], a.parts[1:]
    inner = prod(number(extent(p)) for p in rest)
    if all(s % inner == 0 for s in sizes):
        pieces = split_sum(first, tuple(s // inner for s in sizes))
        return None if pieces is None else tuple(Prod((p, *rest)) for p in pieces)
    spread = _distribute(a)
    if spread is not None:
        return split_sum(spread, sizes)
    why = "a range that ends inside a row of a product"
    ends = np.cumsum(sizes).tolist()
    broken = {end // inner for end in ends if end % inner}
    cuts = sorted({0, number(extent(first)), *(end // inner for end in ends), *(row + 1 for row in broken)})
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


def split_product(a: Axis, sizes: Sequence[int]) -> tuple[Axis, ...] | None:
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
            n = number(extent(part))
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
