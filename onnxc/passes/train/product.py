"""train.product: sub-vectors that runs of weights share, trained (product quantisation: Gong 2014, Wu 2016)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.product import QuantProduct
from .common import Learnt, Maker
from .objective import Objective
from .weights import kept_zeros


@register("train.product")
class Product(Learnt):
    """Let runs of weights share few sub-vectors as `quant.product` does, and train the sub-vectors by summed gradients.

    Which runs share a sub-vector stays. Learns from labels where the data have them, else from the model as given.

    subvectors: inputs in a sub-vector, at most. centroids: of a codebook, at most. codebook: one for each part of the inputs,
    or for the whole layer. skip: patterns of layer names to leave alone.
    """

    subvectors: Annotated[int, Range(2, 64)] = 4
    centroids: Annotated[int, Range(2, 256)] = 64
    codebook: Literal["part", "layer"] = "part"
    skip: list[str] = field(default_factory=list)

    def before(self) -> list[Pass]:
        given: Maker = QuantProduct
        return [given(subvectors=self.subvectors, centroids=self.centroids, codebook=self.codebook, skip=self.skip)]

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        return Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model))
