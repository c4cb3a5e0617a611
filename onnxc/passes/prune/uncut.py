"""The model before any cut, beside the one that is being cut: which channels are left, and what differs by now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom, Axis, extent, mask, touched
from ...ir.model import Model
from ..base import Context
from ..layers.capture import Probe, Stream

ALIKE = 0.5
"""A tensor that lost more than this part of its power to earlier passes is no longer taken for the source's."""
ALIKE_SAMPLES = 16


class Uncut:
    """The model before any cut, and which of its channels are left in each of its tensors.

    ctx: data and runner. samples: how many calibration samples are looked at, at most. source: the model ahead of passes
    that have factored layers of `original`, if any: its tensors are what those of the same names should be.
    """

    def __init__(self, original: Model, analysis: Analysis, ctx: Context, samples: int, source: Model | None = None):
        self.original, self.analysis, self.ctx, self.samples = original, analysis, ctx, samples
        self._nodes = {n.name: n for n in original.nodes}
        self._first = self._nodes if source is None else {n.name: n for n in source.nodes}
        self.source = source
        self._tensors = set(original.tensors())
        self._meant = self._common()
        self._left: dict[tuple[str, int], np.ndarray] = {}

    def _common(self) -> set[str]:
        """The tensors of the source that stand for the same in the original: of its shape, and alike on a few samples."""
        if self.source is None:
            return set()
        before, names = analyse(self.source), self.source.tensors()
        made = [t.name for n in self.original.nodes for t in n.outputs if t.name in names]
        shared = [name for name in made if (shape := before.shape(name)) and shape == self.analysis.shape(name)]
        power, change = dict.fromkeys(shared, 0.0), dict.fromkeys(shared, 0.0)
        was, now = Probe(self.ctx, self.source, shared), Probe(self.ctx, self.original, shared)
        for feeds in Stream(self.ctx, self.analysis, shared, ALIKE_SAMPLES):
            reference, got = was(feeds), now(feeds)
            for name, x in reference.items():
                y = got[name]
                if x.dtype.kind == "f" and x.shape == y.shape:
                    power[name] += float(np.square(x, dtype=np.float64).sum())
                    change[name] += float(np.square(y - x, dtype=np.float64).sum())
        return {name for name in shared if change[name] < ALIKE * power[name]}

    def maker(self, tensor: str) -> Model | None:
        """The model that makes what `tensor` should be; None where neither has it."""
        if tensor in self._meant:
            return self.source
        return self.original if tensor in self._tensors else None

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
        """The tensors of `model` that differ from what they should be, if only in having fewer channels."""
        found: set[str] = set()
        for node in model.nodes:
            old = self._first[node.name].inputs if node.name in self._first else []
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
