"""Weights and biases of products rounded anew with a look at data: second moments of what each product reads.

Targets are what a product reads in the float model, x; rows what it reads once quantised, x'. Taken by itself, x' is x
through the product's own quantiser; in graph order, it is read from the model as quantised so far, so that each product
makes up for what those ahead of it did (as far as a linear map can).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..layers.linear import Linear
from ..layers.moments import MAX_COLUMNS, Moments, damped
from . import rounding

ENOUGH = 4
"""Rows that weights are fitted to must be so many for each of a row's entries (a pooled layer has one from each sample)."""


def refusal(layer: Linear | None) -> str | None:
    """Why a product's weights are rounded one by one after all, or None."""
    if layer is None:
        return "it is no plain product"
    if layer.columns > MAX_COLUMNS:
        return f"each output has {layer.columns} inputs, and second moments are kept for at most {MAX_COLUMNS}"
    return None


def solve(
    w: np.ndarray,
    bias: np.ndarray | None,
    moments: Moments,
    scales: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    top: int,
    how: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(stored integers [g, o, k], scale [g, o, 1], bias [g·o]) of a layer with weights w [g, o, k].

    scales: from the real weights, the target and H to the scale of each output. bias: [g·o], or None where the
    layer can have none: then means cannot be corrected, and count as part of the second moments. how: nearest (the bias
    alone is corrected), seqmse (nearest, on scales searched for the least error of the outputs), gptq, adaptive (gptq, then
    coordinate descent), or adaround; with few rows it is nearest.
    """
    if moments.count < ENOUGH * w.shape[2]:
        how = "nearest"  # so few rows fit themselves, not the layer
    h, c, mean_hat, mean = moments.around(centred=bias is not None)
    goal = w if how == "nearest" else rounding.target(w, h, c)
    u = goal if how in ("gptq", "adaptive") else w
    h = damped(h, rounding.DAMP)
    scale = scales(u, goal, h)
    if how in ("nearest", "seqmse"):
        stored = rounding.nearest(u, scale, top)
    elif how == "adaround":
        stored = rounding.adaround(w, goal, h, scale, top)
    else:
        stored = rounding.gptq(u, h, scale, top)
    if how == "adaptive":
        stored = rounding.descend(stored, u, h, scale, top)
    if bias is not None:
        shift = np.einsum("gok,gk->go", w, mean) - np.einsum("gok,gk->go", stored * scale, mean_hat)
        bias = bias + shift.reshape(-1)
    return stored, scale, bias
