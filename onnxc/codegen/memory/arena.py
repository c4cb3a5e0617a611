"""Offsets in the arena: tensors that are never live together share bytes.

Largest first, each at the lowest gap among those placed that live at the same time (greedy by size; Pisarchyk and Lee,
Efficient Memory Management for Deep Neural Net Inference, 2020). Several orders are tried, as none is always best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGN = 64


@dataclass(frozen=True)
class Tenant:
    """A buffer of `size` bytes that lives from call `first` to call `last`, both included."""

    size: int
    first: int
    last: int


def aligned(count: int) -> int:
    """`count` bytes rounded up to the alignment."""
    return -(-count // ALIGN) * ALIGN


def largest_live_set(tenants: Sequence[Tenant]) -> int:
    """The most bytes that live at once: no assignment takes less."""
    change: dict[int, int] = {}
    for t in tenants:
        change[t.first] = change.get(t.first, 0) + t.size
        change[t.last + 1] = change.get(t.last + 1, 0) - t.size
    most = now = 0
    for _, delta in sorted(change.items()):
        now += delta
        most = max(most, now)
    return most


_ORDERS: tuple[Callable[[Tenant], tuple], ...] = (
    lambda t: (-t.size, t.first),
    lambda t: (-t.size * (t.last - t.first + 1), t.first),
    lambda t: (t.first - t.last, -t.size, t.first),
    lambda t: (t.first, -t.size),
)


def assign(tenants: Sequence[Tenant]) -> tuple[list[int], int]:
    """An offset for each buffer, all multiples of 64, and the bytes in all; the same for the same input."""
    best: tuple[list[int], int] | None = None
    bound = largest_live_set([Tenant(aligned(t.size), t.first, t.last) for t in tenants])
    for order in _ORDERS:
        found = _place(tenants, sorted(range(len(tenants)), key=lambda i: (order(tenants[i]), i)))
        best = found if best is None or found[1] < best[1] else best
        if best[1] == bound:
            break
    assert best is not None
    return best


def _place(tenants: Sequence[Tenant], order: list[int]) -> tuple[list[int], int]:
    offsets = [0] * len(tenants)
    placed: list[int] = []  # by offset
    for i in order:
        t, at, size = tenants[i], 0, aligned(tenants[i].size)
        for j in placed:
            other = tenants[j]
            if other.last < t.first or t.last < other.first:
                continue
            if offsets[j] - at >= size:
                break
            at = max(at, offsets[j] + aligned(other.size))
        offsets[i] = at
        placed.append(i)
        placed.sort(key=lambda k: (offsets[k], k))
    return offsets, max((offsets[i] + aligned(t.size) for i, t in enumerate(tenants)), default=0)
