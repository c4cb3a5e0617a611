"""quant.pow2: weights that are powers of two, so that a product is shifts and sums."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import numpy as np

from ...ir.difference import snr
from ...ir.functions import OPSET
from ...ir.model import Model
from ..base import Context, Pass, Report, register
from ..options import Range
from . import cluster_store as store
from . import formats


@register("quant.pow2")
class QuantPow2(Pass):
    """Round weights to zero or plus or minus a power of two (Zhou 2017, without retraining), stored as indices:

        w float -> Lookup(packed indices, [0, -2^n .. -2^(n-m+1), 2^(n-m+1) .. 2^n]) -> product

    The largest exponent n is the one of each layer for which the squared error is least.

    bits: of an index, 2 to 6: 2^(bits-1) - 1 exponents. skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(2, 6)] = 4
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for layer in formats.chosen(model, ctx, self.skip, max(OPSET, 13), report):
            view = layer.view()
            book, indices = powers(view, self.bits)
            if store.stored_size(layer, self.bits, book) >= view.nbytes:
                report.refuse(layer.name, f"a codebook does not pay for {view.size} weights")
                continue
            done = snr(view, store.restore(indices, book))
            store.share(model, layer, indices, book, self.bits)
            largest = int(np.log2(book.max()))
            report.edit(layer.name, f"{view.size} weights to powers of two up to 2^{largest}, {done}")
        return report


def powers(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(codebook float32 [1, 2^bits - 1], indices uint8 of the values' shape) of least squared error."""
    count = (1 << (bits - 1)) - 1
    largest = int(np.ceil(np.log2(max(float(np.abs(values).max()), 2.0**-60))))
    tried = []
    for n in (largest, largest - 1, largest - 2):
        sizes = np.exp2(np.arange(n - count + 1, n + 1))
        book = np.concatenate([-sizes[::-1], [0.0], sizes]).astype(np.float32)
        indices = np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)
        tried.append((float(np.square(values - book[indices], dtype=np.float64).sum()), book[None], indices))
    _, book, indices = min(tried, key=lambda t: t[0])
    return book, indices
