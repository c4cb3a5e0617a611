"""The truncated singular value decomposition of a weight matrix, and the rank that keeps a share of its energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 4096
"""Columns that are widened to float64 at once."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of W [m, n], descending, float64 [k], and their vectors on the short side, k = min(m, n).

    They come from the eigenvectors of the short side's Gram matrix, accumulated in float64: 4 m n k + O(k^3) operations
    instead of the SVD's, and no second large array. Squaring costs accuracy in singular values below 1e-8 of the
    largest; float32 weights have no more to show. The factors below stay exact all the same: they are projections.
    """

    matrix: np.ndarray
    values: np.ndarray
    vectors: np.ndarray

    @property
    def energy(self) -> np.ndarray:
        """Share of the squared Frobenius norm in the first 1, 2, ..., k singular values; ones for a zero matrix."""
        squares = np.cumsum(self.values**2)
        return squares / squares[-1] if squares[-1] > 0 else np.ones_like(squares)

    def rank_for(self, energy: float) -> int:
        """The smallest rank that keeps this share of the energy, 1 to k."""
        return min(int(np.searchsorted(self.energy, energy * (1 - 1e-12))) + 1, len(self.values))

    def factor(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """first [rank, n] and second [m, rank], second @ first the nearest matrix of that rank (Eckart and Young 1936).

        The rows of `first` are orthonormal: what lies between the two has no channel that dwarfs the others, which a
        later quantiser wants. Both in the dtype of the matrix.
        """
        w, v = self.matrix, self.vectors[:, :rank]
        if w.shape[0] > w.shape[1]:  # right singular vectors: W ~ (W V) V^T
            first, second = v.T, _product(w, v)
        else:  # left singular vectors: W ~ (U S) (U^T W / S)
            s = self.values[:rank]
            inverse = np.where(s > 0, 1 / np.where(s > 0, s, 1), 0.0)
            first, second = _product(w.T, v).T * inverse[:, None], v * s
        return tuple(np.ascontiguousarray(f, w.dtype) for f in (first, second))


def spectrum(matrix: np.ndarray) -> Spectrum:
    """Decompose W [m, n]. Deterministic: the sign of each vector is that which makes its largest entry positive."""
    from scipy.linalg import eigh

    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = np.zeros((len(short),) * 2)
    for i in range(0, short.shape[1], BLOCK):
        block = short[:, i : i + BLOCK].astype(np.float64)
        gram += block @ block.T
    squares, vectors = eigh(gram, overwrite_a=True, check_finite=False)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return Spectrum(matrix, np.sqrt(np.maximum(squares, 0.0)), vectors * np.where(largest < 0, -1.0, 1.0))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b in float64, a block of rows at a time."""
    return np.concatenate([a[i : i + BLOCK].astype(np.float64) @ b for i in range(0, len(a), BLOCK)])


def saving_rank(m: int, n: int) -> int:
    """The largest rank with rank (m + n) < m n, 0 if none: beyond it two factors cost no less than the matrix."""
    return (m * n - 1) // (m + n)
