"""quant.binary: weights of one to a few bits, inputs of one to a few bits, without training."""

from __future__ import annotations

from dataclasses import field
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.analysis import Analysis
from ...ir.difference import decibels
from ...ir.errors import BadOption
from ...ir.model import Model
from ...ir.ops.window import explicit_pads
from ...ir.verify import verify
from ..base import Context, Pass, Report, register
from ..layers.layout import PRODUCTS
from ..layers.linear import Linear, bias_home, linear
from ..layers.moments import MAX_COLUMNS
from ..layers.stored import layers
from ..opset import raise_opset
from . import binary_fit as fit
from .binary_inputs import Inserter, Quantiser, calibrate
from .few_bits import pack

RAISE_TO = 13
BY_DATA = ("residual", "hashing", "admm", "proximal")
"""Ways to make weights that look at what a layer reads."""


@register("quant.binary", alias="binarize")
class QuantBinary(Pass):
    """Binary and few-bit products: weights of few levels stored as bits, inputs quantised by a function of ours.

    x, w -> Conv -> y      becomes      x -> Binarize (Quantize, ResidualBinarize) [-> Pad] -> Conv of packed bits -> y

    weights: bwn (sign and mean magnitude), ternary; near the outputs: proximal and hashing (one bit), residual
    (several planes), admm (levels 0, 1, 2, 4); or none. weight_bits: planes of residual; 2 or 3 for admm. inputs:
    sign, xnor (sign with the K map), horq (residual planes), hwgq, uniform, two_step (uniform; all inputs first,
    then the weights), or none. bits: of the inputs; planes of horq. sparsity: with hwgq or two_step, the share of a
    Gaussian's values that become 0, all above them being at least one step: 0.5 is the grid of Cai's HWGQ (0.538
    deviations at 2 bits), 0.75 Wang's sparse codes; else each takes the nearest level. dynamic: scales of horq
    measured on each sample. centre: subtract the mean ahead of signs: where inputs are never negative (auto),
    always, or never. first: whether the first product takes part. last: whether the last does. depthwise: whether
    depthwise convolutions do. pointwise: whether 1x1 convolutions do. bear: the SNR in dB that the outputs must
    keep when one layer alone is binarised, else it stays in float. correct: move biases by the mean error, and fit
    layers that stay in float to what reaches them. store: weights as packed bits, or as floats. skip: globs of
    nodes to leave alone.
    """

    weights: Literal["bwn", "residual", "ternary", "proximal", "hashing", "admm", "none"] = "hashing"
    weight_bits: int = 2
    inputs: Literal["sign", "xnor", "horq", "hwgq", "uniform", "two_step", "none"] = "sign"
    bits: int = 2
    sparsity: float | None = None
    dynamic: bool = False
    centre: Literal["auto", "always", "never"] = "auto"
    first: bool = False
    last: bool = False
    depthwise: bool = False
    pointwise: bool = False
    bear: float | None = None
    correct: bool = True
    store: Literal["bits", "floats"] = "bits"
    skip: list[str] = field(default_factory=list)

    requires = ("clean", "fuse")
    needs_data = True

    def __post_init__(self) -> None:
        self.within("bits", 1 <= self.bits <= 8, "1 to 8")
        self.within("sparsity", self.sparsity is None or 0.5 <= self.sparsity <= 0.99, "0.5 to 0.99")
        if self.sparsity is not None and self.inputs not in ("hwgq", "two_step"):
            raise BadOption("option sparsity needs inputs=hwgq or two_step", pass_name=self.name,
                            found=f"inputs={self.inputs}")  # fmt: skip
        allowed = {"residual": range(1, 5), "admm": (2, 3)}.get(self.weights, range(1, 9))
        self.within("weight_bits", self.weight_bits in allowed, f"one of {', '.join(map(str, allowed))}")
        if self.weights == "none" and self.inputs == "none":
            raise BadOption("neither weights nor inputs are to be binarised", pass_name=self.name)
        if self.dynamic and self.inputs != "horq":
            raise BadOption("option dynamic needs inputs=horq", pass_name=self.name, found=f"inputs={self.inputs}")
        if self.inputs == "xnor" and self.weights in BY_DATA:
            raise BadOption("the K map of xnor needs weights that are made by themselves", pass_name=self.name,
                            expected="bwn or ternary", found=f"weights={self.weights}")  # fmt: skip
        self.needs_data = self.inputs != "none" or self.weights in BY_DATA or self.correct or self.bear is not None

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        if not self._chosen(model, ctx.verified.analysis, Report()):
            self._chosen(model, ctx.verified.analysis, report)
            return report
        if model.opset < functions.OPSET:
            raise_opset(model, RAISE_TO, ctx, report, "the functions need that")
        analysis = verify(model).analysis
        chosen = self._chosen(model, analysis, report)
        if self.bear is not None:
            chosen = self._bearing(model, chosen, analysis, ctx, report)
        self._binarise(model, chosen, analysis, ctx, report)
        model.drop_dead()
        model.sort()
        if self.store == "bits" and self.weights != "none":
            self._pack(model, set(chosen), report)
        report.note(f"{len(chosen)} layers: weights {self._weight_text()}, inputs {self._input_text()}")
        return report

    # which layers

    def _chosen(self, model: Model, analysis: Analysis, report: Report) -> list[str]:
        """Names of the layers to binarise, in graph order; the others are refused."""
        found = [x for n in model.nodes if (x := linear(model, n)) is not None]
        edges = {x.node.name: "first" for x in found if from_input(model, x.node)} if not self.first else {}
        if found and not self.last:
            edges |= {x.node.name: "last" for x in found if to_output(model, x.node)}
        chosen = []
        for layer in found:
            why = self._refusal(layer, analysis, edges)
            if why:
                report.refuse(layer.node.name, why)
            else:
                chosen.append(layer.node.name)
        return chosen

    def _refusal(self, layer: Linear, analysis: Analysis, edges: dict[str, str]) -> str | None:
        node = layer.node
        if any(fnmatchcase(node.name, glob) for glob in self.skip):
            return "skipped"
        if node.name in edges:
            return f"the {edges[node.name]} layer stays in float unless {edges[node.name]}=true"
        w = layer.weight
        if w.dtype != np.float32 or not np.isfinite(w).all() or w.size == 0:
            return "its weight is no finite float32 array"
        if len(node.inputs[1].outputs) != 1:
            return "its weight has other readers"
        if layer.is_conv and w.shape[1] == 1 and layer.groups > 1 and not self.depthwise:
            return "a depthwise layer stays in float unless depthwise=true"
        if layer.is_conv and w[0, 0].size == 1 and not self.pointwise:
            return "a 1x1 layer stays in float unless pointwise=true"
        if self.inputs == "xnor" and layer.groups > 1:
            return "the K map is that of one group"
        if layer.is_conv and _pads(layer, analysis) is None:
            return "its padding follows an extent that is not known"
        if layer.columns > MAX_COLUMNS and self.needs_data:
            return f"each output has {layer.columns} inputs, and second moments are kept for at most {MAX_COLUMNS}"
        return None

    def _bearing(self, real: Model, chosen: list[str], analysis: Analysis, ctx: Context, report: Report) -> list[str]:
        """Those of which the outputs keep `bear` dB when each alone is binarised."""
        kept, judge = [], ctx.evaluate(real, fit.SAMPLES)
        for name in ctx.each(chosen):
            work = real.copy()
            self._binarise(work, [name], analysis, ctx, Report())
            snr = decibels(judge(work).noise)
            if self.bear is None or snr >= self.bear:
                kept.append(name)
            else:
                report.refuse(name, f"alone it leaves the outputs {snr:.1f} dB, less than {self.bear:g}")
        return kept

    # one layer after the other

    def _binarise(self, model: Model, chosen: list[str], analysis: Analysis, ctx: Context, report: Report) -> None:
        real = model.copy()
        behind = self._behind(real, chosen) if self.correct else []
        found = {n.name: x for n in real.nodes if n.name in {*chosen, *behind} and (x := linear(real, n)) is not None}
        twins = fit.Twins(real, model, analysis, list(found.values()), ctx) if self.needs_data else None
        if twins is not None:
            twins.hold()
        inserter = Inserter(model)
        rounds = ((True, False), (False, True)) if self.inputs == "two_step" else ((True, True),)
        homes: dict[str, tuple[Quantiser, tuple[gs.Node, int] | None]] = {}
        for quantise, make in rounds:
            if twins is not None:
                twins.forget()
            for name, layer in ctx.each(list(found.items())):
                done = linear(model, next(n for n in model.nodes if n.name == name))
                assert done is not None  # it was one ahead of its quantisers
                if quantise and name in chosen:
                    homes[name] = self._input(layer, done, analysis, inserter, twins)
                if make and name in chosen:
                    self._weights(model, layer, done, *homes[name], twins, report)
                elif make and twins is not None:
                    _refit(model, layer, done, twins, report)

    def _behind(self, real: Model, chosen: list[str]) -> list[str]:
        """Products that stay in float and read what a binarised one makes."""
        reached: set[int] = set()
        names = []
        for node in real.nodes:
            layer = linear(real, node)
            if any(id(t) in reached for t in node.inputs):
                reached.update(map(id, node.outputs))
                if layer is not None and node.name not in chosen and layer.columns <= MAX_COLUMNS:
                    if len(node.inputs[1].outputs) == 1 and layer.weight.dtype == np.float32:
                        names.append(node.name)
            if node.name in chosen:
                reached.update(map(id, node.outputs))
        return names

    def _input(
        self, layer: Linear, done: Linear, analysis: Analysis, inserter: Inserter, twins: fit.Twins | None
    ) -> tuple[Quantiser, tuple[gs.Node, int] | None]:
        """Quantise the layer's input; what by, and where its bias stands then."""
        if self.inputs == "none" or twins is None:  # a quantiser is set by what is seen
            return Quantiser("none"), inserter.insert(done, Quantiser("none"), None)
        centred = {"auto": None, "always": True, "never": False}[self.centre]
        seen = twins.values(done.node.inputs[0].name)
        q = calibrate(self.inputs, self.bits, self.dynamic, seen, centred, self.sparsity)
        return q, inserter.insert(done, q, _pads(layer, analysis) if layer.is_conv else None)

    def _weights(
        self, model: Model, layer: Linear, done: Linear, q: Quantiser, home: tuple[gs.Node, int] | None,
        twins: fit.Twins | None, report: Report,
    ) -> None:  # fmt: skip
        node, w = done.node, layer.matrix()
        done = Linear(node, layer.layout)
        free = self.correct and home is not None
        looks = twins is not None and q.kind != "xnor"
        found = twins.moments(layer, done) if twins is not None and looks else None
        made = fit.weights(w, self.weights, self.weight_bits, q.gain, found, free)
        new = layer.as_weight(made)
        if not np.array_equal(new, node.inputs[1].values):
            model.set_weight(node, 1, new)
        if self.correct and home is not None and twins is not None:
            name = layer.node.outputs[0].name
            shift = fit.mean_error(w, made, found) if found is not None else twins.shift(layer.node, name)
            fit.add_shift(model, node, home, shift)
        elif self.correct:
            report.note(f"{node.name} has no place for a bias: its mean error stays")
        report.edit(
            node.name, f"{node.op}: weights {self._weight_text()}, {q if q.kind != 'none' else 'input in float'}"
        )

    def _pack(self, model: Model, chosen: set[str], report: Report) -> None:
        for layer in layers(model, verify(model).analysis, [], Report()):
            if layer.name in chosen and pack(model, layer, 8) is None:
                report.refuse(layer.name, f"{layer.size} weights are too few for packed bits to pay")

    def _weight_text(self) -> str:
        return f"{self.weights} {self.weight_bits}" if self.weights in ("residual", "admm") else self.weights

    def _input_text(self) -> str:
        counted = self.inputs in ("horq", "hwgq", "uniform", "two_step")
        return f"{self.inputs} {self.bits}" if counted else self.inputs


def _refit(model: Model, layer: Linear, done: Linear, twins: fit.Twins, report: Report) -> None:
    """Fit a layer in float to what reaches it now."""
    home, w = bias_home(model, done.node), layer.matrix()
    found = twins.moments(layer, done)
    made = fit.weights(w, "none", 0, 1.0, found, home is not None)
    model.set_weight(done.node, 1, layer.as_weight(made))
    if home is not None:
        fit.add_shift(model, done.node, home, fit.mean_error(w, made, found))
    report.edit(done.node.name, f"{done.node.op}: in float, fitted to what reaches it")


def _pads(layer: Linear, analysis: Analysis) -> list[int] | None:
    node, kernel = layer.node, layer.weight.shape[2:]
    shape = analysis.shape(node.inputs[0].name)
    extents = shape[2:] if shape is not None else [None] * len(kernel)
    ones = [1] * len(kernel)
    return explicit_pads(node, extents, kernel, node.attrs.get("strides", ones), node.attrs.get("dilations", ones))


def from_input(model: Model, node: gs.Node) -> bool:
    """Whether no other product stands between a graph input and the layer."""
    return any(isinstance(t, gs.Variable) and not t.inputs for t in _reach(node.inputs, lambda t: t.inputs))


def to_output(model: Model, node: gs.Node) -> bool:
    """Whether no other product stands between the layer and a graph output."""
    return any(model.is_output(t) for t in _reach(node.outputs, lambda t: t.outputs, forward=True))


def _reach(start, neighbours, forward: bool = False) -> list:
    """Tensors that are reached from `start` without passing a product."""
    todo, seen = list(start), {}
    while todo:
        t = todo.pop()
        if id(t) in seen or isinstance(t, gs.Constant):
            continue
        seen[id(t)] = t
        for node in neighbours(t):
            if node.op not in PRODUCTS:
                todo += node.outputs if forward else node.inputs
    return list(seen.values())
