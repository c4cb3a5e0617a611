"""train.binary: weights of one bit, learnt straight through their signs (BinaryConnect, XNOR-Net)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Train
from .objective import Form, Objective


@register("train.binary")
class Binary(Train):
    """Train with weights read as their signs times a scale, and leave them so.

    Learns from labels where the data have them, else from the model as given.
    `quant.recognise` stores them in one bit each. Inputs of one bit (XNOR-Net, HORQ) train as they are where
    `quant.binary(weights=none, inputs=xnor)`, or horq, stands ahead.

    scale: channel (the mean of |w| of each output channel: XNOR-Net, Rastegari 2016, eq. 6) or layer (one for all).
    stochastic: signs are drawn at random while they are trained, by (w / a + 1) / 2 (BinaryConnect, Courbariaux 2015, eq.
    2); needs scale=layer. after: the share of the training in which weights still are real. ends: the first and the last
    product keep their floats, as in the papers. skip: patterns of layer names that keep theirs.
    """

    always = True
    scale: Literal["channel", "layer"] = "channel"
    stochastic: bool = False
    after: Annotated[float, Range(0, below=1)] = 0.0
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stochastic and self.scale != "layer":
            raise BadOption("signs are drawn by one scale", pass_name=self.name, expected="scale=layer with stochastic",
                            found=f"scale={self.scale}")  # fmt: skip

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        one: Literal["chance", "connect"] = "chance" if self.stochastic else "connect"
        form = Form("binary" if self.scale == "channel" else one, after=self.after)
        return Objective(**self.learnt_from(ctx), forms=self.formed(model, form, self.skip, self.ends))
