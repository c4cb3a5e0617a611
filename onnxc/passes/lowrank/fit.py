"""Factors that change a layer's outputs least: alternating least squares in the metric of what the layer reads.

With H = E[x x'] of the layer's input columns the mean squared change of the outputs is the sum over outputs of
(w - v) H (w - v)'. Asymmetric (Zhang 2015): x comes from the model factored so far, y from the original one, and the
target is the regression of y on x; around it the error is the same quadratic form.
"""

from __future__ import annotations

import numpy as np

from .cp import OnData, conjugate
from .forms import Channel, Form, Rank, Start, basis

SWEEPS = 60
"""Alternating least squares on data goes on until a sweep lowers the error by less than SETTLED of it."""
SETTLED = 1e-3
CP_SWEEPS, STILL = 200, 3e-5
"""The same for CP on the weight alone, whose sweeps cost less."""
NEAR = 0.4
LARGE = 1500
"""Columns beyond which only the last factor is fitted, in closed form: a step costs outputs times columns squared."""


def refine(
    form: Form, w: np.ndarray, h: np.ndarray | None, factors: list[np.ndarray], sweeps: int | None = None
) -> list[np.ndarray]:
    """Better factors for w [g, o, c, i, j]; h: [g, cij, cij], None for the identity. Never a larger error."""
    if h is None and form.name == "cp":
        return _alternate(w, factors, CP_SWEEPS if sweeps is None else sweeps)
    sweeps = SWEEPS if sweeps is None else sweeps
    if int(np.prod(w.shape[2:])) > LARGE:
        sweeps = 0
    factors = [np.array(f, np.float64) for f in factors]
    fit = OnData(w, h) if sweeps and h is not None and form.name == "cp" else Plain(form, w, h)
    factors[-1], left = fit.last(factors)
    reach = 1.0
    for _ in range(sweeps):
        before = factors
        factors = fit.others(factors)
        factors[-1], now = fit.last(factors)
        ahead = [f + reach * (f - old) for f, old in zip(factors, before, strict=True)]
        ahead[-1], further = fit.last(ahead)
        if further < now:  # sweeps creep along a valley: a longer step the same way (Bro 1998)
            factors, now, reach = ahead, further, 1.5 * reach
        else:
            reach = max(1.0, reach / 3)
        if left - now < SETTLED * now:
            break
        left = now
    return factors


class Plain:
    """Sweeps over the factors of any form."""

    def __init__(self, form: Form, w: np.ndarray, h: np.ndarray | None):
        self.form, self.w, self.h = form, w, h

    def others(self, factors: list[np.ndarray]) -> list[np.ndarray]:
        """All factors but the last, each better for those beside it."""
        made = list(factors)
        for k in range(len(made) - 1):
            made[k] = _descend(self.form, self.w, self.h, made, k)
        return made

    def last(self, factors: list[np.ndarray]) -> tuple[np.ndarray, float]:
        """The best last factor for the others, and the error with it."""
        best = last(self.form, self.w, self.h, factors)
        return best, error(self.w, self.form.compose([*factors[:-1], best]), self.h)


def _alternate(w: np.ndarray, factors: list[np.ndarray], sweeps: int) -> list[np.ndarray]:
    """Alternating least squares of the CP form on the weight alone: each factor's normal equations have the Hadamard
    product of the other three's Gram matrices (Kolda and Bader 2009), and one product with w serves three of them."""
    a, u, v, b = (np.array(f, np.float64) for f in factors)
    b = b.transpose(0, 2, 1)
    g, o, *rest = w.shape
    flat = w.reshape(g, o, -1)

    def gram(*parts):
        made = np.ones((g, a.shape[1], a.shape[1]))
        for part in parts:
            made = made * (part @ part.transpose(0, 2, 1))
        return made

    def prox(old, side, made):  # the ridge holds on to what stands there, so that no step makes the error larger
        level = np.einsum("gii->gi", made).mean(1)[:, None, None]
        ridge = np.where(level > 0, 1e-6 * level, 1.0)
        return np.linalg.solve(made + ridge * np.eye(made.shape[1]), side + ridge * old)

    left, energy = np.inf, float(np.square(w).sum())
    for _ in range(sweeps):
        p = (b @ flat).reshape(g, -1, *rest)
        a = prox(a, np.einsum("grcij,gri,grj->grc", p, u, v, optimize=True), gram(u, v, b))
        q = np.einsum("grcij,grc->grij", p, a, optimize=True)
        u = prox(u, np.einsum("grij,grj->gri", q, v), gram(a, v, b))
        v = prox(v, np.einsum("grij,gri->grj", q, u), gram(a, u, b))
        t = np.einsum("grc,gri,grj->grcij", a, u, v, optimize=True).reshape(g, a.shape[1], -1)
        side, made = t @ flat.transpose(0, 2, 1), gram(a, u, v)
        b = prox(b, side, made)
        now = energy - 2 * float((side * b).sum()) + float((b * (made @ b)).sum())  # |w - v|^2
        if left - now < STILL * now:
            break
        left = now
    return [a, u, v, b.transpose(0, 2, 1)]


def last(form: Form, w: np.ndarray, h: np.ndarray | None, factors: list[np.ndarray]) -> np.ndarray:
    """The best last factor for the others: linear least squares, exactly."""
    t = form.features(factors[:-1], w.shape)
    th = t if h is None else t @ h
    gram = th @ t.transpose(0, 2, 1)
    level = np.einsum("gii->gi", gram).mean(1)[:, None, None]
    gram = gram + np.eye(gram.shape[1]) * np.where(level > 0, 1e-9 * level, 1.0)
    target = th @ w.reshape(*w.shape[:2], -1).transpose(0, 2, 1)
    return np.linalg.solve(gram, target).transpose(0, 2, 1).reshape(factors[-1].shape)


def _descend(form: Form, w, h, factors, k: int) -> np.ndarray:
    """Conjugate gradients on factor k with the others fixed."""

    def through(x):
        return form.pulled(weigh(form.compose([*factors[:k], x, *factors[k + 1 :]]), h), factors, k)

    return conjugate(through, factors[k], form.pulled(weigh(w, h), factors, k))


def weigh(v: np.ndarray, h: np.ndarray | None) -> np.ndarray:
    """v H, in the shape of v."""
    return v if h is None else (v.reshape(*v.shape[:2], -1) @ h).reshape(v.shape)


def error(w: np.ndarray, v: np.ndarray, h: np.ndarray | None) -> float:
    """Mean squared change of the outputs over their mean square, 0 for v = w, 1 for v = 0."""
    whole = float((weigh(w, h) * w).sum())
    return max(0.0, float((weigh(w - v, h) * (w - v)).sum())) / whole if whole > 0 else 0.0


def likely(w: np.ndarray, v: np.ndarray) -> float:
    """The error as it is to be expected without data: mean squared change of the outputs over their mean square.

    What stands side by side in an activation is alike, so that smooth kernels matter more than rough ones. Inputs of one
    channel d taps apart are taken to correlate by NEAR ** d along each axis, those of different channels not at all.
    """
    whole = np.square(_blurred(w)).sum()
    return float(np.square(_blurred(w - v)).sum() / whole) if whole > 0 else 0.0


def _blurred(w: np.ndarray) -> np.ndarray:
    """w [g, o, c, i, j] times the Cholesky factors of the correlations along i and j."""
    for axis in (3, 4):
        n = w.shape[axis]
        taps = np.arange(n)
        factor = np.linalg.cholesky(NEAR ** np.abs(taps[:, None] - taps))
        w = np.moveaxis(np.moveaxis(w, axis, -1) @ factor, -1, axis)
    return w


class Whitened:
    """A form's start on w whitened over its input channels, and its factors taken back.

    The second moment of the channels alone, averaged over taps, stands for H in the start; `channel` needs no such
    help: projecting on the main axes of the outputs W H W' is the best there is.
    """

    def __init__(self, form: Form, w: np.ndarray, h: np.ndarray | None):
        self.form, self.w, self.h = form, w, h
        self.inverse = None
        if h is None:
            self.start = form.start(w)
        elif isinstance(form, Channel):
            self.start = _by_outputs(w, h)
        else:
            root, self.inverse = roots(channel_moment(h, w.shape))
            self.start = form.start(np.einsum("gocij,gcd->godij", w, root, optimize=True))
            if form.name == "separable":  # each input channel is on its own: nothing to mix
                self.start, self.inverse = form.start(w), None

    @property
    def ranks(self) -> list[Rank]:
        return self.start.ranks

    @property
    def errors(self) -> np.ndarray:
        return self.start.errors

    def factors(self, rank: Rank, sweeps: int | None = None) -> list[np.ndarray]:
        factors = self.form.at(self.start, rank)
        if self.inverse is not None:
            s = self.form.factors[0]
            factors[0] = np.einsum(f"{s},gcd->{s.replace('c', 'd')}", factors[0], self.inverse, optimize=True)
        if isinstance(self.form, Channel) or (self.h is None and self.form.name != "cp"):
            return factors  # closed forms; Tucker has had its HOOI
        if rank == self.form.full(self.w.shape) and self.h is None:
            return factors
        return refine(self.form, self.w, self.h, factors, sweeps)


def _by_outputs(w: np.ndarray, h: np.ndarray) -> Start:
    m = w.reshape(*w.shape[:2], -1)
    values, vectors = np.linalg.eigh(m @ h @ m.transpose(0, 2, 1))
    values, vectors = np.maximum(values[:, ::-1], 0).sum(0), vectors[:, :, ::-1]
    total = values.sum()
    errors = np.maximum(0, 1 - np.cumsum(values) / total) if total > 0 else np.zeros(len(values))
    return Start([(r + 1,) for r in range(len(values))], errors, (m, vectors, False), w.shape)


def channel_moment(h: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[g, c, c]: the diagonal blocks of H over taps, averaged."""
    g, _, c, i, j = shape
    return np.einsum("gctdt->gcd", h.reshape(g, c, i * j, c, i * j)) / (i * j)


def roots(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric square root of each h [g, n, n] and its inverse; directions without energy get a little."""
    level = np.einsum("gii->g", h)[:, None, None] / h.shape[1]
    vectors, values = basis(np.linalg.cholesky(h + np.eye(h.shape[1]) * (1e-6 * level + 1e-30)))
    s = np.sqrt(np.maximum(values, 1e-30))
    back = vectors.transpose(0, 2, 1)
    return (vectors * s[:, None]) @ back, (vectors / s[:, None]) @ back
