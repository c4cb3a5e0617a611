"""The optimal clusters of numbers on a line, by dynamic programming over the cells of a grid.

D[k, j], the least error of the first j cells in k clusters, is min over i of D[k-1, i] + error(i, j). The best i
never decreases with j (Wang and Song 2011, Ckmeans.1d.dp), so the j of a row are halved level by level: the middle of
a run looks only between the best i of its neighbours. All middles of a level are looked at in one array operation.
A grid with a cell for each distinct number makes the result the optimum; a coarser one, the optimum of cuts on it.
"""

from __future__ import annotations

import numpy as np

from .cluster_points import Points, grid, mirrored, part


class Rows:
    """D row by row over the edges `at` (places in `p`, ascending): `add` appends the next k, `edges` walks back."""

    def __init__(self, p: Points, at: np.ndarray):
        self.at = at
        self.s0, self.s1, self.s2 = p.sums(at)
        start = np.full(len(at), np.inf)
        start[0] = 0
        self.costs = [start]
        self.froms: list[np.ndarray] = []

    def error(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The error of one cluster over the cells i to j."""
        mass = self.s0[j] - self.s0[i]
        first = self.s1[j] - self.s1[i]
        square = np.divide(first * first, mass, out=np.zeros(len(mass)), where=mass > 0)
        return np.maximum(self.s2[j] - self.s2[i] - square, 0)

    def add(self) -> None:
        """The row of one more cluster: at most k clusters, as i = j makes an empty one."""
        last = self.costs[-1]
        n = len(self.at)
        best = np.zeros(n, np.int64)
        cost = np.full(n, np.inf)
        step = 1 << max(n - 1, 1).bit_length()
        while step >= 1:
            middles = np.arange(step - 1, n, 2 * step)
            self._level(middles, step, last, best, cost)
            step //= 2
        self.costs.append(cost)
        self.froms.append(best)

    def _level(self, middles: np.ndarray, step: int, last: np.ndarray, best: np.ndarray, cost: np.ndarray) -> None:
        n = len(self.at)
        before, after = middles - step, middles + step
        low = np.where(before >= 0, best[np.maximum(before, 0)], 0)
        high = np.where(after < n, best[np.minimum(after, n - 1)], n - 1)
        high = np.minimum(high, middles)
        counts = np.maximum(high - low, 0) + 1
        starts = np.cumsum(counts) - counts
        i = np.arange(counts.sum()) + np.repeat(low - starts, counts)
        total = last[i] + self.error(i, np.repeat(middles, counts))
        least = np.minimum.reduceat(total, starts)
        hits = np.flatnonzero(total == np.repeat(least, counts))
        first = hits[np.searchsorted(hits, starts)]
        best[middles] = i[first]
        cost[middles] = least

    def edges(self, k: int, j: int) -> np.ndarray:
        """The places, from 0 to at[j], that cut the first j cells into k clusters."""
        found = [j]
        for row in reversed(self.froms[:k]):
            found.append(int(row[found[-1]]))
        return self.at[found[::-1]]


def optimal(p: Points, k: int, cells: int) -> np.ndarray:
    """The places that cut `p` into at most k clusters of least error, int64 [k + 1]; a cluster may be empty."""
    rows = Rows(p, grid(p, cells))
    for _ in range(k):
        rows.add()
    return rows.edges(k, len(rows.at) - 1)


def optimal_with_zero(p: Points, k: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """At most k clusters of least error, one of which has the code 0: (places [k + 1], codes [k]).

    The cluster of 0 is an interval about 0, so the numbers below it and those above are clustered apart:
    min over k1 + k2 = k - 1 of A[k1] + B[k2], where A[k1] is the least of D[k1, i] + sum of squares from i up to 0.
    """
    zero = int(np.searchsorted(p.x, 0))
    sides = [_Side(part(p, 0, zero), k - 1, cells), _Side(mirrored(part(p, zero, p.size)), k - 1, cells)]
    below = int(np.argmin(sides[0].least + sides[1].least[::-1]))
    left = sides[0].places(below)
    right = p.size - sides[1].places(k - 1 - below)[::-1]
    edges = np.concatenate([left, right])
    codes = p.cells(edges).means(np.zeros(k))
    codes[below] = 0
    return edges, codes


class _Side:
    """The numbers below 0. least: float64 [k + 1], the least error of j clusters and a rest that is coded as 0."""

    def __init__(self, p: Points, k: int, cells: int):
        self.rows = rows = Rows(p, grid(p, cells)) if p.size else None
        self.least = np.zeros(k + 1)
        self.ends = np.zeros(k + 1, np.int64)
        if rows is None:
            return
        rest = p.square() - rows.s2
        for j in range(k + 1):
            if j:
                rows.add()
            total = rows.costs[j] + rest
            self.ends[j] = np.argmin(total)
            self.least[j] = total[self.ends[j]]

    def places(self, k: int) -> np.ndarray:
        """The places that bound the k clusters, from 0 to where the rest begins."""
        return np.zeros(k + 1, np.int64) if self.rows is None else self.rows.edges(k, int(self.ends[k]))
