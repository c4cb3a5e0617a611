"""train.finetune: train a model on labels as it stands in the list: pruned, factored, shared or quantised."""

from __future__ import annotations

from typing import Annotated

from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Taught
from .objective import Objective
from .weights import kept_zeros


@register("train.finetune")
class Finetune(Taught):
    """Train on labels by cross entropy; what is zero stays zero, shared weights stay shared, stored integers stay integers.

    smooth: label smoothing (Szegedy 2016). distil: learn from the teacher's softened outputs too (Hinton
    2015), as where a teacher is named.
    """

    reaches = True
    smooth: Annotated[float, Range(0, below=1)] = 0.0
    distil: bool = False

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        teacher = self.taught(model, ctx) if self.distil or self.teacher is not None else None
        return Objective(labels=True, smooth=self.smooth, teacher=teacher, forms=kept_zeros(model))
