"""Predicted times of a model's products as functions of the channels that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Atom, Axis
from ...ir.cost import number
from ...ir.model import Model
from ...ir.product import Predict, Product, is_planar, product_of
from .select import count


@dataclass
class Timed:
    """The time of one product. axes: its inputs, those of one group, and its outputs; where these are not known, all that its
    MACs are the product of, with which its time shrinks."""

    product: Product
    predict: Predict
    axes: tuple[Axis, ...]
    known: bool
    whole: int = 1

    def value(self, counts: Mapping[Atom, int]) -> float:
        """The time where each atom keeps `counts[atom]` indices."""
        sizes = [count(a, counts) for a in self.axes]
        if not self.known:
            return self.predict(self.product) * prod(sizes) / self.whole
        c, each, oc = sizes
        return self.predict(replace(self.product, c=c, oc=oc, groups=max(1, c // max(1, each))))


def timed(model: Model, analysis: Analysis, predict: Predict) -> Iterator[Timed]:
    """A term for each node that multiplies."""
    for node in model.nodes:
        product = product_of(analysis, node)
        if product is None:
            continue
        axes = _channels(analysis, node)
        if axes is not None:
            yield Timed(product, predict, axes, True)
        else:
            every = tuple(analysis.facts[node.name].iteration)
            whole = prod(number(a, analysis.sizes) for a in every)
            yield Timed(product, predict, every, False, whole)


def _channels(analysis: Analysis, node: gs.Node) -> tuple[Axis, Axis, Axis] | None:
    """Axes of the inputs, of those of one group, and of the outputs of a convolution or of a product by a constant matrix."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(weight, gs.Constant):
        return None
    axes = analysis.uses[node.name, 1]
    if is_planar(node):
        return analysis.known(node.inputs[0].name)[1], axes[1], axes[0]
    if node.op in ("Gemm", "MatMul") and weight.values.ndim == 2:
        turned = bool(node.attrs.get("transB", 0))
        return axes[turned], axes[turned], axes[1 - turned]
    return None
