"""quant.fixed: weights as fixed-point numbers, rounded to nearest or at random."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.difference import snr
from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from . import formats


@register("quant.fixed")
class QuantFixed(Pass):
    """Store weights as n-bit integers times a power of two (Gupta 2015), one point for each weight tensor:

        w float -> DequantizeLinear(round(w * 2^f), 2^-f) -> product

    bits: of a number, 2 to 16, stored in the shortest of int2 (opset 25), int4 (21), int8 and int16 (21). fraction: f,
    bits behind the point; by default, of those that the largest weight leaves and up to three more, the one with the
    least squared error. What does not fit saturates. rounding: to nearest, or stochastic: up with the probability of the
    part that is cut off, so that the mean is kept; seeded. skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(2, 16)] = 16
    fraction: Annotated[int | None, Range(-60, 60)] = None
    rounding: Literal["nearest", "stochastic"] = "nearest"
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report, rng = Report(), ctx.rng()
        top = (1 << (self.bits - 1)) - 1
        dtype, opset = formats.container(self.bits)
        for layer in formats.chosen(model, ctx, self.skip, opset, report):
            values = layer.tensor.values
            fraction = self.fraction if self.fraction is not None else best_point(values, top)
            exact = np.ldexp(values, fraction)
            whole = np.rint(exact) if self.rounding == "nearest" else np.floor(exact + rng.random(exact.shape))
            integers = np.clip(whole, -top - 1, top).astype(np.int16)
            scale = np.array(2.0**-fraction, np.float32)
            formats.dequantised(model, layer, integers.astype(dtype), scale, None, 0, 0)
            done = snr(values, integers * scale)
            report.edit(layer.name, f"{values.size} weights to {self.bits} bits, {fraction} behind the point, {done}")
        return report


def best_point(values: np.ndarray, top: int) -> int:
    """The bits behind the point with the least squared error of rounding to nearest: with few bits it pays to saturate."""

    def error(fraction: int) -> float:
        rounded = np.clip(np.rint(np.ldexp(values, fraction)), -top - 1, top)
        return float(np.square(np.ldexp(rounded, -fraction) - values, dtype=np.float64).sum())

    first = point(values, top)
    return min(range(first, min(first + 4, 61)), key=error)


def point(values: np.ndarray, top: int) -> int:
    """The most bits behind the point with which no value passes `top`; at most 60."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0
    fraction = int(np.floor(np.log2(top / largest)))
    return int(np.clip(fraction, -60, 60))
