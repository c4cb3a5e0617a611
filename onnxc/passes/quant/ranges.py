"""The range of a tensor's values, from one pass over batches of any number, in bounded memory.

A `Statistics` takes batches in; a calibrator turns it into the interval (low, high) that the quantiser is to cover.
Zero always lies in it, so that padding and zeroed activations are exact.
"""

from __future__ import annotations

import copy
import math

import numpy as np

HALF = 2048
"""Histogram bins on each side of zero."""


class Statistics:
    """Running minimum and maximum of a tensor and, where asked for, a histogram.

    The histogram spans [-R, R] in 2 * HALF equal bins, R a power of two. A value beyond R doubles R, and pairs of bins
    merge; as their edges nest, the counts are those of a histogram that had the final R from the start, whatever the
    order and size of the batches. Zeros are counted apart: any quantiser keeps them exact. Values that are not finite
    are left out, and counted.
    """

    def __init__(self, histogram: bool = False):
        self.low = 0.0
        self.high = 0.0
        self.zeros = 0
        self.odd = 0
        self.radius = 0.0
        self.histogram = histogram
        self.counts = np.zeros(2 * HALF if histogram else 0, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Take in one batch, an array of any shape."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = values[np.isfinite(values)]
            self.odd += values.size - finite.size
            return self.add(finite)
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.histogram:
            self._count(values.ravel(), max(-low, high))

    def _count(self, values: np.ndarray, top: float) -> None:
        if top > self.radius:
            self._widen(2.0 ** math.ceil(math.log2(top)))
        if self.radius == 0.0:
            self.zeros += values.size
            return
        # bin i holds [(i - HALF) w, (i + 1 - HALF) w); a value of just R belongs to the last
        index = np.floor(values * np.float32(HALF / self.radius)).astype(np.int32) + HALF
        counts = np.bincount(np.minimum(index, 2 * HALF - 1), minlength=2 * HALF)
        zeros = values.size - int(np.count_nonzero(values))
        counts[HALF] -= zeros
        self.zeros += zeros
        self.counts += counts

    def _widen(self, radius: float) -> None:
        while 0.0 < self.radius < radius:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[HALF // 2 : HALF // 2 + HALF] = merged
            self.radius *= 2
        self.radius = max(radius, self.radius)

    def within(self, least: float, most: float) -> Statistics:
        """The same with all values beyond [least, most] moved to these ends (to within a bin); least <= 0 <= most.

        For tensors whose readers see no difference there: clipping them costs nothing, and they are no tail.
        """
        found = copy.copy(self)
        found.low, found.high = max(self.low, least), min(self.high, most)
        if self.histogram:
            found.counts = self.counts.copy()
            for sign, end in ((-1, -least), (1, most)):
                side = found.side(sign)
                inside = math.ceil(end / self.width) if 0.0 < self.radius > end else HALF
                beyond = int(side[inside:].sum())
                side[inside:] = 0
                if inside:
                    side[inside - 1] += beyond
                else:
                    found.zeros += beyond
        return found

    def side(self, sign: int) -> np.ndarray:
        """Counts of the magnitudes on one side of zero, smallest first; each bin is `width` wide."""
        return self.counts[HALF:] if sign > 0 else self.counts[HALF - 1 :: -1]

    @property
    def width(self) -> float:
        return self.radius / HALF


def minmax(s: Statistics, levels: int = 255) -> tuple[float, float]:
    """All values seen."""
    return s.low, s.high


def percentile(s: Statistics, levels: int = 255, share: float = 99.999) -> tuple[float, float]:
    """All values of magnitudes up to the least that at most (100 - share) percent of all values exceed.

    One bound for both sides, so that the shorter side is left whole: a side of its own that is thin has no tail to lose.
    """
    spare = (1 - share / 100) * (s.zeros + int(s.counts.sum()))
    bound = _cut(s.side(-1) + s.side(1), spare) * s.width
    return max(s.low, -bound), min(s.high, bound)


def _cut(counts: np.ndarray, spare: float) -> int:
    """The fewest bins from zero on that leave at most `spare` values beyond."""
    beyond = counts.sum() - np.cumsum(counts)
    return int(np.argmax(beyond <= spare)) + 1


def mse(s: Statistics, levels: int = 255, grid: int = 128) -> tuple[float, float]:
    """The interval of least mean squared error.

    A value inside errs by the rounding, step^2 / 12 on average; one beyond an end t by (x - t)^2. The second is a
    polynomial in t of suffix sums of the histogram, so that every pair of ends on a grid is tried at once.
    """
    ends, costs, counts = zip(*(_clip_costs(s, sign, grid) for sign in (-1, 1)), strict=True)
    step = (ends[0][:, None] + ends[1][None, :]) / levels
    error = (counts[0][:, None] + counts[1][None, :]) * step**2 / 12 + costs[0][:, None] + costs[1][None, :]
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return -float(ends[0][i]), float(ends[1][j])


def _clip_costs(s: Statistics, sign: int, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For candidate ends on one side: the end, the summed squared error of what lies beyond, the count inside."""
    top = s.high if sign > 0 else -s.low
    if top == 0.0 or s.radius == 0.0:
        return np.zeros(1), np.zeros(1), np.zeros(1)
    used = min(HALF, int(top / s.width) + 1)  # a value on an edge belongs to the bin that starts there
    n = s.side(sign)[:used].astype(np.float64)
    x = (np.arange(used) + 0.5) * s.width
    bins = np.unique(np.linspace(0, used, min(grid, used) + 1).astype(int))[1:]
    ends = np.minimum(bins * s.width, top)
    suffix = [np.append(np.cumsum((n * x**p)[::-1])[::-1], 0.0)[bins] for p in range(3)]
    cost = suffix[2] - 2 * ends * suffix[1] + ends**2 * suffix[0]
    return ends, np.maximum(cost, 0.0), n.sum() - suffix[0]


CALIBRATORS = {"minmax": minmax, "percentile": percentile, "mse": mse}
