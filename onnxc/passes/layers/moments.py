"""Second moments of what layers read, alone or beside what is wanted there, summed over calibration batches.

Sums run around the mean of the first rows that are seen, so that an offset of the inputs costs no digits: with
d = x - p and e = t - q for fixed p and q,

    cov(x) = E[d d'] - E[d] E[d]',    cov(t, x) = E[e d'] - E[e] E[d]',    E[x] = p + E[d].

A product within a batch is float32, what batches add up to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from .capture import Probe, Stream, pick
from .linear import Linear

MAX_COLUMNS = 4608
"""Wider layers are not looked at: their moments would hold more than 170 MB."""
PART_BYTES = 64 * 2**20
"""What the moments of layers that are looked at together may hold."""
SAMPLES = 512
"""Calibration samples that are looked at, at most, unless a pass says otherwise."""
MIN_ROWS = 16384
ROWS_PER_COLUMN = 12

T = TypeVar("T")


class Around(NamedTuple):
    """h [g, k, k] of the rows, c [g, m, k] of targets and rows, and the means [g, k], [g, m] that were taken off."""

    h: np.ndarray
    c: np.ndarray
    mean: np.ndarray
    target: np.ndarray


class Moments:
    """Of rows x [g, r, k], and of targets t [g, r, m] beside them where `targets` says how many."""

    def __init__(self, g: int, k: int, targets: int = 0):
        self.count = 0
        self._pivots: tuple[np.ndarray, np.ndarray] | None = None
        self._d, self._e = np.zeros((g, k)), np.zeros((g, targets))
        self._dd, self._ed = np.zeros((g, k, k)), np.zeros((g, targets, k))

    def add(self, x: np.ndarray, t: np.ndarray | None = None) -> None:
        """Rows of a batch, with their targets."""
        x = x.astype(np.float32, copy=False)
        t = np.zeros((*x.shape[:2], 0), np.float32) if t is None else t
        if self._pivots is None:
            self._pivots = tuple(a.mean(1, dtype=np.float64, keepdims=True).astype(np.float32) for a in (x, t))
        d, e = x - self._pivots[0], (t - self._pivots[1]).astype(np.float32, copy=False)
        self._d += d.sum(1, dtype=np.float64)
        self._e += e.sum(1, dtype=np.float64)
        self._dd += d.transpose(0, 2, 1) @ d
        if e.shape[2]:
            self._ed += e.transpose(0, 2, 1) @ d
        self.count += x.shape[1]

    @property
    def mean(self) -> np.ndarray:
        """E[x], [g, k]."""
        return self._mean(0, self._d)

    @property
    def target(self) -> np.ndarray:
        """E[t], [g, m]."""
        return self._mean(1, self._e)

    def _mean(self, k: int, total: np.ndarray) -> np.ndarray:
        pivot = 0.0 if self._pivots is None else self._pivots[k][:, 0].astype(np.float64)
        return pivot + total / max(self.count, 1)

    def covariance(self) -> np.ndarray:
        """cov(x), float64 [g, k, k]."""
        n = max(self.count, 1)
        return self._dd / n - self._d[:, :, None] * self._d[:, None, :] / n**2

    def second(self) -> np.ndarray:
        """E[x x'], float64 [g, k, k]."""
        return self.covariance() + self.mean[:, :, None] * self.mean[:, None, :]

    def cross(self) -> np.ndarray:
        """cov(t, x), float64 [g, m, k]."""
        n = max(self.count, 1)
        return self._ed / n - self._e[:, :, None] * self._d[:, None, :] / n**2

    def around(self, *, centred: bool) -> Around:
        """Covariances and the means, where a free bias takes care of these; else second moments about zero, and zeros."""
        if centred:
            return Around(self.covariance(), self.cross(), self.mean, self.target)
        c = self.cross() + self.target[:, :, None] * self.mean[:, None, :]
        return Around(self.second(), c, np.zeros_like(self._d), np.zeros_like(self._e))


def damped(h: np.ndarray, damp: float) -> np.ndarray:
    """h plus `damp` times its mean diagonal on the diagonal; inputs that never vary get one there too."""
    level = np.einsum("gii->gi", h).mean(1)
    return h + np.eye(h.shape[1]) * (damp * np.where(level > 0, level, 1.0))[:, None, None]


def rows_wanted(columns: int) -> int:
    """How many rows the statistics of a layer of so many columns are taken over: many times its unknowns."""
    return max(MIN_ROWS, ROWS_PER_COLUMN * columns)


def per_sample(ctx: Context, columns: int, samples: int) -> int:
    """How many positions of each sample that takes."""
    known = getattr(ctx.data, "samples", None) or samples
    return -(-rows_wanted(columns) // min(known, samples))


def picked(ctx: Context, layer: Linear, out: tuple[int, ...], samples: int, salt: tuple[int, ...]) -> np.ndarray:
    """The positions of a batch that are looked at, of output positions of extents `out`; salt: which batch of what."""
    rng = np.random.default_rng((ctx.seed, *salt))
    return pick(rng, int(np.prod(out, dtype=int)), per_sample(ctx, layer.columns, samples))


def in_parts(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in runs that PART_BYTES hold together, `size` bytes each; a larger one stands alone."""
    part: list[T] = []
    held = 0
    for item in items:
        bytes_ = size(item)
        if part and held + bytes_ > PART_BYTES:
            yield part
            part, held = [], 0
        part.append(item)
        held += bytes_
    if part:
        yield part


def moments(
    model: Model,
    analysis: Analysis,
    layers: Sequence[Sequence[Linear]],
    ctx: Context,
    samples: int = SAMPLES,
    instead: Sequence[Callable[[np.ndarray], np.ndarray]] | None = None,
) -> Iterator[Moments]:
    """The moments of what each layer reads, in order; no more are held at a time than PART_BYTES takes.

    layers: each as its nodes: those that share a weight add up. instead: functions from what a layer reads to what it
    will read; rows are made of that, and what it reads now becomes the targets.
    """

    def size(k: int) -> int:
        return 8 * layers[k][0].groups * layers[k][0].columns ** 2 * (1 if instead is None else 2)

    for part in in_parts(range(len(layers)), size):
        found = [
            Moments(one.groups, one.columns, 0 if instead is None else one.columns)
            for one, *_ in (layers[k] for k in part)
        ]
        names = sorted({node.reads for k in part for node in layers[k]})
        probe = Probe(ctx, model, names)
        for j, feeds in enumerate(Stream(ctx, analysis, names, samples)):
            got = probe(feeds)
            for n, k in enumerate(part):
                for node in layers[k]:
                    x = got[node.reads]
                    out = node.extents(x)
                    rows = node.rows(x, out, picked(ctx, node, out, samples, (n, j)))
                    if instead is None:
                        found[n].add(rows)
                    else:
                        found[n].add(instead[k](rows), rows)
        yield from found
