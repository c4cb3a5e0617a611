"""quant.blockwise: weights in 2, 4 or 8 bits with a scale for each block, really packed (ONNX opset 21, 2 bits 25)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import ml_dtypes
import numpy as np

from ...ir.difference import snr
from ...ir.errors import BadOption
from ...ir.model import Model
from ...ir.qtype import stored_bytes
from ..base import Context, Pass, Report, register
from ..options import Range
from . import formats

DTYPES = {
    2: (ml_dtypes.int2, ml_dtypes.uint2),
    4: (ml_dtypes.int4, ml_dtypes.uint4),
    8: (np.int8, np.uint8),
}
OPSET = {2: 25, 4: 21, 8: 21}
LEAST = np.float32(2.0**-60)


@register("quant.blockwise")
class QuantBlockwise(Pass):
    """Store weights as small integers with a scale for each block of inputs; activations stay float.

        w float [o, c, *k] -> DequantizeLinear(int4 [o, c, *k], scale [o, c / block, *k]) -> product

    The step of each block is searched for the least squared error.

    bits: 2, 4 or 8. block: weights along the summed axis that share a scale, at most; the largest divisor of the axis is
    taken. symmetric: signed integers without a zero point; else unsigned ones with one. skip: patterns of layer names to
    leave alone.
    """

    bits: int = 4
    block: Annotated[int, Range(2)] = 32
    symmetric: bool = True
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def __post_init__(self):
        if self.bits not in DTYPES:
            raise BadOption("option bits does not fit", pass_name=self.name, expected="2, 4 or 8", found=self.bits)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for layer in formats.chosen(model, ctx, self.skip, OPSET[self.bits], report):
            values, axis = layer.tensor.values, formats.contracted(layer)
            split, block = formats.blocked(values, axis, self.block)
            integers, scale, zero = quantised(split, axis + 1, self.bits, self.symmetric)
            size = stored_bytes(integers) + scale.nbytes + (0 if zero is None else stored_bytes(zero))
            if size >= values.nbytes:
                report.refuse(layer.name, f"blocks of {block} weights do not pay for their scales")
                continue
            back = restored(integers, scale, zero, axis + 1).reshape(values.shape)
            formats.dequantised(model, layer, integers.reshape(values.shape), scale, zero, axis, block)
            each = 8 * size / values.size
            report.edit(layer.name, f"{values.size} weights in blocks of {block}, {each:.2f} bits each, "
                        f"{snr(values, back)}")  # fmt: skip
        return report


def quantised(
    split: np.ndarray, axis: int, bits: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(integers, scale, zero point or None) of blocks along `axis`; scale and zero point lack that axis."""
    signed, unsigned = DTYPES[bits]
    if symmetric:
        bottom, top = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        ends = split.min(axis, keepdims=True), split.max(axis, keepdims=True)
        full, zero = np.maximum(ends[1] / top, ends[0] / bottom), np.zeros_like(ends[0])
        dtype = signed
    else:
        bottom, top = 0, (1 << bits) - 1
        low, high = np.minimum(split.min(axis, keepdims=True), 0), np.maximum(split.max(axis, keepdims=True), 0)
        full, dtype = (high - low) / top, unsigned
        zero = np.clip(np.rint(-low / np.maximum(full, LEAST)), 0, top)
    best, least = full, np.full(full.shape, np.inf)
    for share in np.linspace(1.0, 0.6, 9):
        step = np.maximum(full * np.float32(share), LEAST)
        stored = np.clip(np.rint(split / step) + zero, bottom, top)
        error = np.square((stored - zero) * step - split).sum(axis, keepdims=True)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    integers = np.clip(np.rint(split / best) + zero, bottom, top).astype(np.int8 if symmetric else np.uint8)
    scale = best.squeeze(axis).astype(np.float32)
    return integers.astype(dtype), scale, None if symmetric else zero.squeeze(axis).astype(np.uint8).astype(dtype)


def restored(integers: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """The weights that blocks of integers mean, float32."""
    shift = np.float32(0) if zero is None else np.expand_dims(zero.astype(np.float32), axis)
    return (integers.astype(np.float32) - shift) * np.expand_dims(scale, axis)
