"""Recovery without labels: what the layers behind a cut can do so that the outputs stay as they were.

    none    nothing
    bias    the mean of what a removed channel gave its readers goes into their biases          (`recover_bias`)
    bn      batch normalisations are estimated anew; without them, outputs get back their mean and variance (`recover_bn`)
    lstsq   the readers' weights are solved by least squares on calibration activations         (`recover_lstsq`)
    all     one after the other: bias, lstsq, bn

All of it reads activations of the original and of the pruned model on the same samples. Labels are never read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom, extent, mask, touched
from ...ir.model import Model
from ..base import Context, Report

RECOVER = ("none", "bias", "bn", "lstsq", "all")


class Past:
    """The model before any cut, and which of its channels are left in each of its tensors.

    ctx: data and runner. samples: how many calibration samples are looked at, at most.
    """

    def __init__(self, original: Model, analysis: Analysis, ctx: Context, samples: int):
        self.original, self.analysis, self.ctx, self.samples = original, analysis, ctx, samples
        self._nodes = {n.name: n for n in original.nodes}
        self._left: dict[tuple[str, int], np.ndarray] = {}

    def advance(self, analysis: Analysis, keep: Mapping[Atom, np.ndarray]) -> None:
        """The model that `analysis` is of is about to lose what `keep` removes."""
        for name, axes in analysis.axes.items():
            for d, axis in enumerate(axes or ()):
                if touched(axis, keep) and isinstance(extent(axis), int):
                    chosen = np.flatnonzero(mask(axis, keep))
                    before = self._left.get((name, d))
                    self._left[name, d] = chosen if before is None else before[chosen]

    def kept(self, tensor: str, d: int) -> np.ndarray | slice:
        """The indices along axis `d` of the original's `tensor` that are left."""
        return self._left.get((tensor, d % len(self.analysis.axes[tensor])), slice(None))

    def altered(self, model: Model) -> set[str]:
        """The tensors of `model` whose remaining channels differ from the original's: behind a shorter sum."""
        now = analyse(model)
        found: set[str] = set()
        for node in model.nodes:
            shorter = any(
                (axes := now.of(node, i)) is not None
                and extent(axes[d]) != extent(self.analysis.of(self._nodes[node.name], i)[d])
                for i, d in now.facts[node.name].contracted
            ) and not _by_channel(now, node)
            if shorter or any(t.name in found for t in node.inputs):
                found.update(t.name for t in node.outputs)
        return found

    def changed(self, model: Model) -> set[str]:
        """The tensors of `model` that differ from the original's, if only in having fewer channels."""
        found: set[str] = set()
        for node in model.nodes:
            old = self._nodes[node.name].inputs
            cut = len(old) != len(node.inputs) or any(
                isinstance(t, gs.Constant) and t.values is not u.values for t, u in zip(node.inputs, old)
            )
            if cut or any(t.name in found for t in node.inputs):
                found.update(t.name for t in node.outputs)
        return found


def _by_channel(analysis: Analysis, node: gs.Node) -> bool:
    """A depthwise convolution makes each channel from itself: it sums over none."""
    weight = analysis.of(node, 1)
    return node.op == "Conv" and node.attrs.get("group", 1) > 1 and weight is not None and extent(weight[1]) == 1


def recover(model: Model, past: Past, how: str, report: Report) -> None:
    """Repair `model`, which has been cut (its biases already took over means, where `how` says so)."""
    from .recover_bn import renormalise
    from .recover_lstsq import solve_layers

    if how in ("lstsq", "all"):
        solve_layers(model, past, report)
    if how in ("bn", "all"):
        renormalise(model, past, report)
