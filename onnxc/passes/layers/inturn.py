"""A walk over two models side by side: layers in graph order, each looked at while those ahead of it have been changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context
from .capture import ActivationCache, Stream
from .linear import Linear
from .moments import SAMPLES, Moments, picked


class InTurn:
    """Moments of what layers read in `work`, as it stands at each turn, beside what they read, or make, in `real`.

    layers: of `real`, in the order of their turns; nodes of the same names stand in `work`. The caller changes a layer
    of `work` before it asks for the next one.
    """

    def __init__(
        self,
        real: Model,
        work: Model,
        analysis: Analysis,
        layers: Sequence[Linear],
        ctx: Context,
        samples: int = SAMPLES,
        targets: Literal["inputs", "outputs"] = "outputs",
    ):
        self.real, self.work, self.ctx, self.samples, self.targets = real, work, ctx, samples, targets
        self.left = list(layers)
        stream = Stream.of_steps(ctx, analysis, ([x.reads, x.makes] for x in layers), samples)
        self.reals, self.works = ActivationCache(ctx, stream), ActivationCache(ctx, stream)

    def next(self) -> Moments:
        """The moments of the layer whose turn it is."""
        layer = self.left.pop(0)
        outputs = self.targets == "outputs"
        sources = {n.name: n.inputs[1 - layer.i].name for n in self.work.nodes if len(n.inputs) > 1}
        source = sources[layer.node.name]
        name = layer.makes if outputs else layer.reads
        reals = self.reals.look(self.real, [name], [x.makes if outputs else x.reads for x in self.left])
        works = self.works.look(self.work, [source], [sources[x.node.name] for x in self.left])
        size = layer.outputs // layer.groups if outputs else layer.columns
        found = Moments(layer.groups, layer.columns, size)
        for j, (real, work) in enumerate(zip(reals, works, strict=True)):
            out = layer.extents(work[source])
            at = picked(self.ctx, layer, out, self.samples, (0, j))
            rows = layer.rows(work[source], out, at)
            if outputs:
                y = layer.pick(real[name], at)
                goal = y.reshape(len(y), layer.groups, -1).transpose(1, 0, 2)
            else:
                goal = layer.rows(real[name], out, at)
            found.add(rows, goal)
        return found
