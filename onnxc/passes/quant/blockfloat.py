"""quant.blockfloat: integers with exponents that blocks of weights share (Flexpoint, Köster 2017; block floating point)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import numpy as np

from ...ir.difference import snr
from ...ir.errors import BadOption
from ...ir.model import Model
from ...ir.qtype import stored_bytes
from ..base import Context, Pass, Report, register
from ..options import Range
from . import formats


@register("quant.blockfloat")
class QuantBlockfloat(Pass):
    """Store weights as signed mantissas times a power of two that a block, or a whole tensor, shares:

        w float [o, c, *k] -> DequantizeLinear(int8 [o, c, *k], 2^e [o, c / block, *k]) -> product

    Of each block the exponent is the least that does not saturate its largest weight.

    bits: of a mantissa, 2 to 16, stored in the shortest of int2 (opset 25), int4, int8 and int16. block: weights along the summed axis that
    share an exponent, at most (the largest divisor of the axis is taken); 0 for one exponent of the whole tensor, as
    Flexpoint has it. skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(2, 16)] = 8
    block: Annotated[int, Range(0)] = 32
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def __post_init__(self):
        if self.block == 1:
            raise BadOption("option block does not fit", pass_name=self.name, expected="0, or at least 2")

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        dtype, opset = formats.container(self.bits)
        for layer in formats.chosen(model, ctx, self.skip, max(opset, 21 if self.block else 13), report):
            values, axis = layer.tensor.values, formats.contracted(layer)
            split, block = formats.blocked(values, axis, self.block) if self.block else (values, 0)
            within = axis + 1 if self.block else None
            steps = shared_steps(split, within, self.bits)
            integers = np.rint(split / steps).astype(np.int16)
            if self.block and stored_bytes(integers.astype(dtype)) + steps.nbytes >= values.nbytes:
                report.refuse(layer.name, f"blocks of {block} weights do not pay for their exponents")
                continue
            scale = steps.squeeze(within) if self.block else steps.reshape(())
            back = (integers * steps).reshape(values.shape)
            formats.dequantised(model, layer, integers.reshape(values.shape).astype(dtype), scale, None, axis, block)
            by = f"blocks of {block}" if self.block else "the tensor"
            text = f"{values.size} mantissas of {self.bits} bits, an exponent for {by}, {snr(values, back)}"
            report.edit(layer.name, text)
        return report


def shared_steps(split: np.ndarray, axis: int | None, bits: int) -> np.ndarray:
    """2^e, float32, the least with |w| <= 2^e * (2^(bits-1) - 1); extents of 1 where it is shared."""
    top = np.abs(split).max(axis, keepdims=True) / np.float32((1 << (bits - 1)) - 1)
    return np.exp2(np.ceil(np.log2(np.maximum(top, 2.0**-60)))).astype(np.float32)
