"""train.binary: weights of one bit, learnt straight through their signs (BinaryConnect, XNOR-Net)."""

from __future__ import annotations

from dataclasses import field
from glob import escape
from typing import Literal

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from .common import Train
from .objective import Form, Objective
from .weights import products


@register("train.binary")
class Binary(Train):
    """Train with weights read as their signs times a scale, and leave them so.

    Learns from labels where the data have them, else from the model as given.
    `quant.recognise` stores them in one bit each.

    scale: channel (the mean of |w| of each output channel: XNOR-Net, Rastegari 2016, eq. 6) or layer (one for all).
    ends: the first and the last product keep their floats, as in the papers. skip: patterns of layer names that keep theirs.
    """

    always = True
    scale: Literal["channel", "layer"] = "channel"
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        nodes = [node.name for node, _, _ in products(model)]
        skip = [*self.skip, *(escape(n) for n in {*nodes[:1], *nodes[-1:]} if self.ends)]
        kind: Literal["binary", "connect"] = "binary" if self.scale == "channel" else "connect"
        forms = {w.name: Form(kind, axis=out) for _, w, out in products(model, skip)}
        if not forms:
            raise BadOption("no product is left to train", pass_name=self.name, remedy="ends=false, or a shorter skip")
        return Objective(**self.learnt_from(ctx), forms=forms)
