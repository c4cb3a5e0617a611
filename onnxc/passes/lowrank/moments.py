"""What a layer reads and what it should put out, as moments: the original's outputs on the factored model's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from ..layers.capture import Probe, Stream, Trail, pick
from ..layers.linear import Linear, bias_home, linear
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


def moments(model: Model, analysis: Analysis, layers: list[Linear], ctx: Context, samples: int) -> Iterator[Moments]:
    """The moments of each layer's inputs, one after the other; the target is the weight itself."""
    names = [name for x in layers for name in (_in(x), _out(x))]
    probe = Probe(ctx, model, names)
    batches = (probe(feeds) for feeds in Stream(ctx, analysis, names, samples))
    return _summed(model, layers, batches, ctx, samples, crossed=False)


class InTurn:
    """The moments of layers in graph order, while those ahead are replaced: inputs from `model` as it stands at each turn,
    outputs from `original`. The layers are nodes of `model`; the same names stand in `original`."""

    def __init__(
        self, original: Model, model: Model, analysis: Analysis, layers: list[Linear], ctx: Context, samples: int
    ):
        self.original, self.model, self.ctx, self.samples = original, model, ctx, samples
        self.left = list(layers)
        stream = Stream.of_steps(ctx, analysis, ([_in(x), _out(x)] for x in layers), samples)
        self.inputs, self.outputs = Trail(ctx, stream), Trail(ctx, stream)

    def next(self) -> Moments:
        """The moments of the layer whose turn it is."""
        layer = self.left.pop(0)
        xs = self.inputs.look(self.model, [_in(layer)], [_in(x) for x in self.left])
        ys = self.outputs.look(self.original, [_out(layer)], [_out(x) for x in self.left])
        batches = (x | y for x, y in zip(xs, ys, strict=True))
        (found,) = _summed(self.model, [layer], batches, self.ctx, self.samples, crossed=True)
        return found


def _in(layer: Linear) -> str:
    return layer.node.inputs[0].name


def _out(layer: Linear) -> str:
    return layer.node.outputs[0].name


def _summed(
    model: Model, layers: list[Linear], batches: Iterable[dict], ctx: Context, samples: int, crossed: bool
) -> Iterator[Moments]:
    sums = [_Sum(x) for x in layers]
    known = min(getattr(ctx.data, "samples", None) or samples, samples)
    for n, got in enumerate(batches):
        for k, layer in enumerate(layers):
            y = got[_out(layer)]
            out = layer.positions(y)
            share = -(-max(MIN_ROWS, ROWS_PER_COLUMN * layer.columns) // known)
            picked = pick(np.random.default_rng((ctx.seed, k, n)), int(np.prod(out, dtype=int)), share)
            rows = layer.rows(got[_in(layer)], out, picked)
            sums[k].add(rows, layer.pick(y, picked) if crossed else None)
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
