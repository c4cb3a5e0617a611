"""Calibration by relative entropy: the range whose quantised histogram tells least apart from the histogram itself.

P is the histogram of all values, and Q the same as a quantiser with a candidate range leaves it: the counts of each level,
with the values clipped to it, spread evenly over its bins that are not empty. The range of the least KL(P || Q) is taken
(Migacz 2017). There P is clipped as well, which makes clipping look cheap; and where a histogram has spikes, as the
constant background of a picture makes them, only finer levels bring KL down. So P stays whole here, and a range must keep
all values but TAIL of them, and make steps finer by a tenth at least: for less, no value is worth losing. Zeros, exact in
every range, are left out.
"""

from __future__ import annotations

import numpy as np

from .ranges import HALF, Statistics

GRID = 96
TAIL = 1e-6
WORTHWHILE = 0.9
SMOOTH = 1e-4
"""What a bin outside the range counts as in Q."""


def entropy(s: Statistics, levels: int = 255) -> tuple[float, float]:
    """The interval (low, high) of least relative entropy; both ends shrink by the same factor."""
    used = np.flatnonzero(s.counts)
    if used.size == 0:
        return s.low, s.high
    least = min(1.0, (levels + 1) / (used[-1] - used[0] + 1))  # fewer bins than levels say nothing of rounding
    factors = np.linspace(1.0, least, GRID)
    factors = factors[(factors == 1.0) | (factors <= WORTHWHILE)]
    kept = [factor for factor in factors if _beyond(s, factor) <= TAIL * (s.zeros + s.counts.sum())]
    factor = float(min(kept, key=lambda factor: _divergence(s, factor, levels)))
    return s.low * factor, s.high * factor


def _beyond(s: Statistics, factor: float) -> int:
    """How many values lie outside the range, to within a bin. A value on an edge belongs to the bin that starts there."""
    first, last = (int(np.floor(end * factor / s.width)) + HALF for end in (s.low, s.high))
    return int(s.counts[: max(0, first)].sum() + s.counts[last + 1 :].sum())


def _divergence(s: Statistics, factor: float, levels: int) -> float:
    low, high = s.low * factor, s.high * factor
    p = s.counts.astype(np.float64)
    centres = (np.arange(-HALF, HALF) + 0.5) * s.width
    level = np.rint((centres - low) * (levels / (high - low))).clip(0, levels).astype(np.int64)
    inside = (p > 0) & (centres > low - s.width) & (centres < high + s.width)
    sums, bins = np.bincount(level, p, levels + 1), np.bincount(level, inside, levels + 1)
    q = np.where(inside, (sums / np.maximum(bins, 1))[level], SMOOTH)
    here = p > 0
    return float(np.sum(p[here] * np.log(p[here] / q[here])))
