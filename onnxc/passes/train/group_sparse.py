"""train.group_sparse: a group lasso on filters, channels or kernel positions (Wen 2016, Zhou 2016)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..layers.layout import RECURRENT
from ..options import Range
from .common import Learnt
from .objective import Objective, Penalty
from .weights import kept_zeros, products


@register("train.group_sparse")
class GroupSparse(Learnt):
    """Train with a group lasso, so that whole groups of weights become zero (Wen 2016, eq. 2), by proximal steps.

    strength: by how much of the mean norm a group shrinks over the training that the loss does not hold.
    groups: filters (all weights of an output channel), channels (all of an input channel), positions (all of a place in
    the kernel, of all filters: group-wise brain damage, Lebedev 2016). exclusive: weight of the squared l1 norm within
    filters beside it, for which inputs compete (combined group and exclusive sparsity, Yoon 2017). skip: patterns of
    layer names to leave alone.
    """

    always = True
    strength: Annotated[float, Range(above=0)] = 1.0
    groups: Literal["filters", "channels", "positions"] = "filters"
    exclusive: Annotated[float, Range(0)] = 0.0
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        penalties = []
        for node, w, out in products(model, self.skip):
            if node.op in RECURRENT:
                report.refuse(node.name, f"{node.op} stays whole: its gates share units")
                continue
            inside = 1 - out if w.values.ndim > 1 and out < 2 else 0
            fixed = {"filters": {out}, "channels": {inside}, "positions": set(range(2, w.values.ndim))}[self.groups]
            if self.groups == "positions" and w.values.ndim < 3:
                report.refuse(node.name, "it has no kernel")
                continue
            axes = tuple(d for d in range(w.values.ndim) if d not in fixed)
            penalties.append(Penalty("group", w.name, self.strength, axes))
            if self.exclusive:
                within = tuple(d for d in range(w.values.ndim) if d != out)
                penalties.append(Penalty("exclusive", w.name, self.strength * self.exclusive, within))
        if not penalties:
            raise BadOption("no layer has such groups", pass_name=self.name, found=self.groups)
        return Objective(**self.learnt_from(model, ctx), penalties=tuple(penalties), forms=kept_zeros(model))
