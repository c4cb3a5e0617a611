"""quant.hash: weights drawn from a short table at hashed places (Chen et al., HashedNets, 2015); no index is stored.

    Conv w float [64, 64, 3, 3]      (bits=4)      float [4608] -> ai.onnxc.HashedLookup -> Conv

A weight is plus or minus the table's value at its hashed place. Given the places, the best table holds the mean of
sign·weight over each place. Without training from there on the weights that share a place have nothing in common: a
table of size/r values keeps 1/r of a layer's power. What this pass makes is a start for training, and is reported so.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import numpy as np

from ...ir import functions
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report, register
from ..layers.stored import layers
from ..opset import raise_opset
from ..options import Range
from .cluster import RAISE_TO
from .cluster_store import redirect
from .tables import note_left


@register("quant.hash")
class QuantHash(Pass):
    """Replace the weights of convolutions and matrix products by a table at hashed places; a start for training.

    bits: what is stored for each weight on average, above 0 and below 32. skip: patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    bits: Annotated[float, Range(above=0, below=32)] = 4.0
    skip: list[str] = field(default_factory=list)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        if found and model.opset < functions.OPSET:
            report = Report()
            raise_opset(model, RAISE_TO, ctx, report, "the function's body needs that")
            found = layers(model, verify(model).analysis, self.skip, report)
        note_left(model, report)
        kept = whole = 0.0
        for layer in found:
            w = layer.tensor.values
            values = max(1, int(w.size * self.bits / 32))
            if values * w.itemsize + 8 * w.ndim >= w.nbytes:
                report.refuse(layer.name, f"a table does not pay for {w.size} weights")
                continue
            place, sign = functions.hash_places(w.size, values)
            flat = w.ravel().astype(np.float64) * sign
            counts = np.maximum(np.bincount(place, minlength=values), 1)
            table = (np.bincount(place, flat, values) / counts).astype(w.dtype)
            kept += float(np.square(table[place], dtype=np.float64).sum())
            whole += float(np.square(w, dtype=np.float64).sum())
            redirect(model, layer, functions.hashed(model, layer.tensor.name, table, w.shape))
            report.edit(layer.name, f"{w.size} weights at hashed places of {values} values")
        if whole:
            report.note(f"{kept / whole:.0%} of the weights' power is kept: train the tables from here")
        return report
