"""train.cluster: shared weights, trained by the sums of their gradients (Han, Mao, Dally 2016)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.functions import is_lookup, weight
from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.cluster import QuantCluster
from .common import Learnt, Maker
from .objective import Objective
from .weights import kept_zeros


@register("train.cluster")
class Cluster(Learnt):
    """Let weights share 2^bits values as `quant.cluster` does, and train the values by summed gradients (Han 2016, eq. 3).

    Which weights share a value stays; what is zero stays zero. Learns from labels where the data have them, else from the
    model as given.

    bits: of an index. bits_by: by glob on layer names; 0 leaves a layer alone. store: indices packed to bits, or floats
    without an index (`onnxc pack` codes that smallest). skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(1, 8)] = 4
    bits_by: dict[str, int] | None = None
    store: Literal["bits", "floats"] = "bits"
    skip: list[str] = field(default_factory=list)

    def before(self) -> list[Pass]:
        given: Maker = QuantCluster
        return [given(bits=self.bits, bits_by=self.bits_by, skip=self.skip)]

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        return Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model))

    def run(self, model: Model, ctx: Context) -> Report:
        report = super().run(model, ctx)
        if self.store == "floats":
            for node in [n for n in model.nodes if is_lookup(n)]:
                values = np.asarray(weight(node))
                model.replace_uses(node.outputs[0], model.constant(node.outputs[0].name, values))
            model.drop_dead()
        return report
