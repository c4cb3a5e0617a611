"""train.distill: train a changed model to give what the model as given gives. Needs no labels."""

from __future__ import annotations

from typing import Annotated

from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Taught
from .objective import Objective
from .weights import kept_zeros


@register("train.distill")
class Distill(Taught):
    """Distil the model as the user gave it into the model as it stands in the list (Hinton 2015).

    Classes are compared as softened, other outputs by squares relative to their variance. What is zero stays zero,
    shared weights stay shared, stored integers stay integers.

    temperature: by which classes are softened. features: weight of the maps of attention of tensors that both models
    name alike (Zagoruyko 2017). steps: the scales of quantisers are learnt too (Esser 2020).
    """

    reaches = True
    temperature: Annotated[float, Range(above=0)] = 2.0
    features: Annotated[float, Range(0)] = 1.0
    steps: bool = False

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        teacher = self.taught(model, ctx, self.temperature, self.features)
        return Objective(teacher=teacher, forms=kept_zeros(model), steps=self.steps)
