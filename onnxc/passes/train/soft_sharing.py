"""train.soft_sharing: weights gather at the means of a mixture that is learnt with them (Ullrich 2017)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .objective import Form, Objective


@register("train.soft_sharing")
class SoftSharing(Learnt):
    """Train under a prior of Gaussians that is learnt too, one of them at zero, then put each weight at its mean.

    Before -> after: loss + strength / samples * -log p(w), p = sum share_j N(w; mean_j, deviation_j), share_0 = 0.99, mean_0
    = 0 (Ullrich 2017, eq. 3 to 5; Nowlan and Hinton 1992). Weights end at the mean of the component that answers for most of
    them, so that a layer is sparse and shares at most `components` values: `quant.cluster` stores them as such, and
    `onnxc pack` codes them. With strength 1 this is the posterior's mode.

    components: Gaussians of each layer. strength: of the prior. skip: patterns of layer names to leave alone.
    """

    always = True
    components: Annotated[int, Range(2, 256)] = 17
    strength: Annotated[float, Range(above=0)] = 0.1
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        form = Form("mixture", strength=self.strength, components=self.components)
        return Objective(**self.learnt_from(model, ctx), forms=self.formed(model, form, self.skip, ends=False))
