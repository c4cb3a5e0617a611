"""train.hwgq: inputs of few bits on the grid of half a Gaussian, and weights of few levels (Cai 2017)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.binary import QuantBinary
from .common import Learnt, Maker
from .objective import Form, Objective


@register("train.hwgq")
class Hwgq(Learnt):
    """Train with half-wave Gaussian quantised inputs and binary weights (Cai 2017).

    Inputs of products go through the grid that is best for half a Gaussian, of the power that each has on the data; its
    gradient is that of a clipped ReLU (eq. 14). Weights are read as their signs times the mean of |w| of each channel.
    Learns from labels where the data have them, else from the model as given.

    bits: of the inputs. weights: binary, ternary or real. steps: the grids are learnt too. ends: the first and the last
    product keep their floats. skip: patterns of layer names to leave alone.
    """

    always = True
    bits: Annotated[int, Range(1, 8)] = 2
    weights: Literal["binary", "ternary", "real"] = "binary"
    steps: bool = False
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def before(self) -> list[Pass]:
        rest = not self.ends
        given: Maker = QuantBinary
        return [given(weights="none", inputs="hwgq", bits=self.bits, sparsity=0.5, first=rest, last=rest, pointwise=True,
                      correct=False, skip=self.skip)]  # fmt: skip

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        forms = {}
        if self.weights != "real":
            forms = self.formed(model, Form(self.weights), self.skip, self.ends)
        return Objective(**self.learnt_from(model, ctx), forms=forms, steps=self.steps)
