"""quant.float16 and quant.bfloat16: weights in two bytes, computed with in float32."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

import ml_dtypes
import numpy as np

from ...ir.difference import snr
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from . import formats


class Short(Pass):
    """Weights of products in a shorter float type behind a Cast; what would leave its range is refused."""

    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    dtype: ClassVar[type]
    opset: ClassVar[int]

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for layer in formats.chosen(model, ctx, self.skip, self.opset, report):
            values = layer.tensor.values
            with np.errstate(over="ignore"):
                short = values.astype(self.dtype)
            back = short.astype(np.float32)
            if not np.isfinite(back).all():
                report.refuse(layer.name, f"its largest weight, {np.abs(values).max():.3g}, is out of range")
                continue
            formats.cast(model, layer, short)
            report.edit(layer.name, f"{values.size} weights to {np.dtype(self.dtype).name}, {snr(values, back)}")
        return report


@register("quant.float16")
class QuantFloat16(Short):
    """Store the weights of products as IEEE half floats, 10 bits of fraction: w -> Cast(float16 w) -> product.

    The product still runs in float32. A later `clean` leaves the Cast alone; `fuse` goes ahead of this pass, since it sees
    no weight behind a Cast.

    skip: patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    skip: list[str] = field(default_factory=list)
    dtype = np.float16
    opset = 7


@register("quant.bfloat16")
class QuantBfloat16(Short):
    """Store the weights of products as bfloat16, the upper half of a float32: w -> Cast(bfloat16 w) -> product.

    The product still runs in float32. A later `clean` leaves the Cast alone; `fuse` goes ahead of this pass, since it sees
    no weight behind a Cast.

    skip: patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    skip: list[str] = field(default_factory=list)
    dtype = ml_dtypes.bfloat16
    opset = 13
