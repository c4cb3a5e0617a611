"""Entropy-constrained scalar quantisation: codes for numbers whose indices will be Huffman coded (Chou 1989, Choi 2017).

Minimises   sum of h·(w - code)² + slope · sum of bits,   bits = -log2(share of the code)

by turns: numbers go to the code of least cost, codes to the means of their numbers, bits follow the counts. Between
neighbouring codes a < b with bits A and B the cost is equal at

    t = (a + b) / 2 + slope · (B - A) / (2 · h · (b - a)),

so the cells are intervals still, and a code whose cell is empty goes. Where the importance h varies, numbers are
taken in a few classes of nearly equal h, each with thresholds of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cluster_points import Points, points

CLASSES = 6
ROUNDS = 40
SETTLED = 1e-5
STEPS = 16
"""Halvings of the slope's logarithm."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """Numbers of one class: h is the importance that they all count with."""

    p: Points
    h: float


@dataclass(frozen=True, eq=False)
class Coded:
    """codes: float64 [k], ascending; bits: float64 [k], what each costs; slope: of the bits against the error."""

    codes: np.ndarray
    bits: np.ndarray
    slope: float

    def thresholds(self, h: float) -> tuple[np.ndarray, np.ndarray]:
        """(thresholds [m - 1], the codes in use [m]) for numbers of importance h."""
        used = np.arange(len(self.codes))
        while True:
            c, b = self.codes[used], self.bits[used]
            t = (c[1:] + c[:-1]) / 2 + self.slope * np.diff(b) / (2 * h * np.diff(c))
            lost = np.zeros(len(used), bool)
            lost[1:-1] = t[1:] <= t[:-1]
            if not lost.any():
                return t, used
            lost[1:] &= ~lost[:-1]  # of neighbours one at a time: the other may be in use then
            used = used[~lost]


def classes(values: np.ndarray, h: np.ndarray | None) -> tuple[list[Weighed], np.ndarray | None]:
    """The numbers by importance, and the bounds between the classes (None for a single one). Sorted once each."""
    if h is None or h.min() == h.max():
        return [Weighed(points(values), 1.0 if h is None else float(h.flat[0]))], None
    # bounds are importances that occur, above the least: no class is empty
    bounds = np.unique(np.quantile(h, np.linspace(0, 1, CLASSES + 1)[1:-1], method="higher"))
    bounds = bounds[bounds > h.min()]
    number = np.searchsorted(bounds, h, side="right")
    found = [Weighed(points(values[number == i]), float(h[number == i].mean())) for i in range(len(bounds) + 1)]
    return found, bounds


def constrained(parts: list[Weighed], codes: np.ndarray, target: float, zeros: int, keep_zero: bool) -> Coded:
    """Codes whose indices have an entropy of at most `target` bits, starting from ascending `codes` (distinct).

    zeros: numbers that are 0 already and count for the shares alone; keep_zero: one code is 0, and stays.
    """
    total = sum(c.h * c.p.square() for c in parts)
    count = sum(c.p.size for c in parts) + zeros
    if entropy_of(_counts(parts, Coded(codes, np.zeros(len(codes)), 0.0), zeros)) <= target:
        return Coded(codes, np.zeros(len(codes)), 0.0)
    low, high = np.log(1e-9 * total / count + 1e-300), np.log(1e3 * total / count + 1e-300)
    best = None
    for _ in range(STEPS):
        slope = float(np.exp((low + high) / 2))
        tried, entropy = _settle(parts, codes, slope, zeros, keep_zero)
        if entropy <= target:
            best, high = tried, (low + high) / 2
        else:
            low = (low + high) / 2
    return best if best is not None else _settle(parts, codes, float(np.exp(high)), zeros, keep_zero)[0]


def entropy_of(counts: np.ndarray) -> float:
    """Bits per symbol of symbols that occur so often."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share @ np.log2(share)))


def _counts(parts: list[Weighed], coded: Coded, zeros: int) -> np.ndarray:
    counts = np.zeros(len(coded.codes))
    for c in parts:
        t, used = coded.thresholds(c.h)
        counts[used] += np.diff(c.p.at(t))
    if zeros:
        counts[np.argmin(np.abs(coded.codes))] += zeros
    return counts


def _settle(parts: list[Weighed], codes: np.ndarray, slope: float, zeros: int, keep: bool) -> tuple[Coded, float]:
    now = Coded(codes, np.zeros(len(codes)), slope)
    before = np.inf
    for _ in range(ROUNDS):
        k = len(now.codes)
        mass, first, counts, square = np.zeros(k), np.zeros(k), np.zeros(k), 0.0
        for c in parts:
            t, used = now.thresholds(c.h)
            edges = c.p.at(t)
            counts[used] += np.diff(edges)
            mass[used] += c.h * np.diff(edges)
            first[used] += c.h * c.p.cells(edges).first
            square += c.h * c.p.square()
        nought = int(np.argmin(np.abs(now.codes)))
        if zeros:
            counts[nought] += zeros
        means = np.divide(first, mass, out=now.codes.copy(), where=mass > 0)
        if keep:
            means[nought] = 0.0
        alive = counts > 0
        if keep:
            alive[nought] = True
        share = np.maximum(counts[alive], 0.5) / counts.sum()
        error = square - float(2 * (means @ first) - means**2 @ mass)
        cost = error + slope * float(-(counts[alive] @ np.log2(share)))
        settled, before = before - cost <= SETTLED * abs(cost), cost
        distinct, at = np.unique(means[alive], return_index=True)
        now = Coded(distinct, -np.log2(share)[at], slope)
        if settled:
            break
    return now, entropy_of(_counts(parts, now, zeros))
