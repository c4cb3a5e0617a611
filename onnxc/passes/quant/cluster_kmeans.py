"""k-means of numbers on a line: starts, and Lloyd's rounds on prefix sums, each in time linear in the codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cluster_exact import optimal, optimal_with_zero
from .cluster_points import Cells, Points, grid

ROUNDS = 1000
SETTLED = 1e-7
"""Lloyd stops when a round lowers the error by less than this share."""
CELLS_PLUS = 8192
"""k-means++ draws among this many intervals, each at its mean: no more can be told apart than codes are far."""


def linear(p: Points, k: int, rng: np.random.Generator) -> np.ndarray:
    """Codes evenly between the smallest and the largest number: large weights keep codes near them (Han 2016)."""
    return np.linspace(float(p.x[0]), float(p.x[-1]), k)


def density(p: Points, k: int, rng: np.random.Generator) -> np.ndarray:
    """Codes at evenly spaced quantiles."""
    if p.h is None:
        return p.x[((np.arange(k) + 0.5) * p.size / k).astype(np.int64)].astype(np.float64)
    sums = np.cumsum(p.h)
    at = np.searchsorted(sums, (np.arange(k) + 0.5) * sums[-1] / k)
    return p.x[np.minimum(at, p.size - 1)].astype(np.float64)


def random(p: Points, k: int, rng: np.random.Generator) -> np.ndarray:
    """Codes at numbers drawn at random (Forgy)."""
    return np.sort(p.x[rng.integers(0, p.size, k)]).astype(np.float64)


def plus_plus(p: Points, k: int, rng: np.random.Generator) -> np.ndarray:
    """Codes drawn one by one, with a chance that grows with the squared distance to the nearest (Arthur 2007)."""
    edges = grid(p, CELLS_PLUS)
    cells = p.cells(edges)
    at = cells.means(p.x[np.minimum(edges[:-1], p.size - 1)])[cells.mass > 0]
    mass = cells.mass[cells.mass > 0]
    codes = np.empty(k)
    distance = np.full(len(at), np.inf)
    chance = mass
    for i in range(k):
        total = np.cumsum(chance)
        spot = np.searchsorted(total, rng.random() * total[-1], side="right")
        codes[i] = at[min(int(spot), len(at) - 1)]
        distance = np.minimum(distance, (at - codes[i]) ** 2)
        chance = mass * distance
    return np.sort(codes)


STARTS: dict[str, Callable[[Points, int, np.random.Generator], np.ndarray]] = {
    "linear": linear,
    "density": density,
    "random": random,
    "kmeans++": plus_plus,
}


def kmeans(
    p: Points, k: int, *, start: str, cells: int, rng: np.random.Generator, zero: bool = False, rounds: int = ROUNDS
) -> np.ndarray:
    """At most k ascending codes, float64, that a round of Lloyd's method does not move any more.

    start: a name in STARTS, or "optimal": the best clusters that a grid of so many cells allows. zero: one code is 0.
    """
    k = min(k, _distinct(p, k) + zero)
    if k <= zero:
        return np.zeros(1)
    if start == "optimal":
        if zero:
            codes = optimal_with_zero(p, k, cells)[1]
        else:
            edges = optimal(p, k, cells)
            codes = p.cells(edges).means(p.x[np.minimum(edges[:-1], p.size - 1)])
        codes = np.unique(codes)
    else:
        codes = STARTS[start](p, k, rng)
        if zero:
            codes[np.argmin(np.abs(codes))] = 0
    return lloyd(p, codes, zero=zero, rounds=rounds)


def _distinct(p: Points, most: int) -> int:
    """How many distinct numbers there are, counted up to `most`."""
    found, at = 0, 0
    while at < p.size and found < most:
        found, at = found + 1, int(np.searchsorted(p.x, p.x[at], side="right"))
    return found


def lloyd(p: Points, codes: np.ndarray, *, zero: bool = False, rounds: int = ROUNDS) -> np.ndarray:
    """Move codes to the means of their cells until that changes nothing to speak of; with `zero`, the code 0 stays."""
    before = np.inf
    for _ in range(rounds):
        edges = p.cut(codes)
        cells = p.cells(edges)
        moved = _spread(p, edges, cells, cells.means(codes), zero)
        if zero:
            moved[np.argmin(np.abs(codes))] = 0
        now = float(cells.errors(codes).sum())
        codes = np.sort(moved)
        if before - now <= SETTLED * now:
            break
        before = now
    return codes


def _spread(p: Points, edges: np.ndarray, cells: Cells, codes: np.ndarray, zero: bool) -> np.ndarray:
    """Codes without a number of their own go where the error is largest: halfway to the far end of those cells."""
    empty = np.flatnonzero(edges[1:] == edges[:-1])
    if zero:
        empty = empty[codes[empty] != 0]
    if len(empty) == 0:
        return codes
    errors = cells.errors(codes)
    worst = np.argsort(-errors, kind="stable")[: len(empty)]
    worst = worst[errors[worst] > 0]
    low, high = p.x[edges[worst]].astype(np.float64), p.x[edges[worst + 1] - 1].astype(np.float64)
    far = np.where(np.abs(high - codes[worst]) > np.abs(low - codes[worst]), high, low)
    codes = codes.copy()
    codes[empty[: len(worst)]] = (codes[worst] + far) / 2
    return codes


def nearest(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The index of the nearest of ascending codes, of the same dtype as `values`, for each value, uint8; at most 256 codes."""
    wide = codes.astype(np.float64)
    return assign(values, ((wide[1:] + wide[:-1]) / 2).astype(codes.dtype))


STRIP = 1 << 16
"""Values looked up at once: they and their indices stay in the cache."""
STEPS = 1 << 14
CLOSE = 4
"""Most thresholds in one step of the table; where more crowd, values are searched for one by one."""


def assign(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many ascending thresholds are at or below each value, uint8, of the same shape; at most 255 thresholds.

    A table over equal steps tells how many lie in lower steps; those in the value's own step are compared. The step is
    a monotone function of the value, however it rounds, so the result is exact.
    """
    flat = np.ravel(values)
    out = np.empty(flat.size, np.uint8)
    if flat.size < STEPS or len(thresholds) < 2:
        return np.searchsorted(thresholds, flat, side="right").astype(np.uint8).reshape(np.shape(values))
    low = thresholds[0]
    scale = (STEPS - 1) / np.maximum(thresholds[-1] - low, np.finfo(np.float32).tiny)

    def step(x: np.ndarray) -> np.ndarray:
        return np.clip((x - low) * scale, 0, STEPS - 1).astype(np.int32)

    own = step(thresholds)
    below = np.searchsorted(own, np.arange(STEPS)).astype(np.uint8)
    crowd = int(np.bincount(own).max())
    bounds = np.append(thresholds, np.array(np.inf, thresholds.dtype))
    for i in range(0, flat.size, STRIP):
        x = flat[i : i + STRIP]
        if crowd > CLOSE:
            out[i : i + STRIP] = np.searchsorted(thresholds, x, side="right")
            continue
        found = below.take(step(x))
        for _ in range(crowd):
            found += x >= bounds.take(found)
        out[i : i + STRIP] = found
    return out.reshape(np.shape(values))
