"""Bias hand-over: what a removed channel gave its readers on average goes into their biases.

    y = sum over kept c of W_c x_c + sum over removed c of W_c x_c
      ~ sum over kept c of W_c x_c + sum over removed c of W_c E[x_c]

Exact where the removed channels are constants (a batch normalisation with scale 0), away from padding: at the rim of an
image a padded convolution sees fewer of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...ir.analysis import Analysis
from ...ir.axes import Atom, mask, touched
from ...ir.model import Model
from ..base import Context, Report
from ..layers.capture import Probe, Stream
from ..layers.channels import spreads
from ..layers.linear import Linear, bias_home, linear
from .coupling import blocks

Shifts = list[tuple[str, np.ndarray]]


def bias_shifts(
    model: Model, analysis: Analysis, keep: Mapping[Atom, np.ndarray], ctx: Context, samples: int, report: Report
) -> Shifts:
    """(node, shift [its kept outputs]) for each layer that is about to lose inputs. `model` is as it was before the cut."""
    readers: list[tuple[Linear, np.ndarray]] = []
    for node in model.nodes:
        for i, d in analysis.facts[node.name].contracted:
            axes = analysis.of(node, i)
            if i != 0 or axes is None or not touched(axes[d], keep) or _follows(analysis, node, keep):
                continue
            layer = linear(model, node)
            if layer is None or bias_home(model, node) is None:
                report.note(
                    f"{node.name} takes over no means: it is no {'biased ' if layer else ''}product with stored weights"
                )
            else:
                readers.append((layer, _gone(layer, analysis, keep)))
    if not readers:
        return []
    names = [layer.reads for layer, _ in readers]
    probe = Probe(ctx, model, names)
    channels = {layer.reads: layer.channel_axis for layer, _ in readers}
    means = {
        name: seen.mean for name, seen in spreads(map(probe, Stream(ctx, analysis, names, samples)), channels).items()
    }
    shifts = []
    for (layer, gone), name in zip(readers, names):
        taps = layer.columns * layer.groups // len(means[name])
        x = np.repeat(means[name], taps).reshape(layer.groups, -1)
        shift = np.einsum("gok,gk->go", layer.matrix(), np.where(gone, x, 0)).reshape(-1)
        out = analysis.known(layer.makes)[layer.channel_axis]
        shifts.append((layer.node.name, shift[mask(out, keep)]))
    return shifts


def _follows(analysis: Analysis, node, keep: Mapping[Atom, np.ndarray]) -> bool:
    """Whether channels go from a node with its inputs: a depthwise convolution sums over none."""
    axes = analysis.uses.get((node.name, 1))
    return node.op == "Conv" and axes is not None and not any(touched(part, keep) for part in blocks(axes[1]))


def _gone(layer: Linear, analysis: Analysis, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    """Which columns of each group are about to go, bool [groups, columns]."""
    axes = analysis.uses[layer.node.name, 1]
    gone = np.stack([~mask(part, keep) for part in blocks(axes[layer.layout.channel_axis])])
    return np.repeat(gone, layer.columns // gone.shape[1], axis=1)
