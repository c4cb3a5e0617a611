"""train.hash: weights at hashed places of a short table, which is trained (HashedNets, Chen 2015)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.cluster_hash import QuantHash
from .common import Learnt, Maker
from .objective import Objective
from .weights import kept_zeros


@register("train.hash")
class Hash(Learnt):
    """Put weights at hashed places of a short table as `quant.hash` does, and train the table (Chen 2015, eq. 7 and 12).

    Learns from labels where the data have them, else from the model as given.

    bits: what is stored for each weight on average. skip: patterns of layer names to leave alone.
    """

    always = True
    bits: Annotated[float, Range(above=0, below=32)] = 4.0
    skip: list[str] = field(default_factory=list)

    def before(self) -> list[Pass]:
        given: Maker = QuantHash
        return [given(bits=self.bits, skip=self.skip)]

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        return Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model))
