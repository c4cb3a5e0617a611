"""train.early_prune: batch-norm scales forecast from the early epochs, channels cut once, the rest trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from ..prune.channels import PruneChannels
from .common import Learnt, Maker
from .objective import Form, Objective, Penalty
from .weights import kept_zeros, scales, untied


@register("train.early_prune")
class EarlyPrune(Learnt):
    """Slim for a few epochs (Liu 2017), forecast the batch-norm scales, cut channels by them once, then train on.

    Before -> after, with n the number of early steps:

        mean  ->  mean + (g - mean) / (forecast n)    after each early step; channels of the least |mean| go

    so that the order of the scales, which settles long before their values do, is known early, and most epochs are spent on
    the small network. Learns from labels where the data have them, else from the model as given.

    early: epochs ahead of the cut; `epochs` follow it. strength: of the slimming, by how much of the mean scale a scale
    shrinks over the early epochs that the loss does not hold. forecast: the share of the early steps that the moving average
    looks back on. ratio: share of channels that go. scope: the least of all layers together (global), or of each.
    """

    always = True
    early: Annotated[int, Range(1)] = 2
    strength: Annotated[float, Range(above=0)] = 1.0
    forecast: Annotated[float, Range(above=0, high=1)] = 0.2
    ratio: Annotated[float, Range(above=0, below=1)] = 0.5
    scope: Literal["global", "layer"] = "global"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        untied(model)
        found = scales(model)
        if not found:
            raise BadOption("the model has no batch normalisation", pass_name=self.name, remedy="take it ahead of fuse")
        early = Objective(
            **self.learnt_from(model, ctx),
            penalties=tuple(Penalty("l1", t.name, self.strength) for t in found),
            forms=kept_zeros(model) | {t.name: Form("average", strength=self.forecast) for t in found},
        )
        file = self.checkpoint and f"{self.checkpoint}.early"
        self.fit(model, early, replace(self.schedule(), epochs=self.early, checkpoint=file), ctx, report, True)
        given: Maker = PruneChannels
        cut = given(criterion="bn_scale", ratio=self.ratio, scope=self.scope, recover="none")
        self.prepared(cut, model, ctx, report)
        rest = Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model))
        self.fit(model, rest, self.schedule(), ctx, report, True)
        return report
