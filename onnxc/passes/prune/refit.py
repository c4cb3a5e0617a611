"""The best weights under a mask, given the second moment of what a layer reads; no labels.

A layer computes y = W x for columns x of inputs. With H = E[x x^T] the mean squared change of its outputs, when W
becomes V, is the sum over outputs of (w - v) H (w - v)^T: the data only enter through H.
"""

from __future__ import annotations

import numpy as np

from ...ir.model import Model
from ..base import Context, Report
from ..layers.moments import damped, moments
from ..layers.stored import Layer, readable

DAMP = 0.01
"""What is added to the diagonal of a moment, as a share of its mean."""


def refit(w: np.ndarray, keep: np.ndarray, h: np.ndarray, start: np.ndarray, rounds: int = 100) -> np.ndarray:
    """The weights that change the outputs least: min (w - v) H (w - v)^T over v that is zero off the mask `keep`.

    w, keep, start: [groups, outputs, columns]; h: [groups, columns, columns], positive definite. Conjugate gradients
    with the diagonal as preconditioner, on all outputs at once: a step is one matrix product, and never makes the error
    larger. The exact solution is a linear system for each output; this is what it converges to.
    """
    v = np.where(keep, start, 0.0)
    scale = 1 / np.einsum("gii->gi", h)[:, None, :]
    r = np.where(keep, (w - v) @ h, 0.0)
    z = r * scale
    d = z
    power = (r * z).sum(2, keepdims=True)
    goal = 1e-12 * power
    for _ in range(rounds):
        if (power <= goal).all():
            break
        q = np.where(keep, d @ h, 0.0)
        curve = (d * q).sum(2, keepdims=True)
        step = np.divide(power, curve, out=np.zeros_like(power), where=curve > 0)
        v = v + step * d
        r = r - step * q
        z = r * scale
        new = (r * z).sum(2, keepdims=True)
        d = z + np.divide(new, power, out=np.zeros_like(new), where=power > 0) * d
        power = new
    return v


def adapted(model: Model, ctx: Context, chosen: list[tuple[Layer, np.ndarray]], report: Report) -> list[np.ndarray]:
    """For each (layer, mask of what goes) its weights in the common view, those that stay adapted to what goes.

    The masks broadcast to the common view. Layers whose inputs are not read keep their numbers, and a note says so.
    """
    refused = Report()
    able = {id(layer) for layer in readable([layer for layer, _ in chosen], refused)}
    for r in refused.refusals:
        report.note(f"{r.node} is not adapted: {r.reason}")
    views = {id(layer): np.where(gone, 0, layer.view()) for layer, gone in chosen}
    todo = [(layer, ~np.broadcast_to(gone, layer.view().shape)) for layer, gone in chosen if id(layer) in able]
    found = moments(model, ctx.verified.analysis, [layer.linears() for layer, _ in todo], ctx)
    for (layer, keep), moment in zip(todo, found, strict=True):
        w = layer.matrix()
        new = refit(w, keep.reshape(w.shape), damped(moment.second(), DAMP), w)
        views[id(layer)] = new.reshape(layer.view().shape)
    return [views[id(layer)] for layer, _ in chosen]


def error(w: np.ndarray, v: np.ndarray, h: np.ndarray) -> float:
    """The mean squared change of the outputs over their mean square: 0 for v = w, 1 for v = 0."""
    change, whole = w - v, float(((w @ h) * w).sum())
    return float(((change @ h) * change).sum()) / whole if whole > 0 else 0.0
