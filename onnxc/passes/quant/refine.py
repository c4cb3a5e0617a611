"""Weights and biases of products rounded anew with a look at data: second moments of what each product reads.

`local` reads the float model alone and takes each product by itself: x' is x through its own quantiser. `sequential`
goes through the products in graph order and reads x' from the model as quantised so far, so that each product makes up
for what those ahead of it did (as far as a linear map can).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from ..layers.capture import Probe, Stream, Trail, pick
from ..layers.covariance import MAX_COLUMNS, in_parts, per_sample
from ..layers.linear import Linear
from . import rounding

ROWS_PER_COLUMN = 4
"""Rows that weights are fitted to must be so many for each of a row's entries (a pooled layer has one from each sample)."""
SAMPLES = 512
"""Calibration samples that are looked at, at most."""


@dataclass
class Moments:
    """Sums over rows: hat = x'^T x', cross = x^T x', float64 [g, k, k]; means of x and x' [g, k]; how many rows."""

    hat: np.ndarray
    cross: np.ndarray
    mean: np.ndarray
    mean_hat: np.ndarray
    count: int = 0

    @staticmethod
    def empty(g: int, k: int) -> Moments:
        return Moments(np.zeros((g, k, k)), np.zeros((g, k, k)), np.zeros((g, k)), np.zeros((g, k)))

    def add(self, x: np.ndarray, x_hat: np.ndarray) -> None:
        """Rows [g, r, k], float32."""
        turned = x_hat.transpose(0, 2, 1)
        self.hat += turned @ x_hat
        self.cross += x.transpose(0, 2, 1) @ x_hat
        self.mean += x.sum(1, dtype=np.float64)
        self.mean_hat += x_hat.sum(1, dtype=np.float64)
        self.count += x.shape[1]

    def centred(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Covariances (H, C) and means (of x, of x'): a free bias takes care of the means."""
        n = max(self.count, 1)
        a, b = self.mean / n, self.mean_hat / n
        return self.hat / n - b[:, :, None] * b[:, None, :], self.cross / n - a[:, :, None] * b[:, None, :], a, b

    def plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Second moments about zero, and no means: for products without a bias."""
        n = max(self.count, 1)
        return self.hat / n, self.cross / n, np.zeros_like(self.mean), np.zeros_like(self.mean)


def refusal(layer: Linear | None) -> str | None:
    """Why a product's weights are rounded one by one after all, or None."""
    if layer is None:
        return "it is no plain product"
    if layer.columns > MAX_COLUMNS:
        return f"each output has {layer.columns} inputs, and second moments are kept for at most {MAX_COLUMNS}"
    return None


Quantise = Callable[[np.ndarray], np.ndarray]


def local(
    model: Model, analysis: Analysis, layers: list[tuple[Linear, Quantise]], ctx: Context
) -> Iterator[tuple[Linear, Moments]]:
    """Moments of each layer of the float model, its quantised input made by the function beside it."""
    for part in in_parts(layers, lambda one: 16 * one[0].groups * one[0].columns ** 2):
        names = [name for layer, _ in part for name in (layer.node.inputs[0].name, layer.node.outputs[0].name)]
        probe = Probe(ctx, model, names)
        found = [Moments.empty(layer.groups, layer.columns) for layer, _ in part]
        for j, feeds in enumerate(Stream(ctx, analysis, names, SAMPLES)):
            got = probe(feeds)
            for k, (layer, quantise) in enumerate(part):
                x = _rows(layer, got[layer.node.inputs[0].name], got[layer.node.outputs[0].name], ctx, (k, j))
                found[k].add(x, quantise(x))
        yield from zip((layer for layer, _ in part), found, strict=True)


class InTurn:
    """Moments of layers in graph order, while those ahead are quantised: x from the float model, x' from `done`."""

    def __init__(self, model: Model, done: Model, analysis: Analysis, layers: list[Linear], ctx: Context):
        self.model, self.done, self.ctx = model, done, ctx
        self.left = list(layers)
        stream = Stream.of_steps(ctx, analysis, map(_names, layers), SAMPLES)
        self.real, self.quantised = Trail(ctx, stream), Trail(ctx, stream)

    def next(self) -> Moments:
        """The moments of the layer whose turn it is."""
        layer = self.left.pop(0)
        x, y = names = _names(layer)
        sources = {n.name: n.inputs[0].name for n in self.done.nodes if n.inputs}
        source = sources[layer.node.name]
        reals = self.real.look(self.model, names, [name for at in self.left for name in _names(at)])
        hats = self.quantised.look(self.done, [source], [sources[at.node.name] for at in self.left])
        found = Moments.empty(layer.groups, layer.columns)
        for j, (got, got_hat) in enumerate(zip(reals, hats, strict=True)):
            found.add(*(_rows(layer, rows, got[y], self.ctx, (0, j)) for rows in (got[x], got_hat[source])))
        return found


def _names(layer: Linear) -> list[str]:
    return [layer.node.inputs[0].name, layer.node.outputs[0].name]


def _rows(layer: Linear, x: np.ndarray, y: np.ndarray, ctx: Context, salt: tuple[int, int]) -> np.ndarray:
    out = layer.positions(y)
    picked = pick(
        np.random.default_rng((ctx.seed, *salt)), int(np.prod(out, dtype=int)), per_sample(ctx, layer.columns, SAMPLES)
    )
    return layer.rows(x, out, picked)


def solve(
    w: np.ndarray,
    bias: np.ndarray | None,
    moments: Moments,
    scales: Callable[[np.ndarray, np.ndarray], np.ndarray],
    top: int,
    how: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(stored integers [g, o, k], scale [g, o, 1], bias [g·o]) of a layer with weights w [g, o, k].

    scales: from the real weights and the diagonal of H to the scale of each output. bias: [g·o], or None where the
    layer can have none: then means cannot be corrected, and count as part of the second moments. how: nearest (the bias
    alone is corrected), gptq, or adaptive (gptq, then coordinate descent); with few rows it is nearest.
    """
    if moments.count < ROWS_PER_COLUMN * w.shape[2]:
        how = "nearest"  # so few rows fit themselves, not the layer
    h, c, mean, mean_hat = moments.centred() if bias is not None else moments.plain()
    u = w if how == "nearest" else rounding.target(w, h, c)
    h = rounding.damped(h)
    scale = scales(u, np.einsum("gii->gi", h))
    stored = rounding.nearest(u, scale, top) if how == "nearest" else rounding.gptq(u, h, scale, top)
    if how == "adaptive":
        stored = rounding.descend(stored, u, h, scale, top)
    if bias is not None:
        shift = np.einsum("gok,gk->go", w, mean) - np.einsum("gok,gk->go", stored * scale, mean_hat)
        bias = bias + shift.reshape(-1)
    return stored, scale, bias
