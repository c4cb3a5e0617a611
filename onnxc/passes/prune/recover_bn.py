"""Statistics anew: batch normalisations get the means and variances that the pruned model has now.

    BatchNormalization(mean, var)              ->  BatchNormalization(E[x'], Var[x'])
    Conv, Gemm, MatMul without one behind it   ->  scaled and shifted by channel, so that mean and variance of its output
                                                   are what the original's were

Layers are taken in graph order, each on what the layers before it, already put right, give now (Li et al., Adaptive
Batch Normalization, 2016; no labels).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import analyse
from ...ir.model import Model
from ..base import Report
from .capture import Probe, Stream
from .linear import Linear, add_to_bias, bias_home, linear
from .recover import Past

MIN_VALUES = 256
"""A channel's statistics are taken anew from at least so many values; a layer behind a global pool has one a sample."""
MAX_GAIN = 10.0
"""No channel is scaled by more, up or down: what hardly varies says nothing of scale."""


def renormalise(model: Model, past: Past, report: Report) -> None:
    """Re-estimate every batch normalisation of `model` whose input has changed, and level the other layers' outputs."""
    altered = past.altered(model)
    before = _layers_statistics(model, past, altered)
    for node in list(model.nodes):
        x = node.inputs[0] if node.inputs else None
        if model.is_standard(node, "BatchNormalization") and x.name in altered:
            if all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
                mean, var, n = _statistics(model, past, x.name, 1)
                if n < MIN_VALUES:
                    report.note(f"{node.name} keeps its statistics: {n} values a channel are too few")
                    continue
                model.set_weight(node, 3, mean.astype(node.inputs[3].values.dtype))
                model.set_weight(node, 4, var.astype(node.inputs[4].values.dtype))
        elif node.name in before:
            layer = linear(model, node)
            mean, var, n = _statistics(model, past, node.outputs[0].name, layer.channel_axis)
            if n < MIN_VALUES:
                report.note(f"{node.name} is not levelled: {n} values a channel are too few")
                continue
            _level(model, layer, *before[node.name], mean, var)


def _layers_statistics(model: Model, past: Past, altered: set[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance in the original, by channel that is left, of each layer's output that no normalisation reads."""
    layers: dict[str, Linear] = {}
    for node in model.nodes:
        layer = linear(model, node) if node.outputs[0].name in altered else None
        normal = any(model.is_standard(r, "BatchNormalization") for r in node.outputs[0].outputs)
        if layer is not None and not normal and bias_home(model, node) is not None:
            layers[node.outputs[0].name] = layer
    if not layers:
        return {}
    found = {}
    statistics = _many(past.original, past, {t: layer.channel_axis for t, layer in layers.items()})
    for t, layer in layers.items():
        kept = past.kept(t, layer.channel_axis)
        mean, var, _ = statistics[t]
        found[layer.node.name] = mean[kept], var[kept]
    return found


def _level(model: Model, layer: Linear, mean0: np.ndarray, var0: np.ndarray, mean: np.ndarray, var: np.ndarray) -> None:
    gain = np.sqrt(var0 / np.maximum(var, 1e-12 * np.maximum(var0, 1e-30)))
    gain = np.where((gain < MAX_GAIN) & (gain > 1 / MAX_GAIN), gain, 1.0)
    home, i = bias_home(model, layer.node)
    stored = (
        home.inputs[i].values.astype(np.float64).reshape(-1) if i < len(home.inputs) and home.inputs[i].name else 0.0
    )
    inside = stored if home is layer.node else 0.0  # the share of the bias that stands in the output that was measured
    new = layer.matrix() * gain.reshape(layer.groups, -1, 1)
    model.set_weight(layer.node, 1, layer.as_weight(new))
    add_to_bias(model, layer.node, mean0 - mean * gain + inside * (gain - 1))


def _statistics(model: Model, past: Past, tensor: str, channel: int) -> tuple[np.ndarray, np.ndarray, int]:
    return _many(model, past, {tensor: channel})[tensor]


def _many(model: Model, past: Past, tensors: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Mean, variance, float64 by channel of each tensor (name -> channel axis), and how many values they are taken over."""
    probe = Probe(past.ctx, model, list(tensors))
    sums = {t: [0.0, 0.0, 0] for t in tensors}
    for feeds in Stream(
        past.ctx, analyse(model) if model is not past.original else past.analysis, list(tensors), past.samples
    ):
        for t, x in probe(feeds).items():
            d = tensors[t] % x.ndim
            rest = tuple(k for k in range(x.ndim) if k != d)
            s = sums[t]
            s[0] = s[0] + x.sum(rest, dtype=np.float64)
            s[1] = s[1] + np.square(x, dtype=np.float64).sum(rest)
            s[2] += x.size // x.shape[d]
    found = {}
    for t, (first, second, n) in sums.items():
        mean = np.asarray(first) / n
        found[t] = mean, np.maximum(np.asarray(second) / n - mean**2, 0.0), n
    return found
