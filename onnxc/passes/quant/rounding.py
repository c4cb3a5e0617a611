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


Snap = Callable[[np.ndarray], np.ndarray]
"""Real numbers to the levels allowed, in units of the scale."""


def gptq(u: np.ndarray, h: np.ndarray, scale: np.ndarray, top: int, snap: Snap | None = None) -> np.ndarray:
    """Round column by column, in the order of falling H_kk, each error handed on to the columns not yet rounded. snap: as in
    `descend`.

    With L L^T = H^-1 (as GPTQ has it, L^T upper) the best change of the later columns j for an error e in column i is
    -e L_ji / L_ii.
    """
    if snap is None:
        snap = partial(_integers, top=top)
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
            stored[:, :, i] = snap(u[:, :, i] / scale[:, :, 0])
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
    snap: Snap | None = None,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """Coordinate descent on tr (V - U) H (V - U)^T over integers, column by column, until no column moves.

    snap: real numbers to the levels allowed; the integers up to `top` by default. held: where nothing moves, bool [g, o, k].
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
                if held is not None:
                    new = np.where(held[:, :, i], stored[:, :, i], new)
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


STRETCH = (-0.1, 1.1)
"""Ends of the stretched sigmoid, so that 0 and 1 are reached (Louizos 2018)."""
STEPS, WORK, RATE = (300, 2000), 2e11, 0.01
"""Least and most steps of AdaRound, the multiply-adds that they may take, and Adam's rate."""
WARM, BETA, WEIGHT = 0.2, (20.0, 2.0), 100.0
"""Share of the steps without regularisation, ends of its exponent, and its weight beside the relative error."""


def adaround(w: np.ndarray, u: np.ndarray, h: np.ndarray, scale: np.ndarray, top: int) -> np.ndarray:
    """Up or down of each weight, learnt all at once (AdaRound: Nagel 2020, eq. 21 to 25), on moments in the place of samples.

    V = scale (floor(w / scale) + r(a)), r a stretched sigmoid of a; the error of each output, in units of that of rounding to
    nearest for each weight, and WEIGHT times the sum of 1 - |2 r - 1|^beta are lowered by Adam, beta falling, so that r ends at 0 or 1.
    Of that and rounding to nearest the better is kept for each output.
    """
    low, spread = STRETCH[0], STRETCH[1] - STRETCH[0]
    floor, start = np.floor(w / scale), nearest(w, scale, top)
    unit = error(start * scale, u, h)[..., None] / w.shape[2]
    gain = 2 * scale / np.where(unit > 0, unit, 1.0)
    rest = np.clip(w / scale - floor, 0.01, 0.99)
    a = np.log((rest - low) / (STRETCH[1] - rest))
    a, h32, u32 = a.astype(np.float32), h.astype(np.float32), u.astype(np.float32)
    s32, f32, gain = scale.astype(np.float32), floor.astype(np.float32), gain.astype(np.float32)
    first, second = np.zeros_like(a), np.zeros_like(a)
    steps = int(np.clip(WORK / max(1, w.size * w.shape[2]), *STEPS))
    for t in range(1, steps + 1):
        sigmoid = 1 / (1 + np.exp(-a))
        raw = sigmoid * np.float32(spread) + np.float32(low)
        r = np.clip(raw, 0, 1)
        slope = gain * (((f32 + r) * s32 - u32) @ h32)
        done = (t / steps - WARM) / (1 - WARM)
        if done > 0:
            beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + np.cos(done * np.pi))
            far = 2 * r - 1
            slope -= np.float32(2 * WEIGHT * beta) * np.sign(far) * np.abs(far) ** np.float32(beta - 1)
        slope *= np.float32(spread) * sigmoid * (1 - sigmoid) * ((raw > 0) & (raw < 1))
        first += np.float32(0.1) * (slope - first)
        second += np.float32(0.001) * (slope * slope - second)
        a -= np.float32(RATE / (1 - 0.9**t)) * first / (np.sqrt(second / np.float32(1 - 0.999**t)) + np.float32(1e-8))
    learnt = np.clip(floor + (a > 0), -top, top)
    better = error(learnt * scale, u, h) < error(start * scale, u, h)
    return np.where(better[..., None], learnt, start)


def _integers(values: np.ndarray, top: int) -> np.ndarray:
    return np.clip(np.rint(values), -top, top)


def error(real: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(V - U) H (V - U)^T of each output, [g, o]."""
    d = real - u
    return np.einsum("goi,goi->go", d @ h, d)
