"""train.binary: weights of one bit, learnt straight through their signs (BinaryConnect, XNOR-Net)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import onnx_graphsurgeon as gs

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.binary import QuantBinary
from .common import Learnt, Maker
from .objective import Form, Objective
from .weights import products


@register("train.binary")
class Binary(Learnt):
    """Train with weights read as their signs times a scale, and leave them so; inputs of products may be binary too.

    Learns from labels where the data have them, else from the model as given. `quant.recognise` stores such weights in one bit
    each. Quantised inputs start from what `quant.binary` makes of the data, and pass gradients within [-1, 1] of their sign.

    inputs: none, sign (BNN, Courbariaux 2016), xnor (with the K map, Rastegari 2016, eq. 9) or horq (residual planes, Li 2017,
    eq. 8). bits: planes of horq. smooth: the gradient of the signs of inputs is 2 - 2|x| (Bi-Real, Liu 2018, eq. 8), not 1, within
    [-1, 1]. scale: channel (the mean of |w| of each output channel: XNOR-Net, Rastegari 2016, eq. 6) or layer (one for all).
    stochastic: signs are drawn at random while they are trained, by (w / a + 1) / 2 (BinaryConnect, Courbariaux 2015, eq.
    2); needs scale=layer. after: the share of the training in which weights still are real. ends: the first and the last
    product keep their floats, as in the papers. skip: patterns of layer names that keep theirs.
    """

    always = True
    inputs: Literal["none", "sign", "xnor", "horq"] = "none"
    bits: Annotated[int, Range(1, 8)] = 2
    smooth: bool = False
    scale: Literal["channel", "layer"] = "channel"
    stochastic: bool = False
    after: Annotated[float, Range(0, below=1)] = 0.0
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smooth and self.inputs == "none":
            raise BadOption("option smooth needs signs of inputs", pass_name=self.name, expected="inputs", found="none")
        if self.stochastic and self.scale != "layer":
            raise BadOption("signs are drawn by one scale", pass_name=self.name, expected="scale=layer with stochastic",
                            found=f"scale={self.scale}")  # fmt: skip

    def before(self) -> list[Pass]:
        if self.inputs == "none":
            return []
        rest = not self.ends
        given: Maker = QuantBinary
        return [given(weights="none", inputs=self.inputs, bits=self.bits, first=rest, last=rest, pointwise=True,
                      correct=False, skip=self.skip)]  # fmt: skip

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        one: Literal["chance", "connect"] = "chance" if self.stochastic else "connect"
        form = Form("binary" if self.scale == "channel" else one, after=self.after)
        forms = self.formed(model, form, self.skip, self.ends)
        maps = {w.name: Form("fixed") for node, w, _ in products(model) if _averages(node)}
        return Objective(**self.learnt_from(model, ctx), forms=forms | maps, smooth_signs=self.smooth)


def _averages(node: gs.Node) -> bool:
    """Whether a product is the average of magnitudes over each window: the K map of XNOR-Net."""
    return any(n.op == "ReduceMean" and any(a.op == "Abs" for a in n.inputs[0].inputs) for n in node.inputs[0].inputs)
