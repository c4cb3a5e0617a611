"""train.prune_retrain: the smallest weights go step by step while the others learn; what was cut may grow back."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import numpy as np

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Train
from .objective import Form, Objective
from .weights import products


@register("train.prune_retrain")
class PruneRetrain(Train):
    """Iterative magnitude pruning (Han 2015) on a cubic schedule (Zhu and Gupta 2017, eq. 1), with weights that return.

    sparsity: share of zeros in each layer at the end; reached half way, the rest of the time the network recovers. Until
    then a weight that is cut goes on learning and returns if it grows (dynamic network surgery, Guo 2016). skip: patterns of
    layer names to leave alone.
    """

    always = True
    sparsity: Annotated[float, Range(above=0, below=1)] = 0.8
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        forms = {
            w.name: Form("magnitude", self.sparsity, float(np.mean(w.values == 0)))
            for _, w, _ in products(model, self.skip)
        }
        if not forms:
            raise BadOption("no product with a stored weight", pass_name=self.name)
        return Objective(**self.learnt_from(ctx), forms=forms)
