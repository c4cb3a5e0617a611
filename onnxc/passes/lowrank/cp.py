"""Better CP factors in the metric of what a layer reads: the two small ones exactly, the first by conjugate gradients.

w [g, o, c, i, j] ~ b t with t [g, r, (i j c)] = a_rc u_ri v_rj, H = E[x x'] in the order of t. With G = b' b and P = b' w H the error is
quadratic in each factor, and its normal equations are

    u   (G_rs · (a v)_r H_ij (a v)_s) u = (P a v)      of r i unknowns, H_ij the block of H of two rows of the kernel; v the same
    a   through b t H, or G t H where r is less than o: as many rows of H as the shorter side has
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEPS = 8
"""Conjugate gradients on the first factor, in each sweep."""
RIDGE = 1e-9
"""Of the mean diagonal of normal equations: it holds on to what stands there, so that no step makes the error larger."""


class OnData:
    """Sweeps over the factors of w; h: [g, cij, cij]."""

    def __init__(self, w: np.ndarray, h: np.ndarray):
        g, o, c, i, j = self.shape = w.shape
        wide = h.reshape(g, c, i, j, c, i, j)
        self.rows = wide.transpose(0, 2, 3, 1, 5, 6, 4).reshape(h.shape)  # (i j c)
        self.columns = wide.transpose(0, 3, 2, 1, 6, 5, 4).reshape(h.shape)  # (j i c)
        flat = w.transpose(0, 1, 3, 4, 2).reshape(g, o, -1)
        self.wh = flat @ self.rows
        self.energy = float((self.wh * flat).sum())

    def others(self, factors: list[np.ndarray]) -> list[np.ndarray]:
        """All factors but the last, each better for those beside it."""
        a, u, v, b = factors
        g, _, c, i, j = self.shape
        turned = b.transpose(0, 2, 1)
        gram, p = turned @ b, (turned @ self.wh).reshape(g, -1, i, j, c)
        a = self._first(a, u, v, b, gram, np.einsum("grijc,gri,grj->grc", p, u, v, optimize=True))
        side = np.einsum("grijc,grc->grij", p, a, optimize=True)
        u = _solved(self.rows, _pair(v, a), gram, u, np.einsum("grij,grj->gri", side, v))
        v = _solved(self.columns, _pair(u, a), gram, v, np.einsum("grij,gri->grj", side, u))
        return [a, u, v, b]

    def last(self, factors: list[np.ndarray]) -> tuple[np.ndarray, float]:
        """The best last factor for the others, and the error with it: the mean squared change of the outputs over their mean square."""
        a, u, v, old = factors
        t = _pair(_pair(u, v), a)
        gram, side = t @ self.rows @ t.transpose(0, 2, 1), t @ self.wh.transpose(0, 2, 1)
        b = _ridged(gram, side, old.transpose(0, 2, 1))
        left = self.energy - 2 * float((side * b).sum()) + float((b * (gram @ b)).sum())
        return b.transpose(0, 2, 1), max(0.0, left) / self.energy if self.energy > 0 else 0.0

    def _first(self, x: np.ndarray, u, v, b, gram: np.ndarray, side: np.ndarray) -> np.ndarray:
        g, o, c, i, j = self.shape
        p = _pair(u, v)[..., None]  # [g, r, ij, 1]
        r = x.shape[1]
        q = (b[:, :, None] * p.transpose(0, 3, 2, 1)).reshape(g, o * i * j, r) if r >= o else None

        def through(d: np.ndarray) -> np.ndarray:
            if q is not None:
                made = (q @ d).reshape(g, o, -1) @ self.rows
                return q.transpose(0, 2, 1) @ made.reshape(g, -1, c)
            made = gram @ ((p * d[:, :, None]).reshape(g, r, -1) @ self.rows)
            return (made.reshape(g, r, i * j, c) * p).sum(2)

        return conjugate(through, x, side)


def conjugate(through: Callable[[np.ndarray], np.ndarray], x: np.ndarray, side: np.ndarray) -> np.ndarray:
    """STEPS of conjugate gradients on through(x) = side, from x on; through: a symmetric map without negative directions."""
    r = side - through(x)
    d, power = r, float((r * r).sum())
    goal = 1e-14 * power
    for _ in range(STEPS):
        if power <= goal or power == 0:
            break
        q = through(d)
        curve = float((d * q).sum())
        if curve <= 0:
            break
        x = x + (power / curve) * d
        r = r - (power / curve) * q
        new = float((r * r).sum())
        d, power = r + (new / power) * d, new
    return x


def _pair(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[g, r, m] and [g, r, n] to their products [g, r, m n]."""
    return (x[..., None] * y[:, :, None]).reshape(*x.shape[:2], -1)


def _solved(h: np.ndarray, e: np.ndarray, gram: np.ndarray, old: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The factor [g, r, taps] whose normal equations are made of the blocks of h over taps: gram_rs · e_r h_kl e_s."""
    g, r, taps = old.shape
    n = e.shape[2]
    made = np.empty((g, r, taps, r, taps))
    for k in range(taps):
        ahead = e @ h[:, k * n : (k + 1) * n, k * n :]
        for l in range(k, taps):  # noqa: E741  the second of two taps
            block = ahead[:, :, (l - k) * n : (l - k + 1) * n] @ e.transpose(0, 2, 1) * gram
            made[:, :, k, :, l] = block
            made[:, :, l, :, k] = block.transpose(0, 2, 1)
    solved = _ridged(made.reshape(g, r * taps, r * taps), side.reshape(g, -1, 1), old.reshape(g, -1, 1))
    return solved.reshape(old.shape)


def _ridged(gram: np.ndarray, side: np.ndarray, old: np.ndarray) -> np.ndarray:
    level = np.einsum("gii->gi", gram).mean(1)[:, None, None]
    ridge = np.where(level > 0, RIDGE * level, 1.0)
    return np.linalg.solve(gram + ridge * np.eye(gram.shape[1]), side + ridge * old)
