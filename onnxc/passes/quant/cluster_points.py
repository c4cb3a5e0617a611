"""Numbers on a line, sorted once: any interval's mass, mean and squared error are differences of prefix sums.

    S0(i) = sum of the weights of the first i numbers,  S1 of weight·number,  S2 of weight·number²
    error(i, j) = S2(j) - S2(i) - (S1(j) - S1(i))² / (S0(j) - S0(i))

An optimal cluster of numbers on a line is an interval, so nothing below looks at a single number again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Points:
    """Ascending numbers with their prefix sums.

    x: float [n], ascending. s0, s1, s2: float64 [n + 1], prefix sums of weight, weight·number, weight·number²; s0 is
    None where every weight is 1. Numbers are taken relative to no origin: weights scatter about zero.
    """

    x: np.ndarray
    s0: np.ndarray | None
    s1: np.ndarray
    s2: np.ndarray

    @property
    def size(self) -> int:
        return len(self.x)

    def mass(self, at: np.ndarray) -> np.ndarray:
        """S0 at these places."""
        return at.astype(np.float64) if self.s0 is None else self.s0[at]

    def cut(self, codes: np.ndarray) -> np.ndarray:
        """Where the cells of ascending codes begin and end, int64 [codes + 1]: halfway between neighbours."""
        return self.at((codes[1:] + codes[:-1]) / 2)

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """[0, how many numbers are below each threshold, n], int64."""
        inner = np.searchsorted(self.x, thresholds.astype(self.x.dtype))
        return np.concatenate([[0], np.maximum.accumulate(inner), [self.size]])

    def masses(self, edges: np.ndarray) -> np.ndarray:
        """The mass of each cell, float64 [edges - 1]."""
        return np.diff(self.mass(edges))

    def means(self, edges: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """The mean of each cell; `otherwise` where it has no mass."""
        mass = self.masses(edges)
        return np.divide(np.diff(self.s1[edges]), mass, out=otherwise.astype(np.float64), where=mass > 0)

    def error(self, edges: np.ndarray, codes: np.ndarray) -> float:
        """The sum of weighted squared distances of the numbers to the codes of their cells."""
        mass = self.masses(edges)
        parts = np.diff(self.s2[edges]) - 2 * codes * np.diff(self.s1[edges]) + codes**2 * mass
        return float(np.maximum(parts, 0).sum())


def points(values: np.ndarray, weights: np.ndarray | None = None) -> Points:
    """Sort `values`, and `weights` with them (at least 0, same size; None for all 1). Flat or not; not empty."""
    flat = np.ravel(values)
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    if weights is None:
        x = np.sort(flat)
        return Points(x, None, _sums(x), _sums(x, x))
    order = np.argsort(flat)
    x, h = flat[order], np.ravel(weights)[order].astype(np.float64)
    hx = h * x
    return Points(x, _sums(h), _sums(hx), _sums(hx, x))


def _sums(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    out = np.zeros(len(a) + 1)
    if b is None:
        np.cumsum(a, dtype=np.float64, out=out[1:])
    else:
        np.multiply(a, b, out=out[1:], dtype=np.float64)
        np.cumsum(out[1:], out=out[1:])
    return out


def part(p: Points, start: int, stop: int) -> Points:
    """The numbers from `start` to `stop` alone; prefix sums are shared (only differences of them count)."""
    s0 = np.arange(start, stop + 1, dtype=np.float64) if p.s0 is None else p.s0[start : stop + 1]
    return Points(p.x[start:stop], s0, p.s1[start : stop + 1], p.s2[start : stop + 1])


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
