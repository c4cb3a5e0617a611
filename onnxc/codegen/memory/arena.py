"""Offsets in the arena: tensors that are never live together share bytes, and results lie over operands where their kernel allows.

Largest first, each at the lowest place that those placed before leave free (greedy by size; Pisarchyk and Lee,
Efficient Memory Management for Deep Neural Net Inference, 2020). Several orders are tried, as none is always best.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGN = 64
TRIES = 200  # orders at random, where none of ORDERS is the best that there can be
MOST_TRIED = 100  # buffers; with more, time goes into better things


@dataclass(frozen=True)
class Tenant:
    """A buffer of `size` bytes that lives from call `first` to call `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Overlap:
    """Buffer `y`, a result, may lie over `x`, which dies with the call that makes y: at the very place of x if `same`, else
    so that x begins `ahead` bytes or more after y."""

    x: int
    y: int
    same: bool
    ahead: int = 0


def aligned(count: int, align: int = ALIGN) -> int:
    """`count` bytes rounded up to the alignment."""
    return -(-count // align) * align


def largest_live_set(tenants: Sequence[Tenant], overlaps: Sequence[Overlap] = ()) -> int:
    """The most bytes that live at once, where what may lie over one another counts once: no assignment takes less."""
    end = max((t.last for t in tenants), default=-1) + 1
    return max(live_bytes(tenants, overlaps, end), default=0)


def live_bytes(tenants: Sequence[Tenant], overlaps: Sequence[Overlap], calls: int) -> list[int]:
    """The bytes that live at each of `calls` calls, where what may lie over one another counts once."""
    change = [0] * (calls + 1)
    for t in tenants:
        change[min(t.first, calls)] += t.size
        change[min(t.last + 1, calls)] -= t.size
    saved: dict[int, int] = {}
    for o in overlaps:
        saved[o.y] = max(saved.get(o.y, 0), min(tenants[o.x].size, tenants[o.y].size))
    live = list(itertools.accumulate(change[:calls]))
    for y, count in saved.items():
        if tenants[y].first < calls:
            live[tenants[y].first] -= count
    return live


_ORDERS: tuple[Callable[[Tenant], tuple], ...] = (
    lambda t: (-t.size, t.first),
    lambda t: (-t.size * (t.last - t.first + 1), t.first),
    lambda t: (t.first - t.last, -t.size, t.first),
    lambda t: (t.first, -t.size),
    lambda t: (-t.first, -t.size),
)


def assign(tenants: Sequence[Tenant], overlaps: Sequence[Overlap] = (), align: int = ALIGN) -> tuple[list[int], int]:
    """An offset for each buffer, all multiples of `align`, and the bytes in all; the same for the same input."""
    best: tuple[list[int], int] | None = None
    rounded = [Tenant(aligned(t.size, align), t.first, t.last) for t in tenants]
    bound = largest_live_set(rounded, overlaps)
    pairs = {pair: o for o in overlaps for pair in ((o.x, o.y), (o.y, o.x))}
    numbers = range(len(tenants))
    orders = [sorted(numbers, key=lambda i: (order(tenants[i]), i)) for order in _ORDERS]
    dice = random.Random(0)
    orders += [
        dice.sample(numbers, len(tenants)) for _ in range(TRIES if overlaps and len(tenants) <= MOST_TRIED else 0)
    ]
    for order in orders:
        found = _place(rounded, order, pairs, align)
        best = found if best is None or found[1] < best[1] else best
        if best[1] == bound:
            break
    assert best is not None
    return best


def _place(
    tenants: Sequence[Tenant], order: Sequence[int], pairs: dict[tuple[int, int], Overlap], align: int
) -> tuple[list[int], int]:
    offsets = [0] * len(tenants)
    placed: list[int] = []
    for i in order:
        t, at = tenants[i], 0
        barred = []  # open intervals
        for j in placed:
            other = tenants[j]
            if not (other.last < t.first or t.last < other.first):
                barred += _barred(i, t.size, offsets[j], other.size, pairs.get((i, j)))
        for low, high in sorted(barred):
            if low < at < high:
                at = aligned(high, align)
        offsets[i] = at
        placed.append(i)
    return offsets, max((offsets[i] + t.size for i, t in enumerate(tenants)), default=0)


def _barred(i: int, size: int, at: int, extent: int, over: Overlap | None) -> list[tuple[int, int]]:
    """Between which offsets buffer i of `size` bytes must not begin beside one of `extent` bytes at `at`."""
    if over is None:
        return [(at - size, at + extent)]
    if over.same:
        return [(at - size, at), (at, at + extent)]
    return [(at - over.ahead, at + extent)] if i == over.y else [(at - size, at + over.ahead)]
