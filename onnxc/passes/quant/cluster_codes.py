"""The values that a set of weights shares, and the index of each weight: plain k-means, or under a bound on entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cluster_entropy import Coded, classes, constrained
from .cluster_kmeans import assign, kmeans, nearest
from .cluster_points import Points, points


@dataclass(frozen=True)
class Settings:
    """most: how many values at most. The other fields are options of quant.cluster."""

    most: int
    start: str
    cells: int
    entropy: float | None
    zeros: bool
    rng: np.random.Generator


@dataclass(frozen=True, eq=False)
class Codes:
    """values: ascending, distinct, in the dtype of the weights. coded and bounds: of an entropy-constrained choice.

    zero: the index of the value that weights of 0 keep, or None.
    """

    values: np.ndarray
    zero: int | None = None
    coded: Coded | None = None
    bounds: np.ndarray | None = None
    levels: tuple[float, ...] = ()

    def indices(self, w: np.ndarray, h: np.ndarray | None) -> np.ndarray:
        """The index of each weight, uint8, of the shape of `w`; `h` as it was given to `find_codes`."""
        if self.coded is None:
            return nearest(w, self.values)
        out = np.zeros(w.shape, np.uint8)
        number = np.zeros(w.shape, np.int64)
        if self.bounds is not None:
            assert h is not None  # bounds lie between importances
            number = np.searchsorted(self.bounds, h, side="right")
        for i, level in enumerate(self.levels):
            here = slice(None) if self.bounds is None else number == i
            t, used = self.coded.thresholds(level)
            out[here] = used.astype(np.uint8)[assign(w[here], t.astype(w.dtype))]
        if self.zero is not None:
            out[w == 0] = self.zero
        return out


def find_codes(ws: Sequence[np.ndarray], hs: Sequence[np.ndarray | None], s: Settings) -> Codes:
    """Values for the weights `ws` (any shapes, one codebook for all), with importances `hs` of their shapes."""
    dtype = np.result_type(*ws)
    flat = np.concatenate([np.ravel(w) for w in ws]) if len(ws) > 1 else np.ravel(ws[0])
    known = [np.ravel(one) for one in hs if one is not None]
    h = np.concatenate(known) if len(known) == len(hs) else None
    zeros = 0
    if s.zeros:
        zeros = flat.size - int(np.count_nonzero(flat))
        if zeros:
            there = flat != 0
            flat, h = flat[there], None if h is None else h[there]
    if flat.size == 0:
        return Codes(np.zeros(1, dtype), 0)
    p = points(flat, h)
    codes = kmeans(p, s.most, start=s.start, cells=s.cells, rng=s.rng, zero=zeros > 0)
    if s.entropy is None:
        return _plain(codes, dtype, zeros)
    return _constrained(p, flat, h, codes, zeros, dtype, s.entropy)


def _plain(codes: np.ndarray, dtype: np.dtype, zeros: int) -> Codes:
    values = np.unique(codes.astype(dtype))
    return Codes(values, int(np.flatnonzero(values == 0)[0]) if zeros else None)


def _constrained(
    p: Points, flat: np.ndarray, h: np.ndarray | None, codes: np.ndarray, zeros: int, dtype: np.dtype, entropy: float
) -> Codes:
    """Two starts, the given codes and even ones (the best at high rates: Gish and Pierce 1968); the better is kept."""
    parts, bounds = classes(flat, h)
    even = np.linspace(float(p.x[0]), float(p.x[-1]), len(codes))
    if zeros:
        even[np.argmin(np.abs(even))] = 0
    tried = [constrained(parts, np.unique(start), entropy, zeros, zeros > 0) for start in (codes, even)]
    best = min(tried, key=lambda coded: sum(_error(c.p, c.h, coded) for c in parts))
    # rounded to the dtype of the weights two values may become one: the first index then stands for both
    values = best.codes.astype(dtype)
    zero = int(np.flatnonzero(values == 0)[0]) if zeros else None
    return Codes(values, zero, best, bounds, tuple(c.h for c in parts))


def _error(p: Points, h: float, coded: Coded) -> float:
    t, used = coded.thresholds(h)
    return h * float(p.cells(p.at(t)).errors(coded.codes[used]).sum())
