"""Statistics anew: batch normalisations get the means and variances that the pruned model has now.

    BatchNormalization(mean, var)              ->  BatchNormalization(E[x'], Var[x'])
    Conv, Gemm, MatMul without one behind it   ->  scaled and shifted by channel, so that mean and variance of its output
                                                   are what the original's were

Layers are taken in graph order, each on what the layers before it, already put right, give now (Li et al., Adaptive
Batch Normalization, 2016; no labels).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import analyse
from ...ir.model import Model
from ..base import Report
from ..layers.capture import ActivationCache, Probe, Stream
from ..layers.channels import spreads
from ..layers.linear import Linear, add_to_bias, bias_home, linear
from .uncut import Uncut

MIN_VALUES = 256
"""A channel's statistics are taken anew from at least so many values; a layer behind a global pool has one a sample."""
MAX_GAIN = 10.0
"""No channel is scaled by more, up or down: what hardly varies says nothing of scale."""


@dataclass
class Turn:
    """A node to see to: the statistics of `tensor`, whose channels are axis `channel`, are asked for."""

    node: gs.Node
    tensor: str
    channel: int
    layer: Linear | None = None

    @property
    def reads(self) -> list[str]:
        """A layer's output changes with the layer: what comes later starts from its input."""
        return [self.tensor] if self.layer is None else [self.node.inputs[0].name, self.tensor]


def renormalise(model: Model, uncut: Uncut, report: Report, apart: bool = False) -> None:
    """Re-estimate every batch normalisation of `model` whose input has changed, and level the other layers' outputs.

    apart: layers too whose weights others read, which are then stored for each.
    """
    altered = uncut.altered(model)
    before = _layers_statistics(model, uncut, altered, apart)
    turns = _turns(model, altered, before)
    stream = Stream.of_steps(uncut.ctx, analyse(model), ([t.tensor] for t in turns), uncut.samples)
    cache = ActivationCache(uncut.ctx, stream)
    for k, turn in enumerate(turns):
        later = [name for t in turns[k + 1 :] for name in t.reads]
        changing = [turn.tensor] if turn.layer else []
        batches = cache.look(model, turn.reads, later, changing)
        mean, var, n = spreads(batches, {turn.tensor: turn.channel})[turn.tensor]
        node = turn.node
        if n < MIN_VALUES:
            left = "is not levelled" if turn.layer else "keeps its statistics"
            report.note(f"{node.name} {left}: {n} values a channel are too few")
        elif turn.layer:
            _level(model, turn.layer, *before[node.name], mean, var)
        else:
            model.set_weight(node, 3, mean.astype(node.inputs[3].values.dtype))
            model.set_weight(node, 4, var.astype(node.inputs[4].values.dtype))


def _turns(model: Model, altered: Container[str], layers: Container[str]) -> list[Turn]:
    turns = []
    for node in model.nodes:
        if not node.inputs:
            continue
        x = node.inputs[0]
        if model.is_standard(node, "BatchNormalization") and x.name in altered:
            if all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
                turns.append(Turn(node, x.name, 1))
        elif node.name in layers:
            layer = linear(model, node)
            if layer is not None:
                turns.append(Turn(node, node.outputs[0].name, layer.channel_axis, layer))
    return turns


def _layers_statistics(
    model: Model, uncut: Uncut, altered: set[str], apart: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance in the original, by channel that is left, of each layer's output that no normalisation reads."""
    layers: dict[str, Linear] = {}
    for node in model.nodes:
        layer = linear(model, node) if node.outputs[0].name in altered else None
        normal = any(model.is_standard(r, "BatchNormalization") for r in node.outputs[0].outputs)
        if layer is not None and layer.is_shared and not apart:
            continue
        if layer is not None and not normal and bias_home(model, node) is not None:
            layers[node.outputs[0].name] = layer
    if not layers:
        return {}
    found = {}
    probe = Probe(uncut.ctx, uncut.original, list(layers))
    stream = Stream(uncut.ctx, uncut.analysis, list(layers), uncut.samples)
    statistics = spreads(map(probe, stream), {t: layer.channel_axis for t, layer in layers.items()})
    for t, layer in layers.items():
        kept = uncut.kept(t, layer.channel_axis)
        mean, var, _ = statistics[t]
        found[layer.node.name] = mean[kept], var[kept]
    return found


def _level(model: Model, layer: Linear, mean0: np.ndarray, var0: np.ndarray, mean: np.ndarray, var: np.ndarray) -> None:
    gain = np.sqrt(var0 / np.maximum(var, 1e-12 * np.maximum(var0, 1e-30)))
    gain = np.where((gain < MAX_GAIN) & (gain > 1 / MAX_GAIN), gain, 1.0)
    place = bias_home(model, layer.node)
    assert place is not None  # `_layers_statistics` takes no others
    home, i = place
    stored = (
        home.inputs[i].values.astype(np.float64).reshape(-1) if i < len(home.inputs) and home.inputs[i].name else 0.0
    )
    inside = stored if home is layer.node else 0.0  # the share of the bias that stands in the output that was measured
    new = layer.matrix() * gain.reshape(layer.groups, -1, 1)
    model.set_weight(layer.node, 1, layer.as_weight(new))
    add_to_bias(model, layer.node, mean0 - mean * gain + inside * (gain - 1))
