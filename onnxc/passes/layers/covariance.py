"""Second moments of what layers read, X'X / R with a last column of ones, summed over calibration batches in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

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


T = TypeVar("T")


def rows_wanted(columns: int) -> int:
    """How many rows the statistics of a layer of so many columns are taken over: many times its unknowns."""
    return max(MIN_ROWS, ROWS_PER_COLUMN * columns)


def per_sample(ctx: Context, columns: int, samples: int) -> int:
    """How many positions of each sample that takes."""
    known = getattr(ctx.data, "samples", None) or samples
    return -(-rows_wanted(columns) // min(known, samples))


def in_parts(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in runs that PART_BYTES hold together, `size` bytes each; a larger one stands alone."""
    part: list[T] = []
    held = 0
    for item in items:
        bytes_ = size(item)
        if part and held + bytes_ > PART_BYTES:
            yield part
            part, held = [], 0
        part.append(item)
        held += bytes_
    if part:
        yield part


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
    for part in in_parts(layers, lambda x: 8 * x.groups * (x.columns + 1) ** 2):
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
            picked = pick(rng, int(np.prod(out, dtype=int)), per_sample(ctx, layer.columns, samples))
            x = with_ones(layer.rows(got[layer.node.inputs[0].name], out, picked))
            sums[k] += x.transpose(0, 2, 1) @ x
    for layer, total in zip(layers, sums):
        yield layer, total / total[:, -1:, -1:]
