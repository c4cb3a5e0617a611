"""What a layer reads and what it should put out, as moments: the original's outputs on the factored model's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from ..prune.capture import Probe, Stream, pick
from ..prune.linear import Linear, bias_home, linear
from .target import Target

MIN_ROWS, ROWS_PER_COLUMN = 8192, 6
MAX_COLUMNS = 5000
DAMP, FEW = 1e-3, 0.02
"""Ridge, as a share of the mean of the moment's diagonal: the target leans on the original weight by so much; FEW where rows
are no more than columns, less in proportion where they are."""


@dataclass
class Moments:
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
    if not np.issubdtype(at.node.inputs[1].values.dtype, np.floating):
        return "its weight is not of floating point"
    return layer


def moments(original: Model, model: Model, analysis: Analysis, layers: list[Linear], ctx: Context, samples: int):
    """The moments of each layer, one after the other; its inputs from `model`, its outputs from `original`.

    The layers are nodes of `model`; the same names stand in `original`. Where both are the same model the target is
    the weight itself and only inputs are looked at.
    """
    same = original is model
    inputs = [x.node.inputs[0].name for x in layers]
    outputs = [x.node.outputs[0].name for x in layers]
    stream = Stream(ctx, analysis, [*inputs, *outputs], samples)
    read = Probe(ctx, model, inputs if not same else [*inputs, *outputs])
    wanted = None if same else Probe(ctx, original, outputs)
    sums = [_Sum(x) for x in layers]
    known = getattr(ctx.data, "samples", None) or samples
    for n, feeds in enumerate(stream):
        got = dict(read(feeds))
        got |= wanted(feeds) if wanted else {}
        for k, layer in enumerate(layers):
            y = got[outputs[k]]
            out = layer.positions(y)
            share = -(-max(MIN_ROWS, ROWS_PER_COLUMN * layer.columns) // min(known, samples))
            picked = pick(np.random.default_rng((ctx.seed, k, n)), int(np.prod(out, dtype=int)), share)
            rows = layer.rows(got[inputs[k]], out, picked)
            sums[k].add(rows, None if same else layer.pick(y, picked))
    for layer, s in zip(layers, sums, strict=True):
        yield s.done(layer, bias_home(model, layer.node) is not None)


class _Sum:
    def __init__(self, layer: Linear):
        g, k, o = layer.groups, layer.columns, layer.outputs // layer.groups
        self.xx, self.yx = np.zeros((g, k, k)), np.zeros((g, o, k))
        self.x, self.y = np.zeros((g, k)), np.zeros((g, o))
        self.count, self.crossed = 0, False

    def add(self, rows: np.ndarray, y: np.ndarray | None) -> None:
        rows = rows.astype(np.float32, copy=False)
        self.xx += rows.transpose(0, 2, 1) @ rows  # float32 within a batch, float64 across batches
        self.x += rows.sum(1, dtype=np.float64)
        self.count += rows.shape[1]
        if y is not None:
            self.crossed = True
            y = y.astype(np.float32).reshape(len(y), len(rows), -1).transpose(1, 0, 2)
            self.yx += y.transpose(0, 2, 1) @ rows
            self.y += y.sum(1, dtype=np.float64)

    def done(self, layer: Linear, centred: bool) -> Moments:
        n = max(self.count, 1)
        h, x, y, w = self.xx / n, self.x / n, self.y / n, layer.matrix()
        if centred:
            h = h - x[:, :, None] * x[:, None, :]
        level = np.einsum("gii->gi", h).mean(1)
        damp = max(DAMP, FEW * min(1.0, layer.columns / n))
        ridge = np.where(level > 0, damp * level, 1.0)[:, None, None] * np.eye(h.shape[1])
        h = h + ridge
        if not self.crossed:
            return Moments(h, w, x, np.einsum("gok,gk->go", w, x), centred)
        yx = self.yx / n - (y[:, :, None] * x[:, None, :] if centred else 0)
        target = np.linalg.solve(h, (yx + w @ ridge).transpose(0, 2, 1)).transpose(0, 2, 1)
        return Moments(h, target, x, y, centred)
