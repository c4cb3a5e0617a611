"""quant.cluster: weights that share few values, stored as packed indices and a codebook (Han, Mao, Dally 2016).

    Conv w float [64, 64, 3, 3], 147,456 bytes
    (bits=5)  ->  uint8 [4608, 5] and float [1, 32] -> ai.onnxc.Lookup -> Conv, 23,200 bytes

The function has a body of standard operators, so that any runtime takes the model; one that folds constants is left
with the plain convolution. Exact twin: the model whose weights are the floats that the indices mean (store=floats).
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import snr
from ...ir.errors import BadOption
from ...ir.functions import OPSET
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report, register
from ..layers.linear import add_to_bias
from ..layers.stored import Layer, by_name, check_names, layers
from ..opset import raise_opset
from ..options import Range
from . import cluster_store as store
from . import unseen
from .cluster_codes import Codes, Settings, find_codes
from .cluster_entropy import entropy_of
from .cluster_importance import Inputs, importance, inputs, readable
from .cluster_kmeans import nearest
from .cluster_refit import bias_shift, refit
from .rounding import descend
from .tables import note_left

RAISE_TO = 13


@register("quant.cluster")
class QuantCluster(Pass):
    """Let the weights of convolutions and matrix products share 2^bits values, and store indices of that many bits.

    bits: of an index, 1 to 8. bits_by: bits of their own for layers by glob on node names, the last that fits counts; 0 leaves
    a layer alone. scope: one codebook for each layer, for each run of output channels of a layer, or for
    the whole model. channels: outputs that share a codebook when scope is channels. start: optimal (dynamic
    programming over the cells), linear, density, random or kmeans++; Lloyd's rounds follow; auto: optimal, or linear where a
    layer's inputs are guessed and that changes its outputs less. cells: intervals that
    the dynamic programme may cut at; where a layer has no more distinct weights the result is the optimum.
    importance: none (every weight counts alike), or hessian (by the variance of what it is multiplied by, from
    calibration data; the mean of the error goes into the bias). refit: move the values to where the outputs of the
    layer change least, given the indices, and correct the bias, from calibration data. fit: indices for which the outputs
    change least, the bias corrected, by calibration data where there are any, else by a guess of the inputs; or of the
    values next to the weights. entropy: at most so many bits for an index after Huffman coding, and then no such fit.
    zeros: weights that are zero stay zero. store: indices packed to bits, in bytes, or floats without an index
    (`onnxc pack` codes that smallest). skip: patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    bits: Annotated[int, Range(1, 8)] = 4
    bits_by: dict[str, int] | None = None
    scope: Literal["layer", "channels", "model"] = "layer"
    channels: Annotated[int, Range(1)] = 16
    start: Literal["auto", "optimal", "linear", "density", "random", "kmeans++"] = "auto"
    cells: Annotated[int, Range(16)] = 4096
    importance: Literal["none", "hessian"] = "none"
    refit: bool = False
    fit: Literal["outputs", "weights"] = "outputs"
    entropy: Annotated[float | None, Range(above=0)] = None
    zeros: bool = True
    store: Literal["bits", "bytes", "floats"] = "bits"
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.within("bits_by", all(0 <= b <= 8 for b in (self.bits_by or {}).values()), "0 to 8 each")
        if self.bits_by and self.scope == "model":
            raise BadOption("one codebook for the whole model has one number of bits", pass_name=self.name,
                            expected="bits_by or scope=model", found="both")  # fmt: skip
        if self.refit and self.scope != "layer":
            raise BadOption("a refit moves the values of one layer", pass_name=self.name, expected="scope=layer",
                            found=f"scope={self.scope}")  # fmt: skip
        self.needs_data = self.refit or self.importance == "hessian"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        if found and self.store != "floats" and model.opset < OPSET:
            report = Report()
            raise_opset(model, RAISE_TO, ctx, report, "unpacking bits needs that")
            found = layers(model, verify(model).analysis, self.skip, report)
        note_left(model, report)
        check_names(self.bits_by, found, self.name, "bits_by")
        found = [layer for layer in found if self._pays(layer, report)]
        if not found:
            return report
        analysis = verify(model).analysis
        outputs = self.fit == "outputs" and self.entropy is None
        reads = self.needs_data or (outputs and ctx.data is not None and not ctx.synthetic)
        able = readable(model, found, report) if reads else []
        h: dict[int, np.ndarray] = {}
        if self.importance == "hessian":
            together = self.scope == "model"
            h = {id(x): importance(x, seen, together) for x, seen in inputs(model, analysis, able, ctx)}
        if self.scope == "model":
            coded = self._whole(found, h, ctx)
        else:
            coded = {id(layer): self._alone(layer, h.get(id(layer)), ctx) for layer in ctx.each(found)}
        read = {id(layer) for layer in able}
        if outputs and len(able) < len(found):
            report.note("indices are fitted to a guess of what the layers read" + ", where no data say it" * bool(able))
            coded |= {id(x): self._guessed(x, coded[id(x)], ctx) for x in found if id(x) not in read}
        shifts = {}
        for layer, seen in inputs(model, analysis, able, ctx):
            book, indices = coded[id(layer)]
            if outputs:
                coded[id(layer)] = book, indices = book, self._settled(layer, book, indices, seen)
            if self.refit:
                book = refit(layer, book, indices, seen)
                coded[id(layer)] = book, indices
            shifts[id(layer)] = bias_shift(layer, book, indices, seen)
        self._write(model, found, coded, shifts, report)
        return report

    def _pays(self, layer: Layer, report: Report) -> bool:
        """Whether sharing could make the layer smaller at all: a codebook has at least two values."""
        if not self._bits(layer):
            report.refuse(layer.name, "its bits are 0")
            return False
        least = store.stored_size(layer, 1, np.empty((1, 2), layer.tensor.values.dtype))
        if self.store == "floats" or least < layer.tensor.values.nbytes:
            return True
        report.refuse(layer.name, f"a codebook does not pay for {layer.size} weights")
        return False

    def _bits(self, layer: Layer) -> int:
        return by_name(layer.name, self.bits, self.bits_by)

    def _settings(self, ctx: Context, bits: int, start: str = "") -> Settings:
        start = start or ("optimal" if self.start == "auto" else self.start)
        return Settings(1 << bits, start, self.cells, self.entropy, self.zeros, ctx.rng())

    def _alone(
        self, layer: Layer, h: np.ndarray | None, ctx: Context, start: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codebook [rows, values], indices in the common view) of one layer."""
        view = layer.view()
        rows = self._rows(layer)
        flat = view.reshape(rows, -1)
        importance = [None] * rows if h is None else h.reshape(rows, -1)
        codes = [
            find_codes([w], [i], self._settings(ctx, self._bits(layer), start))
            for w, i in zip(flat, importance, strict=True)
        ]
        book = store.table([c.values for c in codes], view.dtype)
        indices = [c.indices(w, i) for c, w, i in zip(codes, flat, importance, strict=True)]
        return book, np.stack(indices).reshape(view.shape)

    def _guessed(
        self, layer: Layer, first: tuple[np.ndarray, np.ndarray], ctx: Context
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codebook, indices) for which the layer's outputs change less, as far as its inputs can be guessed."""
        view, tried = layer.view(), [first]
        if self.start == "auto" and self.scope != "model":
            tried.append(self._alone(layer, None, ctx, "linear"))
        settled = []
        for book, indices in tried:
            runs = view.reshape(len(book), -1, *view.shape[2:])  # each row of the codebook has a run of outputs
            each = zip(runs, indices.reshape(runs.shape), map(np.unique, book), strict=True)
            found = np.stack([unseen.settle(layer, w, at, row, zeros=self.zeros) for w, at, row in each])
            found = found.reshape(view.shape)
            settled.append((unseen.error(layer, view - store.restore(found, book)), book, found))
        return min(settled, key=lambda one: one[0])[1:]

    def _settled(self, layer: Layer, book: np.ndarray, indices: np.ndarray, seen: Inputs) -> np.ndarray:
        """Indices for which the layer's outputs change less."""
        w, levels = layer.matrix(), [np.unique(row) for row in book]

        def snap(x: np.ndarray) -> np.ndarray:
            each = zip(x.reshape(len(book), -1), levels, strict=True)
            return np.stack([row[nearest(part, row)] for part, row in each]).reshape(x.shape)

        one, held = np.ones((*w.shape[:2], 1)), (w == 0) if self.zeros else None
        start = store.restore(indices, book).reshape(w.shape).astype(np.float64)
        values = descend(start, w, seen.covariance, one, 0, snap=snap, held=held).reshape(len(book), -1)
        found = [np.searchsorted(row, part) for part, row in zip(values, levels, strict=True)]
        return np.stack(found).astype(np.uint8).reshape(layer.view().shape)

    def _rows(self, layer: Layer) -> int:
        outputs = layer.view().shape[0] * layer.view().shape[1]
        if self.scope != "channels" or not store.by_outputs(layer):
            return 1
        run = max(n for n in range(1, min(self.channels, outputs) + 1) if outputs % n == 0)
        return outputs // run

    def _whole(self, found: list[Layer], h: dict[int, np.ndarray], ctx: Context) -> dict[int, tuple]:
        """The same for all layers together, by id: one codebook in the model."""
        views = [layer.view() for layer in found]
        hs: list[np.ndarray | None] = [None] * len(found)
        if h:  # layers that are not read count like the mean of the others
            level = float(np.mean([one.mean() for one in h.values()]))
            hs = [h.get(id(layer), np.full(view.shape, level)) for layer, view in zip(found, views, strict=True)]
        codes: Codes = find_codes(views, hs, self._settings(ctx, self.bits))
        book = store.table([codes.values], np.result_type(*views))
        return {id(x): (book, codes.indices(view, one)) for x, view, one in zip(found, views, hs, strict=True)}

    def _write(
        self, model: Model, found: list[Layer], coded: dict[int, tuple], shifts: dict[int, np.ndarray], report: Report
    ) -> None:
        shared: dict[np.dtype, gs.Constant] = {}
        size = bits = 0.0
        for layer in found:
            book, indices = coded[id(layer)]
            dtype = layer.tensor.values.dtype
            home = book.astype(dtype)
            width = 8 if self.store == "bytes" else store.width(book.shape[1])
            if self.scope == "model" and self.store != "floats":
                if dtype not in shared:
                    shared[dtype] = model.constant("codebook", home)
                home = shared[dtype]
            if self.store != "floats" and store.stored_size(layer, width, home) >= layer.tensor.values.nbytes:
                report.refuse(layer.name, f"{book.size} values do not pay for {layer.size} weights")
                continue
            values = store.restore(indices, book).astype(dtype)
            what, entropy = describe(layer, indices, book, values)
            size, bits = size + layer.size, bits + layer.size * entropy
            if id(layer) in shifts:
                add_to_bias(model, layer.nodes[0], shifts[id(layer)])
                what += ", bias corrected"
            if self.store == "floats":
                layer.store(values)
            else:
                store.share(model, layer, indices, home, width)
            report.edit(layer.name, what)
        if size:
            report.note(f"{int(size)} weights in {len(report.edits)} layers, {bits / size:.2f} bits of entropy each")


def describe(layer: Layer, indices: np.ndarray, book: np.ndarray, values: np.ndarray) -> tuple[str, float]:
    """What became of a layer, in words, and the entropy of its indices in bits."""
    entropy = entropy_of(np.bincount(indices.ravel(), minlength=2))
    rows = f" in {len(book)} codebooks" if len(book) > 1 else ""
    return (
        f"{layer.size} weights share {book.shape[1]} values{rows}, {entropy:.2f} bits of entropy, {snr(layer.view(), values)}",
        entropy,
    )
