"""train.lowrank: layers as products of thinner ones, whose factors are trained (Denton 2014, Jaderberg 2014, Kim 2016)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..lowrank.convolutions import Auto
from ..options import Range
from .common import Learnt, Maker
from .objective import Objective
from .weights import kept_zeros


@register("train.lowrank")
class LowRank(Learnt):
    """Factor layers as `lowrank` does, then train the factors.

    Learns from labels where the data have them, else from the model as given.

    macs: MACs of the whole model that may be left, up to 1 as a share. params: the same of parameters. energy: share of the
    squared singular values (with data: of the output's variance) that each layer keeps; 0.97 where neither is
    given. skip: patterns of layer names to leave alone.
    """

    macs: Annotated[float | None, Range(above=0)] = None
    params: Annotated[float | None, Range(above=0)] = None
    energy: Annotated[float | None, Range(above=0, high=1)] = None
    skip: list[str] = field(default_factory=list)

    always = True

    def before(self) -> list[Pass]:
        given: Maker = Auto
        asked = {"macs": self.macs, "params": self.params, "energy": self.energy}
        return [given(**{k: v for k, v in asked.items() if v is not None}, skip=self.skip or None)]

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        return Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model))
