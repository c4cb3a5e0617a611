"""How ranks are chosen: the estimate of variational Bayes, and a budget spent where error per saved cost is least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..layers.widths import WIDTHS
from .forms import Form, Rank

SEVERAL = 128
"""Channels from which on a depthwise stage of several maps a channel is no slower than the layer: ONNX Runtime blocks one map alone."""


@dataclass(frozen=True)
class Choice:
    """A form and rank for a layer. macs, params: of the factored layer; error: share of the output's energy lost; channels: of
    the layer's input; time: predicted, where that is asked for (`timing`)."""

    form: Form
    rank: Rank
    macs: int
    params: int
    error: float
    channels: int = 0
    time: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What the layers' costs in `unit` may sum to, `goal`; `wholes` are those of the layers as they are. Errors are weighed by
    what is saved of `by`, the unit itself or time (`weights`: the layers' costs in that)."""

    unit: str
    goal: float
    wholes: list[float]
    by: str
    weights: list[float]


def vbmf_rank(values: np.ndarray, m: int, n: int) -> int:
    """How many of the squared singular values [k] of an m x n matrix rise above its noise; at least 1.

    The global analytic solution of empirical variational Bayes matrix factorisation (Nakajima, Sugiyama, Babacan and
    Tomioka 2013, JMLR 14), the noise's variance found by a search in one dimension: a singular value counts if it
    exceeds sqrt(M s2 (1 + tau)(1 + alpha / tau)), L <= M the sides, alpha = L / M, tau = 2.5129 sqrt(alpha).
    """
    from scipy.optimize import minimize_scalar

    length, m = min(m, n), max(m, n)
    s2 = np.sort(np.maximum(values, 0))[::-1][:length]
    total = s2.sum()
    if total <= 0:
        return 1
    alpha = length / m
    tau_bar = 2.5129 * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    most = int(min(np.ceil(length / (1 + alpha)) - 1, length))
    upper = total / (length * m)
    tail = s2[most + 1 :].mean() / m if most + 1 < length else 0.0
    at = s2[most] / (m * x_bar) if most < length else 0.0
    lower = max(at, tail, upper * 1e-12)

    def objective(sigma2: float) -> float:
        x = np.maximum(s2 / (m * sigma2), 1e-300)
        above = x > x_bar
        z = x[above]
        root = z - (1 + alpha)
        tau = 0.5 * (root + np.sqrt(np.maximum(root**2 - 4 * alpha, 0)))
        term = np.sum(x[~above] - np.log(x[~above])) + np.sum(z - tau)
        term += np.sum(np.log((tau + 1) / z)) + alpha * np.sum(np.log(tau / alpha + 1))
        return float(term + (len(s2) - len(x)) * np.log(sigma2))

    sigma2 = minimize_scalar(objective, bounds=(lower, max(upper, lower * 1.0001)), method="bounded").x
    return max(1, int((s2 > m * sigma2 * x_bar).sum()))


def even(choices: list[Choice], width: int, groups: int, mixed: bool) -> list[Choice]:
    """Those whose stages run well: of each form the ranks that are multiples of `width`, or of the largest of WIDTHS below it
    that leaves any. mixed: other forms are open, so that depthwise stages of several maps on few channels are left out."""
    found = []
    for form in dict.fromkeys(c.form.name for c in choices):
        mine = [c for c in choices if c.form.name == form]
        if form == "separable":
            found += [c for c in mine if c.rank == (1,) or not mixed or c.channels >= SEVERAL]
            continue
        for w in (w for w in WIDTHS if w <= width):
            if fit := [c for c in mine if not any(r * groups % w for r in c.rank)]:
                found += fit
                break
    return found


def hull(choices: list[Choice], whole: float, unit: str) -> list[Choice]:
    """The choices on the lower convex hull of (cost, error), from the dearest on; `whole`: the cost of the layer."""
    points = sorted(choices, key=lambda c: (getattr(c, unit), c.error, c.form.name, c.rank))
    best, low = [], np.inf
    for c in points:  # by rising cost: each must have a smaller error than all cheaper ones
        if c.error < low:
            best.append(c)
            low = c.error
    chain: list[tuple[float, float, Choice | None]] = [(whole, 0.0, None)]
    for c in reversed(best):
        x, y = float(getattr(c, unit)), c.error
        while len(chain) > 1 and _slope(chain[-2], chain[-1]) >= _slope(chain[-1], (x, y, c)):
            chain.pop()
        chain.append((x, y, c))
    return [c for _, _, c in chain if c is not None]


def _slope(a, b) -> float:
    return (b[1] - a[1]) / max(a[0] - b[0], 1e-9)


def leads(layers: list[list[Choice]], budget: Budget) -> list[list[list[Choice]]]:
    """The choices of one form, for all layers that it is open to, all choices of the others: for each form that meets the
    goal so, that of the least error first.

    Errors that are guesses flatter whichever form comes out best of several, layer by layer; over a whole network the
    guess of a single form's error is steadier.
    """
    totals: dict[str, float] = {}
    for name in sorted({c.form.name for choices in layers for c in choices}):
        picked = spend(_only(layers, name), budget)
        if sum(getattr(c, budget.unit) if c else whole for c, whole in zip(picked, budget.wholes)) <= budget.goal:
            totals[name] = sum(c.error for c in picked if c)
    return [_only(layers, name) for name in sorted(totals, key=totals.__getitem__)]


def _only(layers: list[list[Choice]], name: str) -> list[list[Choice]]:
    """The choices of this form; all of a layer that it is not open to."""
    return [[c for c in choices if c.form.name == name] or choices for choices in layers]


def spend(layers: list[list[Choice]], budget: Budget) -> list[Choice | None]:
    """One choice (or None: whole) for each layer such that the costs sum to at most the goal with the least error.

    Greedy on the hulls: always the step with the least error per cost saved, which is optimal but for the last
    step; that one is then made no larger than needed. Returns the cheapest there is where the goal is out of reach.
    """
    unit, by, wholes = budget.unit, budget.by, budget.wholes
    steps = []
    for n, choices in enumerate(layers):
        cost, error = budget.weights[n], 0.0
        for c in hull(choices, cost, by):
            steps.append(((c.error - error) / max(cost - getattr(c, by), 1e-9), n, c))
            cost, error = float(getattr(c, by)), c.error
    picked: list[Choice | None] = [None] * len(layers)
    now = float(sum(wholes))
    for _, n, c in sorted(steps, key=lambda s: s[0]):
        if now <= budget.goal:
            break
        before = picked[n]
        old = wholes[n] if before is None else getattr(before, unit)
        rest = budget.goal - (now - old)
        fits = [o for o in layers[n] if o.error <= c.error and getattr(o, unit) <= rest]
        if fits:
            c = min(fits, key=lambda o: (o.error, getattr(o, unit)))
        now += getattr(c, unit) - old
        picked[n] = c
    return picked
