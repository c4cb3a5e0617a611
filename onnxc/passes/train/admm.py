"""train.admm: weights drawn to a set step by step, then held in it (Zhang 2018, Leng 2018)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .levels import CODES
from .objective import Form, Objective


@register("train.admm")
class Admm(Learnt):
    """Train by the alternating direction method of multipliers, towards sparse weights or weights of few levels.

    Before -> after: the loss gains strength / 2 |w - Z + U|^2 (of the mean square of w); Z = P(w + U), U += w - Z every
    20 steps (Zhang 2018, eq. 5 to 8). After six tenths of the training w = P(w), and the rest is trained on: kept weights
    behind their mask, levels straight through.

    to: sparse, or levels up to a scale: binary, ternary, bits3 (0, 1, 2, 4 and negatives: Leng 2018). sparsity: with
    sparse, the share of each layer's weights that is zero in the end; 0.8 by default. strength: of the pull. ends: with
    levels, the first and the last product keep their floats. skip: patterns of layer names to leave alone.
    """

    always = True
    to: Literal["sparse", "binary", "ternary", "bits3"] = "sparse"
    sparsity: Annotated[float | None, Range(above=0, below=1)] = None
    strength: Annotated[float, Range(above=0)] = 1.0
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None and self.to != "sparse":
            raise BadOption("option sparsity needs to=sparse", pass_name=self.name, found=f"to={self.to}")

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        sparse = self.to == "sparse"
        share = 0.8 if self.sparsity is None else self.sparsity
        form = Form("split", sparsity=share, codes=CODES.get(self.to, ()), strength=self.strength)
        forms = self.formed(model, form, self.skip, self.ends and not sparse)
        return Objective(**self.learnt_from(model, ctx), forms=forms)
