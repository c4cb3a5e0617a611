"""The predicted time of layers and of what they may become, where ranks are to pay in time and not in MACs alone."""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.model import Model
from ...ir.product import Predict, Product, extents, is_planar, matrix, product_of
from .forms import Form, Rank, taps
from .rank import Choice
from .target import Target


class Timing:
    """Predicts in the unit of `predict`. The time of a model is that of its products."""

    def __init__(self, analysis: Analysis, predict: Predict):
        self.analysis, self.predict = analysis, predict
        self._whole: dict[int, float] = {}

    def model(self, model: Model) -> float:
        """The time of all products."""
        found = (product_of(self.analysis, node) for node in model.nodes)
        return sum(self.predict(p) for p in found if p is not None)

    def whole(self, at: Target) -> float:
        """The time of a layer as it was when first asked for, in all its nodes; of recurrent ones that of the factor that may change."""
        if id(at) in self._whole:
            return self._whole[id(at)]
        groups, o, c, i, j = at.w.shape
        rest = matrix(at.macs // (at.w.size * len(at.nodes)), c * i * j, o, groups)
        found = (product_of(self.analysis, node) if is_planar(node) else rest for node in at.nodes)
        return self._whole.setdefault(id(at), sum(self.predict(p) for p in found if p is not None))

    def choices(self, at: Target, choices: list[Choice]) -> list[Choice]:
        """Those that take less time than the layer, with their times."""
        timed = (replace(c, time=self.factored(at, c.form, c.rank)) for c in choices)
        return [c for c in timed if c.time < self.whole(at)]

    def factored(self, at: Target, form: Form, rank: Rank) -> float:
        """The time of a layer in this form at this rank."""
        total = 0.0
        for node in at.nodes:
            for groups, o, c, place in form.shapes(at.w.shape, rank):
                total += self.predict(self._stage(at, node, groups, o, c, place))
        return total

    def _stage(self, at: Target, node: gs.Node, groups: int, o: int, c: int, place: str) -> Product:
        if not is_planar(node):
            rows = at.spots[place] // len(at.nodes)
            return matrix(rows, c * taps(at.w.shape, place), o, groups)
        whole = product_of(self.analysis, node)
        assert whole is not None
        before = extents(self.analysis, node.inputs[0].name)[2:]
        covered = {"k": (True, True), "k0": (True, False), "k1": (False, True)}.get(place, (False, False))
        after = place in ("k", "k1", "post")
        out = [whole.out[a] if after or covered[a] else before[a] for a in (0, 1)]

        def along(value: tuple[int, int]) -> tuple[int, int]:
            return value[0] if covered[0] else 1, value[1] if covered[1] else 1

        kernel, stride, dilation = along(whole.kernel), along(whole.stride), along(whole.dilation)
        return Product(whole.images, (out[0], out[1]), c * groups, o * groups, kernel, stride, dilation, groups)
