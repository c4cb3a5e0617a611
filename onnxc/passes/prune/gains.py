"""Scores of channels in the unit of the outputs' noise: each group is tried once, on the model itself.

A part of its channels is silenced in all its readers, whose other weights make up for them as well as they can,

    W'_k = W_k + W_r H_rk (H_kk)^-1,    W'_r = 0,    b' = b + (W - W') E[x]        (k kept, r removed, H = cov(x)),

and the noise of the outputs, over the error that the scores promised, is what all scores of the group are multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.axes import Atom
from ..layers.felt import Felt
from ..layers.linear import Linear
from ..layers.moments import damped

DAMP = 1e-4
"""Added to the diagonal of a covariance ahead of inversion, in parts of its mean diagonal."""
SHARE = (0.25, 0.75)
"""Of its channels, what a group loses on trial, at least and at most: so many that its readers lose EXPECTED of their power."""
EXPECTED = 0.03
LEAST = 0.1
"""No group is taken for less sensitive than this part of the middle one: a trial on few samples does not tell."""
HELD_BYTES = 512 * 2**20
"""What covariances of readers may hold at a time; groups of readers beyond that are rated by their readers alone."""


@dataclass
class Reader:
    """A layer that sums over channels of a group: the covariance [K, K] and mean [K] of what block `block` of it reads, and
    the columns [size, n] of the group's channels there."""

    layer: Linear
    block: int
    covariance: np.ndarray
    mean: np.ndarray
    at: np.ndarray

    def without(self, w: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """The block's matrix w [O, K] without these channels, made up for."""
        r = self.at[gone].ravel()
        k = np.setdiff1d(np.arange(w.shape[1]), r)
        new = np.zeros_like(w)
        new[:, k] = w[:, k]
        if len(k):
            h = damped(self.covariance[None][:, k][:, :, k], DAMP)[0]
            new[:, k] += np.linalg.solve(h, self.covariance[np.ix_(k, r)] @ w[:, r].T).T
        return new


def by_outputs(felt: Felt, readers: dict[Atom, list[Reader]], scores: dict[Atom, np.ndarray]) -> dict[Atom, np.ndarray]:
    """Scores [size] of groups, errors of their readers, in the unit of the outputs' noise."""
    factors = {a: _factor(felt, readers[a], scores[a]) for a in readers}
    known = [f for f in factors.values() if f > 0]
    middle = float(np.exp(np.mean(np.log(known)))) if known else 1.0
    return {a: score * max(factors.get(a, middle), LEAST * middle) for a, score in scores.items()}


def _factor(felt: Felt, readers: list[Reader], score: np.ndarray) -> float:
    """The noise of the outputs by the error of the readers; 0 where there is none."""
    order = np.argsort(score, kind="stable")
    least, most = (max(1, round(share * len(score))) for share in SHARE)
    gone = order[: min(max(least, int((np.cumsum(score[order]) <= EXPECTED).sum())), most)]
    expected = float(score[gone].sum())
    if not expected > 0:
        return 0.0
    matrices: dict[str, np.ndarray] = {}
    means: dict[str, np.ndarray] = {}
    for r in readers:
        name = r.layer.node.name
        matrix = matrices.setdefault(name, r.layer.matrix())
        matrix[r.block] = r.without(matrix[r.block], gone)
        means.setdefault(name, np.zeros((matrix.shape[0], matrix.shape[2])))[r.block] = r.mean
    layers = {r.layer.node.name: r.layer for r in readers}
    return felt([(layers[n], matrices[n], means[n]) for n in matrices]) / expected
