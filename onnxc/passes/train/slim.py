"""train.slim: network slimming: an l1 penalty on batch-norm scales, so that whole channels fade (Liu 2017)."""

from __future__ import annotations

from typing import Annotated

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .objective import Objective, Penalty
from .weights import kept_zeros, scales


@register("train.slim")
class Slim(Learnt):
    """Train with an l1 penalty on the scales of all batch normalisations (Liu 2017, eq. 1), by proximal steps.

    `prune(criterion=bn_scale)` cuts the channels that have faded.

    strength: by how much of the mean scale a scale shrinks over the training that the loss does not hold.
    """

    always = True
    strength: Annotated[float, Range(above=0)] = 1.0

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        found = scales(model)
        if not found:
            raise BadOption(
                "the model has no batch normalisation", pass_name=self.name,
                remedy="take it ahead of fuse, or use train.group_sparse",
            )  # fmt: skip
        penalties = tuple(Penalty("l1", t.name, self.strength) for t in found)
        return Objective(**self.learnt_from(model, ctx), penalties=penalties, forms=kept_zeros(model))
