"""What calibration data say of a layer's weights: how much each matters, and what its errors do to the outputs.

A layer y = W x + b whose weights change by d changes its outputs by d x. Its mean, d E[x], goes into the bias; what is
left has the mean square d C d^T, C = cov(x). k-means takes the diagonal of C: the error of a weight counts with the
variance of what it is multiplied by (the diagonal Hessian of Choi, El-Khamy, Lee 2017, but for the layer's outputs and
so without labels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context, Report
from ..layers.linear import bias_home, linear
from ..layers.moments import damped, moments
from ..layers.stored import Layer, unread

DAMP = 0.01
"""Added to the diagonal as a share of its mean."""
SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer reads: covariance, float64 [groups, columns, columns], and mean, [groups, columns]. Columns are
    channels·positions, as the common view [groups, outputs, channels, positions] has them."""

    covariance: np.ndarray
    mean: np.ndarray


def readable(model: Model, found: list[Layer], report: Report, done: str = "clustered without data") -> list[Layer]:
    """The layers whose inputs can be read and whose errors' mean a bias can take; the others are noted as `done`."""
    kept = []
    for layer in found:
        reason = unread(layer)
        if len(layer.nodes) > 1:
            reason = f"its weight is read by {len(layer.nodes)} nodes"
        elif linear(model, layer.nodes[0]) is None or bias_home(model, layer.nodes[0]) is None:
            reason = f"inputs of this {layer.nodes[0].op} are not read, or it has no place for a bias"
        if reason is None:
            kept.append(layer)
            continue
        report.note(f"{layer.name} is {done}: {reason}")
    return kept


def inputs(model: Model, analysis: Analysis, able: list[Layer], ctx: Context) -> Iterator[tuple[Layer, Inputs]]:
    """(layer, what it reads) one by one; no more covariances than fit into memory are held."""
    each = moments(model, analysis, [layer.linears() for layer in able], ctx, SAMPLES)
    for layer, seen in zip(able, each, strict=True):
        yield layer, Inputs(damped(seen.covariance(), DAMP), seen.mean)


def importance(layer: Layer, seen: Inputs, together: bool) -> np.ndarray:
    """How much each weight matters, float64 in the common view.

    together: it will share codes with other layers, so it is divided by the variance of the layer's outputs.
    """
    view = layer.view()
    g, o, c, p = view.shape
    rows = np.einsum("gii->gi", seen.covariance)
    if together:
        w = view.reshape(g, o, -1).astype(np.float64)
        rows = rows / max(float(((w @ seen.covariance) * w).sum()), 1e-300)
    return np.ascontiguousarray(np.broadcast_to(rows.reshape(g, 1, c, p), view.shape))
