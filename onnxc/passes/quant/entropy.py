"""Calibration by relative entropy: the range whose quantised histogram tells least apart from the histogram itself.

For a candidate range, P is the histogram with all that lies outside added to the end bins, and Q the same histogram as
the quantiser would leave it: the counts of each level spread evenly over its bins that are not empty. The range of the
least KL(P || Q) is taken (Migacz 2017; Wu 2020). Zeros, exact in every range, are left out.
"""

from __future__ import annotations

import numpy as np

from .ranges import HALF, Statistics

GRID = 96
SMOOTH = 1e-4
"""What an empty bin of Q counts as, where P has values there."""


def entropy(s: Statistics, levels: int = 255) -> tuple[float, float]:
    """The interval (low, high) of least relative entropy; both ends shrink by the same factor."""
    used = np.flatnonzero(s.counts)
    if used.size == 0:
        return s.low, s.high
    least = min(1.0, (levels + 1) / (used[-1] - used[0] + 1))  # fewer bins than levels say nothing of rounding
    factors = np.linspace(1.0, least, GRID)
    costs = [_divergence(s, factor, levels) for factor in factors]
    factor = float(factors[int(np.argmin(costs))])
    return s.low * factor, s.high * factor


def _divergence(s: Statistics, factor: float, levels: int) -> float:
    low, high = s.low * factor, s.high * factor
    first = max(0, int(np.floor(low / s.width)) + HALF)
    stop = min(2 * HALF, int(np.ceil(high / s.width)) + HALF)
    q = s.counts[first:stop].astype(np.float64)
    if q.size == 0 or q.sum() == 0:
        return np.inf
    p = q.copy()
    p[0] += s.counts[:first].sum()
    p[-1] += s.counts[stop:].sum()
    centres = (np.arange(first, stop) - HALF + 0.5) * s.width
    level = np.rint((centres - low) * (levels / (high - low))).astype(np.int64).clip(0, levels)
    filled = q > 0
    sums, bins = np.bincount(level, q, levels + 1), np.bincount(level, filled, levels + 1)
    q = np.where(filled, (sums / np.maximum(bins, 1))[level], SMOOTH)
    p, q = p / p.sum(), q / q.sum()
    here = p > 0
    return float(np.sum(p[here] * np.log(p[here] / q[here])))
