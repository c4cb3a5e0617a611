"""quant.product: sub-vectors of weights that stand as codes into codebooks (Gong 2014), corrected on data (Wu 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.difference import snr
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report, register
from ..layers.inturn import InTurn
from ..layers.layout import TURNED
from ..layers.linear import Linear, add_to_bias, bias_home, linear
from ..layers.moments import MAX_COLUMNS, Moments, damped
from ..layers.stored import Layer, by_name, check_names, layers, unread
from ..opset import raise_opset
from ..options import Range
from . import product_fit, rounding, unseen
from .cluster_store import redirect, width
from .product_fit import Cut
from .refine import ENOUGH
from .tables import note_left

RAISE_TO = 13
DAMP = 0.01
"""Added to the diagonal of second moments as a share of its mean: codes leave larger errors than integers do."""
SAMPLES = 512


@register("quant.product")
class QuantProduct(Pass):
    """Let runs of inputs of a layer's weights share few sub-vectors (product quantisation: Gong 2014, Wu 2016).

        Conv w float [64, 64, 3, 3]  (subvectors=4, centroids=64)  ->  6-bit codes [64, 16, 3, 3] and float [16, 64, 4]
        -> ai.onnxc.ProductLookup -> Conv

    A weight [outputs, inputs, *kernel] is cut into parts of `subvectors` inputs; outputs and positions share a part's codebook.
    Layers go in order, each corrected for what those ahead of it have lost, its codes and centroids fitted to what it reads;
    without data (or for layers whose inputs are not read) to a guess of it. `compile` sums looked-up products where that is
    predicted to be faster. Exact twin: the model whose weights are the floats that the codes mean (store=floats).

    subvectors: inputs in a sub-vector, at most; the largest divisor of a layer's input channels is taken. centroids: of a
    codebook, at most. centroids_by: centroids of their own for layers by glob on node names, the last that fits counts; 0 leaves a
    layer alone. codebook: one for each part (product quantisation), or for the whole layer (vector quantisation).
    correct: fit so, and correct biases; else k-means of the sub-vectors is all. store: packed codes, or plain floats. skip:
    patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    subvectors: Annotated[int, Range(2, 64)] = 4
    centroids: Annotated[int, Range(2, 256)] = 64
    centroids_by: dict[str, int] | None = None
    codebook: Literal["part", "layer"] = "part"
    correct: bool = True
    store: Literal["bits", "floats"] = "bits"
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        many = (self.centroids_by or {}).values()
        self.within("centroids_by", all(n == 0 or 2 <= n <= 256 for n in many), "0, or 2 to 256, each")
        self.needs_data = self.correct

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        if found and self.store != "floats" and model.opset < functions.OPSET:
            report = Report()
            raise_opset(model, RAISE_TO, ctx, report, "unpacking bits needs that")
            found = layers(model, verify(model).analysis, self.skip, report)
        note_left(model, report)
        check_names(self.centroids_by, found, self.name, "centroids_by")
        found = [layer for layer in found if self._pays(layer, report)]
        if self.correct and ctx.synthetic and found:
            report.note("fitted to a guess of what the layers read: no data were given")
        able = _readable(model, found, report) if self.correct and not ctx.synthetic else {}
        seen = self._walk(model, able, ctx)
        for layer in ctx.each(found):
            self._code(model, layer, next(seen) if id(layer) in able else None, ctx, report)
        return report

    def _cut(self, layer: Layer) -> Cut:
        return Cut.of(layer.view().shape, self.subvectors)

    def _centroids(self, layer: Layer) -> int:
        return by_name(layer.name, self.centroids, self.centroids_by)

    def _pays(self, layer: Layer, report: Report) -> bool:
        cut, centroids = self._cut(layer), self._centroids(layer)
        if not centroids:
            report.refuse(layer.name, "its centroids are 0")
            return False
        if cut.length == 1:
            report.refuse(
                layer.name, f"its {layer.layout.channels} input channels have no part of 2 to {self.subvectors}"
            )
            return False
        size = self._size(layer, cut, centroids)
        if self.store == "bits" and size >= layer.tensor.values.nbytes:
            own = layer.tensor.values.nbytes
            report.refuse(layer.name, f"{centroids} centroids and codes take {size} bytes, its weights {own}")
            return False
        return True

    def _size(self, layer: Layer, cut: Cut, centroids: int) -> int:
        """Bytes of codes, codebooks and shape."""
        books = cut.parts if self.codebook == "part" else 1
        book = books * centroids * cut.length * layer.tensor.values.itemsize
        return -(-layer.size // cut.length // 8) * width(centroids) + book + 8 * layer.tensor.values.ndim

    def _walk(self, model: Model, able: dict[int, Linear], ctx: Context) -> Iterator[Moments]:
        """What each layer of `able` reads, as its turn comes."""
        if able:
            real = model.copy()
            nodes = {n.name: n for n in real.nodes}
            linears = [linear(real, nodes[x.node.name]) for x in able.values()]
            walk = InTurn(real, model, verify(real).analysis, [x for x in linears if x], ctx, SAMPLES, "inputs")
            for _ in able:
                yield walk.next()

    def _code(self, model: Model, layer: Layer, seen: Moments | None, ctx: Context, report: Report) -> None:
        view, cut, shared = layer.view(), self._cut(layer), self.codebook == "layer"
        many = self._centroids(layer)
        w = layer.matrix()
        fitted = seen is not None and seen.count >= ENOUGH * w.shape[2]
        if fitted and seen is not None:
            h, c, *_ = seen.around(centred=True)
            ridge = damped(h, DAMP)
            u = rounding.target(w, h, c, DAMP)
            codes, book = product_fit.corrected(cut.blocks(u), cut.moments(ridge), many, shared, ctx.rng())
        elif self.correct and layer.layout.columns <= MAX_COLUMNS:
            h = cut.moments(unseen.dense(layer))
            codes, book = product_fit.corrected(cut.blocks(w), h, many, shared, ctx.rng())
        else:
            codes, book = product_fit.plain(cut.blocks(w), many, shared, ctx.rng())
        book = book.astype(view.dtype)
        parts = codes.reshape(cut.groups * cut.outputs, cut.parts, cut.positions)
        real = functions.sub_vectors(parts, book).reshape(view.shape)
        what = (f"{layer.size} weights as {codes.size} codes of {cut.length} weights, {len(book)} "
                f"codebook{'s' * (len(book) > 1)} of {book.shape[1]}, {snr(view, real)}")  # fmt: skip
        if seen is not None:
            shift = np.einsum("gok,gk->go", w, seen.target)
            shift -= np.einsum("gok,gk->go", layer.layout.matrix(layer.layout.store(real, view.dtype)), seen.mean)
            add_to_bias(model, layer.nodes[0], shift.ravel())
            what += ", corrected on data" if fitted else ", bias corrected"
        if self.store == "floats":
            layer.store(real)
        else:
            _store(model, layer, parts, book)
        report.edit(layer.name, what)


def _readable(model: Model, found: list[Layer], report: Report) -> dict[int, Linear]:
    """The layers whose inputs can be read and that have a bias, by id; the others are noted."""
    able = {}
    for layer in found:
        one = linear(model, layer.nodes[0])
        reason = unread(layer)
        if len(layer.nodes) > 1:
            reason = f"its weight is read by {len(layer.nodes)} nodes"
        elif reason is None and (one is None or bias_home(model, layer.nodes[0]) is None):
            reason = f"inputs of this {layer.nodes[0].op} are not read, or it has no place for a bias"
        if reason is None and one is not None:
            able[id(layer)] = one
        else:
            report.note(f"{layer.name} is coded without data: {reason}")
    return able


def _store(model: Model, layer: Layer, codes: np.ndarray, book: np.ndarray) -> None:
    """Put a ProductLookup in the place of the weight. codes: [outputs of all groups, parts, positions]."""
    at, stem = layer.layout, layer.tensor.name
    kernel = at.stored[2:] if at.is_conv else ()
    home = (at.groups * at.outputs, at.channels, *kernel)
    codes = codes.reshape(*codes.shape[:2], *kernel)
    made = functions.product_lookup(model, stem, codes, book, width(book.shape[1]), home)
    shape, steps = home, []
    if at.order == TURNED:
        if at.groups > 1:
            shape = (at.groups, at.outputs, at.channels, *kernel)
            steps.append(("Reshape", shape))
        i = len(shape) - len(kernel) - 2
        order = [*range(i), i + 1, i, *range(i + 2, len(shape))]
        steps.append(("Transpose", tuple(order)))
        shape = tuple(shape[j] for j in order)
    if shape != at.stored:
        steps.append(("Reshape", at.stored))
    node = made.inputs[0]
    for op, how in steps:
        node = _after(model, node, stem, op, how)
    redirect(model, layer, node.outputs[0])


def _after(model: Model, node: gs.Node, stem: str, op: str, how: tuple[int, ...]) -> gs.Node:
    """A Reshape or Transpose of what `node` makes, put right behind it."""
    following = model.nodes[next(i for i, n in enumerate(model.nodes) if n is node) + 1]
    inputs, attrs = [node.outputs[0]], {}
    if op == "Reshape":
        inputs.append(model.constant(f"{stem}_extents", np.array(how, np.int64)))
    else:
        attrs = {"perm": list(how)}
    return model.node(op, inputs, name=f"{stem}_{op.lower()}", attrs=attrs, before=following)
