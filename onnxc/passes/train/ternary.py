"""train.ternary: weights of three values, learnt straight through (Li 2016, ternary weight networks)."""

from __future__ import annotations

from dataclasses import field
from glob import escape

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from .common import Train
from .objective import Form, Objective
from .weights import products


@register("train.ternary")
class Ternary(Train):
    """Train with weights read as -a, 0 or a: a threshold of 0.7 mean |w|, a the mean of what is above (Li 2016, eq. 6).

    Learns from labels where the data have them, else from the model as given.

    ends: the first and the last product keep their floats, as in the papers. skip: patterns of layer names that keep theirs.
    """

    always = True
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        nodes = [node.name for node, _, _ in products(model)]
        skip = [*self.skip, *(escape(n) for n in {*nodes[:1], *nodes[-1:]} if self.ends)]
        forms = {w.name: Form("ternary", axis=out) for _, w, out in products(model, skip)}
        if not forms:
            raise BadOption("no product is left to train", pass_name=self.name, remedy="ends=false, or a shorter skip")
        return Objective(**self.learnt_from(ctx), forms=forms)
