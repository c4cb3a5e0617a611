"""Given the indices, the values and the bias that change a layer's outputs least: least squares in the codebook.

With w_o = P_o c, where P_o picks each weight's value out of the codebook c, and C the covariance of what the layer
reads, the mean square is the sum over o of (w_o - P_o c) C (w_o - P_o c)^T, least where

    (sum P_o' C P_o) c = sum P_o' C w_o:

one unknown for each value of the codebook. The bias takes the mean, (w_o - P_o c) E[x].
"""

from __future__ import annotations

import numpy as np

from ...ir.model import read_only
from ..layers.stored import Layer
from .cluster_importance import Inputs
from .cluster_store import restore

RIDGE = 1e-6
"""Added to the diagonal as a share of its mean: values that few weights take stay near where they were."""


def refit(layer: Layer, book: np.ndarray, indices: np.ndarray, seen: Inputs) -> np.ndarray:
    """The codebook [1, values] with its values moved; a value of 0 stays. Never worse on these data."""
    view = layer.view()
    shape = (*view.shape[:2], -1)
    w, at = view.reshape(shape).astype(np.float64), indices.reshape(shape).astype(np.int64)
    codes = book[0].astype(np.float64)
    moved = _solve(w, at, seen.covariance, codes).astype(book.dtype)
    before, after = (_error(w - c.astype(np.float64)[at], seen.covariance) for c in (book[0], moved))
    return read_only(moved[None]) if after < before else book


def bias_shift(layer: Layer, book: np.ndarray, indices: np.ndarray, seen: Inputs) -> np.ndarray:
    """What the bias of each output gains, float64 [outputs]: the mean of what the outputs lose."""
    view = layer.view()
    lost = (view.astype(np.float64) - restore(indices, book)).reshape(*view.shape[:2], -1)
    return np.einsum("goc,gc->go", lost, seen.mean).ravel()


def _error(d: np.ndarray, covariance: np.ndarray) -> float:
    return float(((d @ covariance) * d).sum())


def _solve(w: np.ndarray, at: np.ndarray, covariance: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """w, at: [groups, outputs, columns]; covariance: [groups, columns, columns]; codes: [values]. The new codes."""
    k = len(codes)
    a, b = np.zeros((k, k)), np.zeros(k)
    for g, c in enumerate(covariance):
        change = (w[g] - codes[at[g]]) @ c
        b += np.bincount(at[g].ravel(), change.ravel(), k)
        for row in at[g]:
            order = np.argsort(row, kind="stable")
            used, first = np.unique(row[order], return_index=True)
            sums = np.add.reduceat(np.add.reduceat(c[order], first, axis=0)[:, order], first, axis=1)
            a[np.ix_(used, used)] += sums
    free = (codes != 0) & (np.diagonal(a) > 0)
    if not free.any():
        return codes
    a = a[np.ix_(free, free)]
    a[np.diag_indices(len(a))] += RIDGE * np.trace(a) / len(a)
    moved = codes.copy()
    moved[free] += np.linalg.solve(a, b[free])
    return moved
