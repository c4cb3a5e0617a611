"""train.ternary: weights of three values, learnt straight through (Li 2016) or with learnt scales (Zhu 2017)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .objective import Form, Objective


@register("train.ternary")
class Ternary(Learnt):
    """Train with weights read as three values, and leave them so.

    Learns from labels where the data have them, else from the model as given.

    scales: mean (-a, 0, a; a threshold of 0.7 mean |w|, a the mean of what is above: Li 2016, eq. 6) or learnt (-n, 0, p; a
    threshold of 0.05 of the largest |w|: TTQ, Zhu 2017). after: the share of the training in which weights still are real.
    ends: the first and the last product keep their floats, as in the papers. skip: patterns of layer names that keep theirs.
    """

    always = True
    scales: Literal["mean", "learnt"] = "mean"
    after: Annotated[float, Range(0, below=1)] = 0.0
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        form = Form("ternary" if self.scales == "mean" else "trained", after=self.after)
        return Objective(**self.learnt_from(model, ctx), forms=self.formed(model, form, self.skip, self.ends))
