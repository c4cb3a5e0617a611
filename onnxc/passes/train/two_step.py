"""train.two_step: first codes of the inputs, then the weights for them (Wang 2018)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.binary import QuantBinary
from .common import Learnt, Maker
from .levels import CODES, Levels
from .objective import Form, Objective


@register("train.two_step")
class TwoStep(Learnt):
    """Two-step quantisation (Wang 2018): sparse codes of inputs are learnt with real weights, then weights of few levels.

    Before -> after: inputs of products go through the grid whose smallest share `sparsity` is zero (eq. 5); the first half
    of the training moves the real weights under it. Then weights are read as a scale times the nearest of few levels, scale
    and levels fitted in turn (eq. 9), and trained straight through. Learns from labels where the data have them, else from
    the model as given.

    bits: of the inputs. sparsity: share of half a Gaussian's inputs that become 0. levels: of the weights: ternary, binary, or
    bits3 (0, 1, 2, 4 and negatives). share: of the training that the first step takes. ends: the first and the last product
    keep their floats. skip: patterns of layer names to leave alone.
    """

    always = True
    bits: Annotated[int, Range(1, 8)] = 2
    sparsity: Annotated[float, Range(0.5, 0.99)] = 0.75
    levels: Levels = "ternary"
    share: Annotated[float, Range(above=0, below=1)] = 0.5
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def before(self) -> list[Pass]:
        rest = not self.ends
        given: Maker = QuantBinary
        return [given(weights="none", inputs="two_step", bits=self.bits, sparsity=self.sparsity, first=rest, last=rest,
                      pointwise=True, correct=False, skip=self.skip)]  # fmt: skip

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        form = Form("nearest", codes=CODES[self.levels], after=self.share)
        return Objective(**self.learnt_from(model, ctx), forms=self.formed(model, form, self.skip, self.ends))
