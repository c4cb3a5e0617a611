"""The second moment of what reads a weight, whatever nodes share it and on whichever side of a product it stands.

`covariance` has the same for single nodes that compute W x + b, with the mean; this serves passes that edit weights.
Columns are channels·positions, as the common view of a weight has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ..base import Context, Report
from .capture import Probe, Stream, pick
from .covariance import MAX_COLUMNS, in_parts, per_sample
from .linear import Linear
from .stored import Layer

SAMPLES = 512
"""Calibration samples that are looked at, at most."""


@dataclass
class Moment:
    """h: the mean of x x^T, shape [groups, columns, columns], float64. count: how many columns x went in."""

    h: np.ndarray
    count: int = 0


def readable(found: list[Layer], report: Report) -> list[Layer]:
    """The layers whose inputs can be read as columns; the others are refused."""
    kept = []
    for layer in found:
        g, _, c, p = layer.view().shape
        if layer.nodes[0].op == "ConvTranspose":
            reason = "inputs of transposed convolutions are not read"
        elif layer.nodes[0].op != "Conv" and g > 1:
            reason = "inputs of batched matrix products are not read"
        elif c * p > MAX_COLUMNS:
            reason = f"each output has {c * p} inputs, and the second moment is kept for at most {MAX_COLUMNS}"
        else:
            kept.append(layer)
            continue
        report.refuse(layer.name, reason)
    return kept


def parts(found: list[Layer]) -> list[list[Layer]]:
    """The layers in runs whose moments fit into memory together."""

    def size(layer: Layer) -> int:
        g, k = extents(layer)
        return 8 * g * k**2

    return list(in_parts(found, size))


def extents(layer: Layer) -> tuple[int, int]:
    """(groups, columns) of a layer's moment."""
    g, _, c, p = layer.view().shape
    return g, c * p


def moments(model: Model, found: list[Layer], ctx: Context) -> list[Moment]:
    """The second moment of every layer's input on the calibration data; nodes that share a weight add up."""
    result = [Moment(np.zeros((g, k, k))) for g, k in map(extents, found)]
    if not found:
        return result
    names = sorted({node.inputs[1 - layer.i].name for layer in found for node in layer.nodes})
    probe = Probe(ctx, model, names)
    for j, feeds in enumerate(Stream(ctx, ctx.verified.analysis, names, SAMPLES)):
        got = probe(feeds)
        for k, (layer, moment) in enumerate(zip(found, result, strict=True)):
            most = per_sample(ctx, moment.h.shape[1], SAMPLES)
            for node in layer.nodes:
                rows = _rows(
                    node, layer, got[node.inputs[1 - layer.i].name], most, np.random.default_rng((ctx.seed, k, j))
                )
                moment.h += rows.transpose(0, 2, 1) @ rows  # float32 within a batch, float64 across batches
                moment.count += rows.shape[1]
    for moment in result:
        moment.h /= max(moment.count, 1)
    return result


def _rows(node: gs.Node, layer: Layer, x: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """What `node` multiplies with its weight, float32 [groups, how many, columns]."""
    x = x.astype(np.float32, copy=False)
    if node.op == "Conv":
        one = Linear(node, layer.shape[0])
        out = one.extents(x)
        return one.rows(x, out, pick(rng, int(np.prod(out)), most))
    turned = bool(node.op == "Gemm" and node.attrs.get("transA" if layer.i else "transB", 0))
    axis = -2 if turned == (layer.i == 1) and x.ndim > 1 else -1
    return np.moveaxis(x, axis, -1).reshape(1, -1, x.shape[axis])
