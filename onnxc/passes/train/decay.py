"""train.decay: biased weight decay: small weights shrink faster than large ones (Hanson and Pratt 1989)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .objective import Objective, Penalty
from .weights import kept_zeros, products


@register("train.decay")
class Decay(Learnt):
    """Train with the penalty sum u / (1 + u), u = |w| / scale (Hanson and Pratt 1989, eq. 8), or with w^2 / 2.

    strength: by how many scales a weight near zero shrinks over the training that the loss does not hold. kind: hanson
    (its slope is largest at 0: small weights go, large ones stay) or plain. scale: in standard deviations of the layer.
    skip: patterns of layer names to leave alone.
    """

    always = True
    strength: Annotated[float, Range(above=0)] = 0.3
    kind: Literal["hanson", "plain"] = "hanson"
    scale: Annotated[float, Range(above=0)] = 1.0
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        kind: Literal["hanson", "decay"] = "hanson" if self.kind == "hanson" else "decay"
        penalties = tuple(
            Penalty(kind, w.name, self.strength, scale=self.scale) for _, w, _ in products(model, self.skip)
        )
        return Objective(**self.learnt_from(model, ctx), penalties=penalties, forms=kept_zeros(model))
