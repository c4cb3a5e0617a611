"""The order of a plan's calls for which the least is live at once.

    a = f(x); b = g(x); c = h(a); d = k(b, c)     with a small c and large a, b:   f h g k instead of f g h k

Exact, by the sets of calls that can have been made: dynamic programming over those, as long as there are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_STATES = 20_000


def best_order(
    reads: Sequence[frozenset[int]], writes: Sequence[frozenset[int]], sizes: Mapping[int, int], work: Sequence[int]
) -> list[int]:
    """An order of calls; call i reads and writes tensors by number, of `sizes` bytes, and has a workspace of work[i] bytes.

    Tensors that nobody reads live on. The given order, where it is as good or there are too many others.
    """
    count = len(reads)
    makers = {t: i for i, made in enumerate(writes) for t in made}
    needs = [frozenset(makers[t] for t in r if t in makers and makers[t] != i) for i, r in enumerate(reads)]
    readers: dict[int, set[int]] = {}
    for i, used in enumerate(reads):
        for t in used:
            readers.setdefault(t, set()).add(i)

    def step(done: frozenset[int], live: int, i: int) -> tuple[int, int]:
        """The bytes during call i, and those after it."""
        grown = live + sum(sizes[t] for t in writes[i] if t in sizes)
        after = done | {i}
        gone = sum(sizes[t] for t in reads[i] if t in sizes and readers[t] <= after)
        return grown + work[i], grown - gone

    layer: dict[frozenset[int], tuple[int, int, tuple[int, ...]]] = {frozenset(): (0, 0, ())}
    seen = 0
    for _ in range(count):
        following: dict[frozenset[int], tuple[int, int, tuple[int, ...]]] = {}
        for done, (peak, live, path) in layer.items():
            for i in range(count):
                if i in done or not needs[i] <= done:
                    continue
                now, after = step(done, live, i)
                made = (max(peak, now), after, (*path, i))
                key = done | {i}
                if key not in following or made[::2] < following[key][::2]:
                    following[key] = made
        seen += len(following)
        if seen > MOST_STATES:
            return list(range(count))
        layer = following
    ((peak, _, path),) = layer.values() if layer else ((0, 0, ()),)
    return list(path)
