"""train.cluster: shared weights, trained by the sums of their gradients (Han, Mao, Dally 2016), that stay shared as they were or move."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.errors import BadOption
from ...ir.functions import is_lookup, weight
from ...ir.model import Model, read_only
from ..base import Context, Pass, Report, register
from ..options import Range
from ..quant.cluster import QuantCluster
from ..quant.cluster_codes import Settings, find_codes
from ..quant.cluster_kmeans import nearest
from .common import Learnt, Maker
from .objective import Form, Objective
from .weights import kept_zeros, products

CELLS = 4096
BIASED = ("Conv", "ConvTranspose", "Gemm")


@register("train.cluster")
class Cluster(Learnt):
    """Let weights share 2^bits values as `quant.cluster` does, and train the values by summed gradients (Han 2016, eq. 3).

    What is zero stays zero. Learns from labels where the data have them, else from the model as given.

    bits: of an index. bits_by: by glob on layer names; 0 leaves a layer alone. assign: which weights share a value stays as it was
    (fixed), or each weight learns as a float too, straight through, and is read as the value that is the nearest then (moving: Jacob 2018
    for steps that are alike, here for values that learn). biases: with `moving`, those of each layer share 2^biases values too, as
    floats; 0: they learn one by one. store: indices packed to bits, or floats
    without an index (`onnxc pack` codes that smallest). skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(1, 8)] = 4
    bits_by: dict[str, int] | None = None
    assign: Literal["fixed", "moving"] = "fixed"
    biases: Annotated[int, Range(0, 8)] = 0
    store: Literal["bits", "floats"] = "bits"
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.always = self.assign == "moving"
        if self.biases and self.assign == "fixed":
            raise BadOption(
                "biases share values that move",
                pass_name=self.name,
                expected="assign=moving",
                found=f"biases={self.biases}",
            )

    def before(self) -> list[Pass]:
        return [self._shared("bits")] if self.assign == "fixed" else []

    def _shared(self, store: str, **options: Any) -> Pass:
        given: Maker = QuantCluster
        return given(bits=self.bits, bits_by=self.bits_by, skip=self.skip, store=store, **options)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        moving = self._moving(model, ctx, report) if self.assign == "moving" else {}
        return Objective(**self.learnt_from(model, ctx), forms=kept_zeros(model) | moving)

    def _moving(self, model: Model, ctx: Context, report: Report) -> dict[str, Form]:
        """The forms of the weights that share values, by name. A weight which `quant.cluster` gives its nearest value begins as the
        float that it was, any other as its value."""
        stored = {w.name: w for _, w, _ in products(model, self.skip)}
        floats = {name: w.values for name, w in stored.items()}
        self.prepared(self._shared("floats"), model, ctx, report)
        forms = {}
        for name, w in stored.items():
            codes, was = np.unique(w.values), floats[name]
            if len(codes) > 1 << max(self.bits, *(self.bits_by or {"": 1}).values()):
                continue
            near = codes[nearest(was, codes)] == w.values
            w.values = read_only(np.where(near & ((was != 0) | (w.values == 0)), was, w.values))
            forms[name] = Form("shared", codes=tuple(codes.tolist()))
        return forms | (self._biases(model, ctx) if self.biases else {})

    def _biases(self, model: Model, ctx: Context) -> dict[str, Form]:
        """The forms of what is added behind products, by name."""
        settings = Settings(1 << self.biases, "optimal", CELLS, None, True, ctx.rng())
        added = (
            node.inputs[2] for node, _, _ in products(model, self.skip) if node.op in BIASED and len(node.inputs) > 2
        )
        return {
            t.name: Form("shared", codes=tuple(find_codes([t.values], [None], settings).values.tolist()))
            for t in added if isinstance(t, gs.Constant) and t.values.size > 1
        }  # fmt: skip

    def run(self, model: Model, ctx: Context) -> Report:
        report = super().run(model, ctx)
        if (
            self.assign == "moving" and self.store == "bits"
        ):  # a layer of no more values than that keeps them to the bit
            self.prepared(self._shared("bits", fit="weights"), model, ctx, report)
        if self.store == "floats":
            for node in [n for n in model.nodes if is_lookup(n)]:
                values = np.asarray(weight(node))
                model.replace_uses(node.outputs[0], model.constant(node.outputs[0].name, values))
            model.drop_dead()
        return report
