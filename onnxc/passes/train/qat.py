"""train.qat: quantisation-aware training with learned steps (Esser 2020, LSQ), of a model that holds quantisers."""

from __future__ import annotations

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from .common import Taught
from .objective import Objective
from .weights import kept_zeros


@register("train.qat")
class Qat(Taught):
    """Train weights and the scales of quantisers, straight through the rounding (Esser 2020, eq. 2 and 3).

    Takes a model as `quant` makes it, of any number of bits. Learns from the model as given, so that no labels are needed.

    labels: learn from labels too.
    """

    labels: bool = False

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        if not any(node.op in ("QuantizeLinear", "DequantizeLinear", "Quantize") for node in model.nodes):
            raise BadOption("the model holds no quantisers", pass_name=self.name, remedy="put quant ahead of it")
        return Objective(
            labels=self.labels, teacher=self.taught(model, ctx), steps=True, forms=kept_zeros(model)
        )  # fmt: skip
