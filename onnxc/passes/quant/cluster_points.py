"""Numbers on a line, sorted once: any interval's mass, mean and squared error are differences of prefix sums.

    S0(i) = sum of the weights of the first i numbers,  S1 of weight·number,  S2 of weight·number²
    error(i, j) = S2(j) - S2(i) - (S1(j) - S1(i))² / (S0(j) - S0(i))

An optimal cluster of numbers on a line is an interval, so nothing below looks at all numbers again. The sums are kept
at every RUN-th number only, and the few numbers from there on are added where a sum is asked for: writing and reading
three sums for every number would take longer than sorting them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RUN = 32
"""Numbers between two kept sums."""
STRIP = 2048 * RUN
"""Numbers summed at once: they stay in the cache as float64."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Sums over the numbers of each cell, float64 [cells] each: of weight, weight·number, weight·number²."""

    mass: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def means(self, otherwise: np.ndarray) -> np.ndarray:
        """The mean of each cell; `otherwise` where it has no mass."""
        return np.divide(self.first, self.mass, out=otherwise.astype(np.float64), where=self.mass > 0)

    def errors(self, codes: np.ndarray) -> np.ndarray:
        """Of each cell, the sum of weighted squared distances of its numbers to its code."""
        return np.maximum(self.second - 2 * codes * self.first + codes**2 * self.mass, 0)


@dataclass(frozen=True, eq=False)
class Points:
    """Ascending numbers with their prefix sums.

    x: float [n], ascending. h: float64 [n], their weights, or None where every weight is 1. kept: float64
    [3, ceil(n / RUN) + 1], the sums S0, S1, S2 of the first 0, RUN, 2·RUN, ... n numbers. Numbers are taken relative to
    no origin: weights scatter about zero.
    """

    x: np.ndarray
    h: np.ndarray | None
    kept: np.ndarray

    @property
    def size(self) -> int:
        return len(self.x)

    def sums(self, at: np.ndarray) -> np.ndarray:
        """S0, S1 and S2 at these places, float64 [3, places]."""
        run = at // RUN
        place = (run * RUN)[:, None] + np.arange(RUN - 1)
        inside = place < at[:, None]
        place = np.minimum(place, max(self.size - 1, 0))
        x = self.x[place].astype(np.float64)
        h = inside.astype(np.float64) if self.h is None else np.where(inside, self.h[place], 0)
        hx = h * x
        return self.kept[:, run] + np.stack([h.sum(1), hx.sum(1), (hx * x).sum(1)])

    def square(self) -> float:
        """The sum of weight·number² of all numbers."""
        return float(self.kept[2, -1])

    def mass(self, at: np.ndarray) -> np.ndarray:
        """S0 at these places."""
        return at.astype(np.float64) if self.h is None else self.sums(at)[0]

    def cut(self, codes: np.ndarray) -> np.ndarray:
        """Where the cells of ascending codes begin and end, int64 [codes + 1]: halfway between neighbours."""
        return self.at((codes[1:] + codes[:-1]) / 2)

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """[0, how many numbers are below each threshold, n], int64."""
        inner = np.searchsorted(self.x, thresholds.astype(self.x.dtype))
        return np.concatenate([[0], np.maximum.accumulate(inner), [self.size]])

    def cells(self, edges: np.ndarray) -> Cells:
        """The sums over the cells between these places."""
        return Cells(*np.diff(self.sums(edges)))


def points(values: np.ndarray, weights: np.ndarray | None = None) -> Points:
    """Sort `values`, and `weights` with them (at least 0, same size; None for all 1). Flat or not; not empty."""
    flat = np.ravel(values)
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    if weights is None:
        return ascending(np.sort(flat))
    order = np.argsort(flat)
    return ascending(flat[order], np.ravel(weights)[order].astype(np.float64))


def ascending(x: np.ndarray, h: np.ndarray | None = None) -> Points:
    """Numbers that are sorted already, with their weights."""
    starts = range(0, len(x), STRIP)
    runs = [_run_sums(x[i : i + STRIP], None if h is None else h[i : i + STRIP]) for i in starts]
    kept = np.zeros((3, -(-len(x) // RUN) + 1))
    if runs:
        np.cumsum(np.concatenate(runs, axis=1), axis=1, out=kept[:, 1:])
    return Points(x, h, kept)


def _run_sums(x: np.ndarray, h: np.ndarray | None) -> np.ndarray:
    """Sums of h, h·x, h·x² of every RUN numbers, the last ones fewer, float64 [3, runs]."""
    missing = -len(x) % RUN
    wide = np.pad(x.astype(np.float64), (0, missing)).reshape(-1, RUN)
    if h is None:
        mass = np.full(len(wide), float(RUN))
        mass[-1] -= missing
        return np.stack([mass, np.einsum("ij->i", wide), np.einsum("ij,ij->i", wide, wide)])
    weight = np.pad(h, (0, missing)).reshape(-1, RUN)
    hx = weight * wide
    return np.stack([weight.sum(1), hx.sum(1), np.einsum("ij,ij->i", hx, wide)])


def part(p: Points, start: int, stop: int) -> Points:
    """The numbers from `start` to `stop` alone."""
    return ascending(p.x[start:stop], None if p.h is None else p.h[start:stop])


def mirrored(p: Points) -> Points:
    """The numbers with their signs turned."""
    return ascending(-p.x[::-1], None if p.h is None else p.h[::-1])


def grid(p: Points, cells: int) -> np.ndarray:
    """Places that cut the numbers into at most `cells` intervals, fine where clusters are narrow; int64, 0 to n.

    Where there are no more distinct numbers than that, every one gets an interval. Else the steps are equal in the
    integral of density^(1/3): the widths of the cells of an optimal quantiser of many values (Panter and Dite 1951).
    Half of the cells follow it, half are of equal width, so that the sparse ends are cut finely too.
    """
    if p.size <= cells:
        new = np.flatnonzero(np.diff(p.x)) + 1
        return np.concatenate([[0], new, [p.size]])
    low, high = float(p.x[0]), float(p.x[-1])
    if low == high:
        return np.array([0, p.size])
    bins = np.linspace(low, high, 8 * cells + 1)
    at = p.at(bins[1:-1])
    measure = np.concatenate([[0], np.cumsum(np.cbrt(np.diff(p.mass(at))))])
    steps = np.interp(np.linspace(0, measure[-1], cells // 2 + 1)[1:-1], measure, bins)
    edges = np.union1d(p.at(steps), p.at(np.linspace(low, high, cells - cells // 2 + 1)[1:-1]))
    return _few_distinct(p, edges, cells)


def _few_distinct(p: Points, edges: np.ndarray, cells: int) -> np.ndarray:
    """`edges`, or one at every distinct number where these are `cells` at most."""
    probes = np.unique(p.x[:: max(1, p.size // (4 * cells))])
    if len(probes) > cells:
        return edges
    new = np.flatnonzero(p.x[1:] != p.x[:-1]) + 1
    return edges if len(new) + 1 > cells else np.concatenate([[0], new, [p.size]])
