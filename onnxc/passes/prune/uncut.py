"""The model before any cut, beside the one that is being cut: which channels are left, and what differs by now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom, Axis, extent, mask, touched
from ...ir.model import Model
from ..base import Context


class Uncut:
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
        axes = self.analysis.axes[tensor]
        return slice(None) if axes is None else self._left.get((tensor, d % len(axes)), slice(None))

    def _contracted(self, node: str, i: int) -> tuple[Axis, ...]:
        axes = self.analysis.of(self._nodes[node], i)
        assert axes is not None, "what is contracted has a known rank"
        return axes

    def altered(self, model: Model) -> set[str]:
        """The tensors of `model` whose remaining channels differ from the original's: behind a shorter sum."""
        now = analyse(model)
        found: set[str] = set()
        for node in model.nodes:
            shorter = any(
                (axes := now.of(node, i)) is not None and extent(axes[d]) != extent(self._contracted(node.name, i)[d])
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
