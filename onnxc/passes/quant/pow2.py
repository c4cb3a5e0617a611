"""quant.pow2: weights that are powers of two, so that a product is shifts and sums."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.difference import snr
from ...ir.functions import OPSET
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Context, Pass, Report, register
from ..layers.linear import add_to_bias
from ..layers.stored import Layer
from ..options import Range
from . import cluster_store as store
from . import formats, unseen
from .cluster_importance import Inputs, inputs, readable
from .cluster_refit import bias_shift
from .rounding import descend, error, gptq


@register("quant.pow2")
class QuantPow2(Pass):
    """Round weights to zero or plus or minus a power of two (Zhou 2017, without retraining), stored as indices:

        w float -> Lookup(packed indices, [0, -2^n .. -2^(n-m+1), 2^(n-m+1) .. 2^n]) -> product

    The largest exponent n is the one of each layer for which the error is least. With data that is the error of what the
    layer puts out: weights are rounded one after another, each error handed on to those that follow (GPTQ, Frantar 2023), and then
    moved one by one as long as that helps, and the bias takes the mean of what is left. Without data weights are moved so that the
    outputs change least for what can be guessed of the inputs.

    bits: of an index, 2 to 6: 2^(bits-1) - 1 exponents. rounding: gptq, so; nearest, each weight by itself; auto: gptq where
    data are given, else by the guess. skip: patterns of layer names to leave alone.
    """

    bits: Annotated[int, Range(2, 6)] = 4
    rounding: Literal["auto", "nearest", "gptq"] = "auto"
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def __post_init__(self) -> None:
        self.needs_data = self.rounding == "gptq"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = []
        for layer in formats.chosen(model, ctx, self.skip, max(OPSET, 13), report):
            if store.stored_size(layer, self.bits, grid(self.bits, 0)[None]) < layer.view().nbytes:
                found.append(layer)
            else:
                report.refuse(layer.name, f"a codebook does not pay for {layer.size} weights")
        fits = self.rounding == "gptq" or (self.rounding == "auto" and not ctx.synthetic and ctx.data is not None)
        able = readable(model, found, report, "rounded without data") if fits else []
        read = {id(layer) for layer in able}
        coded = {id(x): powers(x, self.bits, guess=self.rounding != "nearest") for x in found if id(x) not in read}
        shifts = {}
        for (layer, seen), _ in zip(inputs(model, verify(model).analysis, able, ctx), ctx.each(able)):
            coded[id(layer)] = book, indices = fitted(layer, self.bits, seen)
            shifts[id(layer)] = bias_shift(layer, book, indices, seen)
        for layer in found:
            book, indices = coded[id(layer)]
            what = f"{layer.size} weights to powers of two up to 2^{int(np.log2(book.max()))}"
            what += f", {snr(layer.view(), store.restore(indices, book))}"
            if id(layer) in shifts:
                add_to_bias(model, layer.nodes[0], shifts[id(layer)])
                what += ", fitted to its outputs, bias corrected"
            store.share(model, layer, indices, book, self.bits)
            report.edit(layer.name, what)
        return report


def grid(bits: int, n: int) -> np.ndarray:
    """The values float32 [2^bits - 1], rising, with the largest exponent n."""
    count = (1 << (bits - 1)) - 1
    sizes = np.exp2(np.arange(n - count + 1, n + 1))
    return np.concatenate([-sizes[::-1], [0.0], sizes]).astype(np.float32)


def grids(values: np.ndarray, bits: int) -> list[np.ndarray]:
    """Those that may suit `values`."""
    largest = int(np.ceil(np.log2(max(float(np.abs(values).max()), 2.0**-60))))
    return [grid(bits, n) for n in (largest, largest - 1, largest - 2)]


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Indices of the levels next to `values`."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def powers(layer: Layer, bits: int, *, guess: bool) -> tuple[np.ndarray, np.ndarray]:
    """(codebook float32 [1, 2^bits - 1], indices uint8 in the common view) of least squared error of the weights, or (guess) of the
    outputs as it is to be expected without data."""
    values, tried = layer.view(), []
    for levels in grids(values, bits):
        indices = nearest(values, levels).astype(np.uint8)
        if guess:
            indices = unseen.settle(layer, values, indices, levels)
        change = values - levels[indices]
        lost = unseen.error(layer, change) if guess else float(np.square(change, dtype=np.float64).sum())
        tried.append((lost, levels[None], indices))
    _, book, indices = min(tried, key=lambda t: t[0])
    return book, indices


def fitted(layer: Layer, bits: int, seen: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The same of least error of the layer's outputs."""
    w, h = layer.matrix(), seen.covariance
    one = np.ones((*w.shape[:2], 1))
    tried = []
    for levels in grids(w, bits):

        def snap(x: np.ndarray, levels: np.ndarray = levels) -> np.ndarray:
            return levels[nearest(x, levels)].astype(np.float64)

        for start in (snap(w), gptq(w, h, one, 0, snap)):
            v = descend(start, w, h, one, 0, snap=snap)
            tried.append((float(error(v, w, h).sum()), levels, v))
    _, levels, v = min(tried, key=lambda t: t[0])
    return levels[None], nearest(v, levels).astype(np.uint8).reshape(layer.view().shape)
