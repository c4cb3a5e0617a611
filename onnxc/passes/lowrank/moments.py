"""What a layer is fitted to: the metric of its inputs, and the weights whose outputs are nearest to the original's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.model import Model
from ..layers.linear import Linear, bias_home, linear
from ..layers.moments import MAX_COLUMNS, Moments
from .target import Target

DAMP, FEW = 1e-3, 0.02
"""Ridge, as a share of the mean of the moment's diagonal: the target leans on the original weight by so much; FEW where rows
are no more than columns, less in proportion where they are."""


@dataclass
class Fit:
    """h [g, k, k]: covariance of the inputs, means taken off where there is a bias to hold them. w [g, o, k]: the
    regression of the wanted outputs. x [g, k], y [g, o]: means."""

    h: np.ndarray
    w: np.ndarray
    x: np.ndarray
    y: np.ndarray
    centred: bool


def readable(model: Model, at: Target) -> Linear | str:
    """The layer as rows times a matrix, or why its inputs are not read."""
    if len(at.nodes) > 1:
        return "its weight is shared by several nodes"
    layer = linear(model, at.node)
    if layer is None:
        return f"inputs of this kind of {at.node.op} are not read"
    if layer.columns > MAX_COLUMNS:
        return f"each output has {layer.columns} inputs, and second moments are kept for at most {MAX_COLUMNS}"
    return layer


def fitted(model: Model, layer: Linear, seen: Moments, crossed: bool = False) -> Fit:
    """What the layer is fitted to, given the moments of its inputs; crossed: beside its wanted outputs, else these are
    what its weight makes."""
    centred = bias_home(model, layer.node) is not None
    h, c, _, _ = seen.around(centred=centred)
    w = layer.matrix()
    level = np.einsum("gii->gi", h).mean(1)
    damp = max(DAMP, FEW * min(1.0, layer.columns / max(seen.count, 1)))
    ridge = np.where(level > 0, damp * level, 1.0)[:, None, None] * np.eye(h.shape[1])
    h = h + ridge
    if not crossed:
        return Fit(h, w, seen.mean, np.einsum("gok,gk->go", w, seen.mean), centred)
    target = np.linalg.solve(h, (c + w @ ridge).transpose(0, 2, 1)).transpose(0, 2, 1)
    return Fit(h, target, seen.mean, seen.target, centred)
