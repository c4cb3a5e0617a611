"""Second moments of what layers read, X'X / R with a last column of ones, summed over calibration batches in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from .capture import Probe, Stream, pick
from .linear import Linear

MAX_COLUMNS = 4608
"""Wider layers are not looked at: their moments would hold more than 170 MB."""
PART_BYTES = 256 * 2**20
MIN_ROWS = 16384
ROWS_PER_COLUMN = 12


def rows_wanted(layer: Linear) -> int:
    """How many rows a layer's statistics are taken over: many times its unknowns."""
    return max(MIN_ROWS, ROWS_PER_COLUMN * layer.columns)


def per_sample(ctx: Context, layer: Linear, samples: int) -> int:
    """How many positions of each sample that takes."""
    known = getattr(ctx.data, "samples", None) or samples
    return -(-rows_wanted(layer) // min(known, samples))


def with_ones(rows: np.ndarray) -> np.ndarray:
    """Rows [g, R, K] as float64 [g, R, K + 1] with a last column of ones."""
    g, r, k = rows.shape
    x = np.empty((g, r, k + 1))
    x[:, :, :k] = rows
    x[:, :, k] = 1
    return x


def covariances(
    model: Model, analysis: Analysis, layers: list[Linear], ctx: Context, samples: int
) -> Iterator[tuple[Linear, np.ndarray]]:
    """(layer, X'X / R), float64 [g, K + 1, K + 1], layer by layer; as many at a time as PART_BYTES holds."""
    layers = list(layers)
    while layers:
        part, held = [], 0
        while layers and (not part or held < PART_BYTES):
            part.append(layers.pop(0))
            held += 8 * part[-1].groups * (part[-1].columns + 1) ** 2
        yield from _part(model, analysis, part, ctx, samples)


def _part(model: Model, analysis: Analysis, layers: list[Linear], ctx: Context, samples: int):
    names = [x.node.inputs[0].name for x in layers] + [x.node.outputs[0].name for x in layers]
    stream = Stream(ctx, analysis, names, samples)
    probe = Probe(ctx, model, names)
    sums = [np.zeros((x.groups, x.columns + 1, x.columns + 1)) for x in layers]
    for j, feeds in enumerate(stream):
        got = probe(feeds)
        for k, layer in enumerate(layers):
            out = layer.positions(got[layer.node.outputs[0].name])
            rng = np.random.default_rng((ctx.seed, k, j))
            picked = pick(rng, int(np.prod(out, dtype=int)), per_sample(ctx, layer, samples))
            x = with_ones(layer.rows(got[layer.node.inputs[0].name], out, picked))
            sums[k] += x.transpose(0, 2, 1) @ x
    for layer, total in zip(layers, sums):
        yield layer, total / total[:, -1:, -1:]
