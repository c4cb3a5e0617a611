"""Rounding of weights to integers so that a layer's outputs, not its weights, change least.

A layer computes y = W x; its quantised self computes V x', where x' is the input as integers give it. With the second
moments H = E[x' x'^T] and C = E[x x'^T] the mean squared error of the outputs is, but for a constant,

    tr (V - U) H (V - U)^T,   U = W C H^-1,

so that U, not W, is what the integers V should come near to: U takes back what the quantised input has wrong wherever
the input's own correlations allow it (a Wiener filter). `gptq` rounds column by column and hands each column's error on
to the columns that follow (Frantar 2023); `descend` then moves one column at a time to its best integers given all
others, which never makes the error larger (Behdin 2023). All outputs of a layer move at once.

Shapes: w, u [g, o, k]; h, c [g, k, k]; scale [g, o, 1]; stored integers as float64 [g, o, k].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..layers.moments import damped

DAMP = 1e-3
"""What is added to the diagonal of H, as a share of its mean: keeps directions that the data never show near W."""
BLOCK = 128
SWEEPS = 4


def target(w: np.ndarray, h: np.ndarray, c: np.ndarray, damp: float = DAMP) -> np.ndarray:
    """U = (W C + d W) (H + d I)^-1: the real weights that do best on x', drawn towards W where data say nothing."""
    ridge = damped(h, damp)
    return np.linalg.solve(ridge, (w @ (c + (ridge - h))).transpose(0, 2, 1)).transpose(0, 2, 1)


def nearest(u: np.ndarray, scale: np.ndarray, top: int) -> np.ndarray:
    """Each weight by itself."""
    return np.clip(np.rint(u / scale), -top, top)


def gptq(u: np.ndarray, h: np.ndarray, scale: np.ndarray, top: int) -> np.ndarray:
    """Round column by column, in the order of falling H_kk, each error handed on to the columns not yet rounded.

    With L L^T = H^-1 (as GPTQ has it, L^T upper) the best change of the later columns j for an error e in column i is
    -e L_ji / L_ii.
    """
    order = np.argsort(-np.einsum("gii->gi", h), axis=1, kind="stable")
    rows = np.arange(len(h))[:, None]
    h = h[rows[:, :, None], order[:, :, None], order[:, None, :]]
    u = np.take_along_axis(u, order[:, None, :], 2).copy()
    spread = np.linalg.cholesky(np.linalg.inv(h)).transpose(0, 2, 1)
    stored = np.empty_like(u)
    k = u.shape[2]
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = np.empty((*u.shape[:2], stop - start))
        for i in range(start, stop):
            stored[:, :, i] = np.clip(np.rint(u[:, :, i] / scale[:, :, 0]), -top, top)
            e = (u[:, :, i] - stored[:, :, i] * scale[:, :, 0]) / spread[:, i, i, None]
            u[:, :, i + 1 : stop] -= e[:, :, None] * spread[:, i, None, i + 1 : stop]
            errors[:, :, i - start] = e
        u[:, :, stop:] -= errors @ spread[:, start:stop, stop:]
    return np.take_along_axis(stored, np.argsort(order, axis=1)[:, None, :], 2)


def descend(
    stored: np.ndarray,
    u: np.ndarray,
    h: np.ndarray,
    scale: np.ndarray,
    top: int,
    sweeps: int = SWEEPS,
    snap: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Coordinate descent on tr (V - U) H (V - U)^T over integers, column by column, until no column moves.

    snap: real numbers to the levels allowed; the integers up to `top` by default.
    """
    if snap is None:
        snap = partial(_integers, top=top)
    stored = stored.copy()
    slope = (u - stored * scale) @ h  # what the error's derivative is made of, kept up to date
    diagonal = np.einsum("gii->gi", h)
    for _ in range(sweeps):
        moved = False
        for start in range(0, u.shape[2], BLOCK):
            stop = min(start + BLOCK, u.shape[2])
            near = slope[:, :, start:stop]
            change = np.zeros_like(near)
            for i in range(start, stop):
                at = near[:, :, i - start]
                new = snap(stored[:, :, i] + at / (diagonal[:, i, None] * scale[:, :, 0]))
                step = new - stored[:, :, i]
                if step.any():
                    stored[:, :, i] = new
                    change[:, :, i - start] = step * scale[:, :, 0]
                    near -= change[:, :, i - start, None] * h[:, i, None, start:stop]
            if change.any():
                moved = True
                slope[:, :, :start] -= change @ h[:, start:stop, :start]
                slope[:, :, stop:] -= change @ h[:, start:stop, stop:]
        if not moved:
            break
    return stored


def _integers(values: np.ndarray, top: int) -> np.ndarray:
    return np.clip(np.rint(values), -top, top)


def error(real: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(V - U) H (V - U)^T of each output, [g, o]."""
    d = real - u
    return np.einsum("goi,goi->go", d @ h, d)
