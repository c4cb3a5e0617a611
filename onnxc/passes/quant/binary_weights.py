"""Weights of few levels: v = sum of planes, or scale times a level, for each output of a layer.

    bwn        alpha sign(w), alpha = mean |w|: the best one plane (XNOR-Net, Rastegari 2016)
    residual   several planes, each of what the others leave, all scales by least squares (Network Sketching, Guo 2017)
    ternary    alpha {-1, 0, 1}: the best of all thresholds, not an estimate of it (TWN, Li 2016)
    proximal   alpha {-1, 1}, the same aim, by proximal steps in the metric of the curvature (loss-aware, Hou 2017)
    hashing    alpha {-1, 1} whose products with the inputs come near: discrete cyclic descent (BWNH, Hu 2018)
    admm       alpha {0, +-1} (2 bits) or alpha {0, +-1, +-2, +-4} (3 bits), the same aim, by ADMM (Leng 2018)

residual, proximal, hashing and admm minimise tr (V - U) H (V - U)^T; see `rounding` for U and H. Shapes: w, u [g, o, k]; h [g, k, k].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..layers.moments import damped
from . import rounding

LEVELS = {1: (-1.0, 1.0), 2: (-1.0, 0.0, 1.0), 3: (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)}
"""Bits -> levels of hashing (1) and ADMM (2, 3)."""
ROUNDS = 40
STEPS, STEP = 100, 0.1
"""Steps of `proximal`, and how far each goes."""
ALTERNATIONS = 8
Snap = Callable[[np.ndarray], np.ndarray]


def snap(levels: tuple[float, ...]) -> Snap:
    """Nearest of `levels`, which rise; a number halfway goes up."""
    values = np.array(levels)
    edges = (values[1:] + values[:-1]) / 2
    return lambda v: values[np.searchsorted(edges, v, side="right")]


def bwn(w: np.ndarray) -> np.ndarray:
    """Signs times the mean magnitude of each output's weights, for w [g, o, k] (Rastegari 2016, XNOR-Net, equation 6)."""
    return np.where(w >= 0, 1.0, -1.0) * np.abs(w).mean(2, keepdims=True)


def sketched(u: np.ndarray, h: np.ndarray, order: int) -> np.ndarray:
    """Planes one by one, each by `hashing` of what is left; then all scales anew: (P H P^T) a = P H u."""
    ridge = damped(h, rounding.DAMP)
    planes: list[np.ndarray] = []
    made = np.zeros_like(u)
    for _ in range(order):
        planes.append(np.where(hashing(u - made, h) >= 0, 1.0, -1.0))
        p = np.stack(planes, 2)
        turned = np.einsum("gopk,gkl->gopl", p, ridge, optimize=True)
        gram = np.einsum("gopl,goql->gopq", turned, p, optimize=True)
        scales = np.einsum("gopq,goq->gop", np.linalg.pinv(gram), np.einsum("gopl,gol->gop", turned, u))
        made = np.einsum("gop,gopk->gok", scales, p)
    return made


def ternary(w: np.ndarray) -> np.ndarray:
    """With the m largest magnitudes kept, |w - alpha t|^2 = |w|^2 - (their sum)^2 / m at alpha = their mean: every m is tried."""
    magnitude = np.abs(w)
    falling = -np.sort(-magnitude, axis=2)
    sums = np.cumsum(falling, axis=2)
    counts = np.arange(1, w.shape[2] + 1)
    best = np.argmax(sums**2 / counts, axis=2)[..., None]
    least = np.take_along_axis(falling, best, 2)
    kept = (magnitude >= least) & (magnitude > 0)
    alpha = (magnitude * kept).sum(2, keepdims=True) / np.maximum(kept.sum(2, keepdims=True), 1)
    return np.sign(w) * kept * alpha


def proximal(u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Loss-aware binarisation of a layer (Hou 2017, equations 6 to 8), the best of all iterates for each output.

    The loss (V - U) H (V - U)^T has the slope (V - U) H at V = alpha b; the real weights w take steps of it divided by a
    metric d, and are binarised as that metric wants:  b = sign(w),  alpha = sum d |w| / sum d. The first iterate is that
    of W = U with d the diagonal of H. Steps take d_i = sum_j |H_ij|, which is above H: with the diagonal alone they
    overshoot where inputs are alike.
    """
    made = _weighted(u, np.einsum("gii->gi", h)[:, None, :])
    least = rounding.error(made, u, h)
    d, w = np.abs(h).sum(2)[:, None, :] + 1e-12, u
    for _ in range(STEPS):
        v = _weighted(w, d)
        slope = (v - u) @ h
        lost = (slope * (v - u)).sum(2)
        made = np.where((lost < least)[..., None], v, made)
        least = np.minimum(lost, least)
        w = w - STEP * slope / d
    return made


def _weighted(w: np.ndarray, d: np.ndarray) -> np.ndarray:
    """alpha sign(w), alpha the mean magnitude weighted by d."""
    d = d + 1e-12
    return np.where(w >= 0, 1.0, -1.0) * ((np.abs(w) * d).sum(2, keepdims=True) / d.sum(2, keepdims=True))


def hashing(u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Alternate the scale and one sweep over the signs; neither makes the error larger."""
    h = damped(h, rounding.DAMP)
    q = np.where(u >= 0, 1.0, -1.0)
    return _polished(q, u, h, snap(LEVELS[1]))


def admm(u: np.ndarray, h: np.ndarray, bits: int) -> np.ndarray:
    """Split V (real, near the outputs) from G (of levels); the price of V = G rises through the multiplier m.

    V = argmin tr (V - U) H (V - U)^T + r |V - G + m|^2,   G = levels nearest to V + m,   m += V - G
    """
    h = damped(h, rounding.DAMP)
    nearest = snap(LEVELS[bits])
    eye = np.eye(h.shape[1])
    r = np.einsum("gii->gi", h).mean(1)[:, None, None]
    inverse = np.linalg.inv(h + r * eye)
    product = u @ h
    q, scale = _project(u, nearest)
    m = np.zeros_like(u)
    for _ in range(ROUNDS):
        v = (product + r * (q * scale - m)) @ inverse
        q, scale = _project(v + m, nearest)
        m += v - q * scale
    return _better(_polished(q, u, h, nearest), _polished(_project(u, nearest)[0], u, h, nearest), u, h)


def _project(v: np.ndarray, nearest: Snap) -> tuple[np.ndarray, np.ndarray]:
    """(levels [g, o, k], scale [g, o, 1]) near v in the plain sense: the scale by least squares, in turns."""
    top = float(nearest(np.array([np.inf]))[0])
    scale = np.maximum(np.abs(v).mean(2, keepdims=True) * (2.0 / (1 + top)), 1e-30)
    for _ in range(ALTERNATIONS):
        q = nearest(v / scale)
        power = (q * q).sum(2, keepdims=True)
        scale = np.where(power > 0, np.maximum((v * q).sum(2, keepdims=True), 1e-30) / np.maximum(power, 1), scale)
    return nearest(v / scale), scale


def _polished(q: np.ndarray, u: np.ndarray, h: np.ndarray, nearest: Snap) -> np.ndarray:
    """scale * levels after a few turns of scale and levels on the outputs' error."""
    for _ in range(ALTERNATIONS):
        scale = _scale(q, u, h)
        new = rounding.descend(q, u, h, scale, 0, sweeps=1, snap=nearest)
        if np.array_equal(new, q):
            break
        q = new
    return q * _scale(q, u, h)


def _scale(q: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """argmin over s of (s q - u) H (s q - u)^T = u H q^T / q H q^T, kept above zero."""
    turned = q @ h
    power = (turned * q).sum(2, keepdims=True)
    return np.maximum((turned * u).sum(2, keepdims=True) / np.maximum(power, 1e-30), 1e-30)


def _better(a: np.ndarray, b: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Output by output, whichever errs less."""
    return np.where((rounding.error(a, u, h) <= rounding.error(b, u, h))[..., None], a, b)
