"""quant.int8: static 8-bit quantisation in QDQ form, calibrated on data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import decibels
from ...ir.errors import BadOption, Unsupported
from ...ir.model import Model
from ...ir.qtype import QType
from ...ir.verify import verify
from ..base import Context, Idle, Pass, Report, register
from ..layers.layout import RECURRENT
from ..layers.linear import add_to_bias
from ..opset import raise_opset
from ..options import Range
from . import products
from .affine import affine, parameters
from .entropy import entropy
from .fitted import Fitted, fit, requests
from .joined import balance
from .mixed import FLOAT, Candidate, candidates, choose
from .placement import KNOWN, PRODUCTS, Placement, place
from .qdq import BY_AXIS, Writer
from .qoperator import convert
from .ranges import CALIBRATORS, Statistics, percentile
from .recurrent import quantise_recurrent
from .saturation import EVERYTHING, distinguished
from .tables import note_left
from .tight import tighten
from .widen import shorten, widen

OLDEST = 10
"""The first opset with QuantizeLinear and DequantizeLinear."""
SLOW = ("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Elu", "Gelu")
FITTED = ("nearest", "seqmse", "gptq", "adaptive", "adaround")
SAMPLES, TRIES, LEAST_STEP = 256, 24, 0.25
"""Samples that the ratio is measured on; how often, at most; by how many decibels more is asked for each time, at least."""
OTHERS = ("percentile", "mse")
NOISY, LOOK = 20.0, 64
"""Decibels of the outputs, on so many samples, below which other ranges are tried."""


@register("quant.int8", alias="quant")
class QuantInt8(Pass):
    """Store weights as int8 and let whole chains of operators run on 8-bit integers (Jacob 2018; QDQ form of ONNX).

    Before -> after, Q and D for QuantizeLinear and DequantizeLinear:

    1. x, w, b -> Conv -> Relu -> y     ->  Q D(x), D(int8 w by channel), D(int32 b) -> Conv -> Relu -> Q D -> y
    2. x -> Gemm -> float operator      ->  Q D(x), D(w), D(b) -> Gemm -> float operator; likewise ConvTranspose, and MatMul with
       the vector that an Add behind it adds
    3. two chains -> Add (Mul, AveragePool, HardSwish, ...) -> product  ->  the same with Q D behind it
    4. chain -> MaxPool (Reshape, Transpose, Concat, ...) -> product    ->  the same, one scale on both sides

    Weights are symmetric; activations uint8 with a zero point, or int8 without. Bias scales are the products of the
    scales of input and weight. Everything else stays in float, and the report says what.

    bits: of weights, 2 to 8. store: fewer than 8 bits one to a byte (bytes: any runtime takes them, and the archive codes them
    best), or packed to so many bits, which a function unpacks at load (bits). auto: each product has its
    own, or stays in float, by what it alone does to the outputs. mean_bits: with auto, of a weight, on average. snr:
    with auto, the least signal-to-noise ratio of the outputs in dB, measured on the data; products stay in float for
    it. per_channel: a scale for each output channel. symmetric: activations int8 with zero point 0, for accelerators
    that want that; ONNX Runtime then keeps convolutions with a Relu in float. calibration: how a range follows from
    the values seen: all (minmax), all but a few at the ends (percentile), least squared error (mse), or least relative
    entropy (entropy); auto is minmax, but where that leaves the outputs of eight-bit weights below 20 dB on the data, what leaves them
    nearest there of minmax, percentile and mse. percentile: the share kept, in percent, 99.999 by default. rounding: of weights,
    each by itself
    (nearest), or so that a layer's outputs change least: gptq hands each error on to the weights that follow;
    adaptive also makes up for what layers ahead have lost, and then moves weight by weight; adaround learns up or down of all weights
    of a layer (Nagel 2020); seqmse rounds to nearest on searched steps; auto tries all of them and keeps the one whose outputs
    are nearest on the data. bias_correction: let
    biases take the mean error of each output, seen on data, product by product, so that each takes back what those
    ahead have lost; biases stay where the outputs are nearer without (gptq and adaptive always correct).
    form: qdq, or qoperator: QLinearConv, QLinearMatMul and MatMulInteger in the place of what they compute, for runtimes
    that do not fuse QDQ themselves (see `qoperator`).
    recurrent: an LSTM's input and state in 8 bits as they come (dynamic: com.microsoft.DynamicQuantizeLSTM), or weights alone
    stored in 8 bits; GRU and RNN always the latter.
    ops: operators to quantise; all that are known by default. skip: globs of names of nodes to leave in float.

    Networks of float16 are computed with in float32, between Casts; what stays in float is stored in float16 still.
    Models older than opset 13 are raised to it; where that fails, opsets 10 to 12 get one scale per weight.
    """

    bits: Annotated[int | Literal["auto"], Range(2, 8)] = 8
    mean_bits: Annotated[float | None, Range(3, 8)] = None
    snr: float | None = None
    per_channel: bool = True
    symmetric: bool = False
    calibration: Literal["auto", "minmax", "percentile", "entropy", "mse"] = "auto"
    percentile: Annotated[float | None, Range(above=50, high=100)] = None
    rounding: Literal["nearest", "seqmse", "gptq", "adaptive", "adaround", "auto"] = "nearest"
    bias_correction: bool = False
    form: Literal["qdq", "qoperator"] = "qdq"
    store: Literal["bytes", "bits"] = "bytes"
    recurrent: Literal["dynamic", "weights"] = "dynamic"
    ops: list[str] | str | None = None
    skip: list[str] | str | None = None

    requires = ("clean", "fuse")
    bodies = True
    needs_data = True
    _apart = frozenset[str]()  # Concats that stay in float: `joined`

    def __post_init__(self):
        if (self.bits == "auto") != (self.mean_bits is not None or self.snr is not None):
            raise BadOption("bits=auto and a bound, mean_bits or snr, need each other", pass_name=self.name)
        if self.percentile is not None and self.calibration != "percentile":
            raise BadOption("option percentile needs calibration=percentile", pass_name=self.name)
        unknown = sorted(set(_listed(self.ops)) - set(KNOWN) - set(RECURRENT))
        if unknown:
            known = f"some of {', '.join((*KNOWN, *RECURRENT))}"
            raise BadOption("option ops does not fit", pass_name=self.name, expected=known, found=unknown[0])

    def run(self, model: Model, ctx: Context) -> Report:
        given, told = model.copy(), Report()
        types, wide = widen(model, ctx.verified.types, told)
        report = self._run(model, ctx, types)
        if wide and report.edits:
            shorten(model, wide)
            report.notes[:0] = told.notes
        elif wide:
            model.adopt(given)
        _note_slow(model, report)
        if self.store == "bits" and report.edits:
            stored = [t for t in model.constants().values() if t.values.dtype == np.int8 and t.values.ndim > 1]
            before, after = tighten(model, stored)
            if before:
                report.note(f"integers packed: {after} bytes, one to a byte {before}")
        return report

    def _run(self, model: Model, ctx: Context, types: dict[str, int]) -> Report:
        report = Report()
        self._check_skip(model)
        chosen = self._products(model, types, report)
        if chosen or any(model.is_standard(n, *RECURRENT) for n in model.nodes):
            self._raise(model, ctx, report)
        real = model.copy()
        quantise_recurrent(model, self._lets, self.recurrent == "dynamic", report)
        if not chosen:
            if not report.edits:
                report.note(Idle("nothing to quantise: no convolution or matrix product that could be"))
            return report
        self._apart = frozenset(balance(model, ctx, self._lets, 8 if self.bits == "auto" else self.bits, report))
        if self.bits != "auto":
            self._quantise(model, ctx, chosen, dict.fromkeys(chosen, self.bits), report)
            return report
        plan = self._place(model, chosen)
        found = candidates(model, _inputs(model, plan, self._calibrate(model, ctx, plan, Report())), ctx)
        if self.snr is None:
            self._quantise(model, ctx, chosen, choose(found, self.mean_bits, None), report)
        else:
            self._until(model, ctx, real, chosen, found, report)
        return report

    def _until(
        self, model: Model, ctx: Context, real: Model, chosen: set[str], found: list[Candidate], report: Report
    ) -> None:
        """Leave products in float until the outputs, measured beside those of `real`, have the ratio that was asked for."""
        assert self.snr is not None
        aim, reached, judge = self.snr, -np.inf, ctx.evaluate(real, SAMPLES)
        last: dict[str, int] = {}
        for _ in range(TRIES):
            bits = choose(found, self.mean_bits, aim)
            if bits == last:
                aim += LEAST_STEP  # so small a step leaves no further product in float
                continue
            last, work, said = bits, model.copy(), Report()
            self._quantise(work, ctx, chosen, bits, said)
            reached = decibels(judge(work).noise)
            if reached >= self.snr:
                model.adopt(work)
                report.take(said)
                report.note(f"outputs on the data: {reached:.1f} dB")
                return
            aim += max(self.snr - reached, LEAST_STEP)
        raise BadOption("the signal-to-noise ratio cannot be met", pass_name=self.name, expected=f"{self.snr:g} dB",
                        found=f"{reached:.1f} dB", remedy="ask for less")  # fmt: skip

    def _place(self, model: Model, chosen: set[str]) -> Placement:
        return place(model, lambda node: node.name in chosen if node.op in PRODUCTS else self._lets(node))

    def _quantise(self, model: Model, ctx: Context, chosen: set[str], bits: dict[str, int], report: Report) -> None:
        """Write `model` with so many bits for each product; FLOAT leaves it alone."""
        for name in (name for name, b in bits.items() if b == FLOAT):
            report.refuse(name, "stays in float for the sake of snr")
        plan = self._place(model, {name for name in chosen if bits[name] != FLOAT})
        given, told = model.copy(), Report()
        quantisers = self._calibrate(model, ctx, plan, told)
        self._best(model, ctx, plan, quantisers, bits, told)
        if self.calibration == "auto" and self.bits == 8 and ctx.evaluator is not None and not ctx.synthetic:
            told = self._less_noise(model, given, ctx, plan, bits, told)
        report.take(told)
        if self.form == "qoperator":
            convert(model, report)

    def _less_noise(
        self, model: Model, given: Model, ctx: Context, plan: Placement, bits: dict[str, int], told: Report
    ) -> Report:
        """Where the outputs are noisy, write the ranges that leave the least noise in them. told: of what `model` is now."""
        judge = ctx.evaluate(given, LOOK)
        found = {"minmax": (decibels(judge(model).noise), model.copy(), told)}
        if found["minmax"][0] >= NOISY:
            return told
        seen = self._look(given, ctx, plan, True)
        for how in OTHERS:
            work, said = given.copy(), Report()
            self._best(work, ctx, plan, self._ranges(given, plan, seen, how, said), bits, said)
            found[how] = decibels(judge(work).noise), work, said
        best = max(found, key=lambda how: found[how][0])
        ratios = ", ".join(f"{how} {db:.1f}" for how, (db, *_) in found.items())
        _, work, said = found[best]
        said.note(f"calibration={best}, as outputs on the data are below {NOISY:g} dB: {ratios}")
        model.adopt(work)
        return said

    def _tried(self, measured: bool) -> list[tuple[str, bool]]:
        """(rounding, whether biases are corrected) of what is tried; one where outputs are not measured, as in bodies."""
        if self.rounding == "auto":
            return [("nearest", False), *((how, True) for how in FITTED)] if measured else [("gptq", True)]
        if self.bias_correction and self.rounding == "nearest" and measured:
            return [("nearest", False), ("nearest", True)]
        return [(self.rounding, self.bias_correction)]

    def _best(
        self, model: Model, ctx: Context, plan: Placement, quantisers: dict[str, QType], bits: dict, report: Report
    ) -> None:
        """Write what leaves the least noise in the outputs on the data, of what is tried."""
        tried = self._tried(ctx.evaluator is not None)
        if len(tried) == 1:
            self._write(model, ctx, plan, quantisers, bits, report, *tried[0])
            return
        judge, found = ctx.evaluate(model.copy(), SAMPLES), []
        for how, correct in tried:
            work, told = model.copy(), Report()
            self._write(work, ctx, plan, quantisers, bits, told, how, correct)
            found.append((decibels(judge(work).noise), work, told, how if correct or len(tried) > 2 else "as they are"))
        best = max(found, key=lambda one: one[0])
        if self.rounding == "auto":
            rest = ", ".join(f"{name if told is not found[0][2] else 'plain'} {db:.1f}" for db, _, told, name in found)
            best[2].note(f"rounding={best[3]}; outputs on the data, in dB: {rest}")
        elif best is found[0]:
            best[2].note(
                f"biases stay: corrected, the outputs on the data have {found[1][0]:.1f} dB, as they are {best[0]:.1f}"
            )
        model.adopt(best[1])
        report.take(best[2])

    def _products(self, model: Model, types: dict[str, int], report: Report) -> set[str]:
        """The names of the products to quantise; the others are refused."""
        chosen = set()
        for node in model.nodes:
            if model.is_standard(node, *PRODUCTS):
                why = products.refusal(node, types) if self._lets(node) else "left out by ops or skip"
                if why is None:
                    chosen.add(node.name)
                else:
                    report.refuse(node.name, f"{node.op} stays in float: {why}")
        return chosen

    def _lets(self, node: gs.Node) -> bool:
        ops = _listed(self.ops)
        return (
            (not ops or node.op in ops)
            and node.name not in self._apart
            and not any(fnmatchcase(node.name, glob) for glob in _listed(self.skip))
        )

    def _check_skip(self, model: Model) -> None:
        for glob in _listed(self.skip):
            if not any(fnmatchcase(n.name, glob) for n in model.nodes):
                raise BadOption("option skip names no node", pass_name=self.name, found=glob)

    def _raise(self, model: Model, ctx: Context, report: Report) -> None:
        try:
            raise_opset(model, BY_AXIS, ctx, report, "scales by channel need that")
        except Unsupported as e:
            if model.opset < OLDEST:
                raise
            report.note(f"one scale per weight: {e.what}")

    def _calibrate(self, model: Model, ctx: Context, plan: Placement, report: Report) -> dict[str, QType]:
        """One pass over the data; a quantiser for each group of tensors."""
        how = "minmax" if self.calibration == "auto" else self.calibration
        return self._ranges(model, plan, self._look(model, ctx, plan, how != "minmax"), how, report)

    def _look(self, model: Model, ctx: Context, plan: Placement, histogram: bool) -> dict[str, Statistics]:
        """What each group of tensors holds on the data."""
        seen = {group: Statistics(histogram=histogram) for group in plan.sources}
        names = list(dict.fromkeys(name for sources in plan.sources.values() for name in sources))
        for batch in ctx.tensors(model, names):
            for group, sources in plan.sources.items():
                for name in sources:
                    seen[group].add(batch[name])
        return seen

    def _ranges(
        self, model: Model, plan: Placement, seen: dict[str, Statistics], how: str, report: Report
    ) -> dict[str, QType]:
        """A quantiser for each group of tensors, by such a calibration."""
        calibrator = entropy if how == "entropy" else CALIBRATORS[how]
        if self.percentile is not None:
            calibrator = partial(percentile, share=self.percentile)
        quantisers, tensors = {}, model.tensors()
        for group, statistics in seen.items():
            if statistics.odd:
                report.note(f"{group} held {statistics.odd} values that are not finite: left out of its range")
            least, most = distinguished(model, tensors[group]) if plan.sources[group] == [group] else EVERYTHING
            least, most = min(least, 0.0), max(most, 0.0)
            low, high = calibrator(statistics.within(least, most), 254 if self.symmetric else 255)
            low, high = max(low, least), min(high, most)
            quantisers[group] = affine(low, high, symmetric=self.symmetric)
        return quantisers

    def _write(
        self,
        model: Model,
        ctx: Context,
        plan: Placement,
        quantisers: dict[str, QType],
        bits: dict,
        report: Report,
        how: str,
        correct: bool,
    ) -> None:
        writer, real = Writer(model, sums=self.form == "qdq"), model.copy()
        nodes = {n.name: n for n in model.nodes}
        kind = "int8" if self.symmetric else "uint8"
        reads = {name: nodes[name].inputs[0].name for name in plan.nodes}
        tensors = model.tensors()
        for name in plan.tensors:
            group = plan.group[name]
            writer.activation(tensors[name], group, quantisers[group], None if name in plan.whole else set(plan.nodes))
        model.sort()
        inputs = _inputs(real, plan, quantisers)
        said = self._weights(model, real, ctx, writer, inputs, bits, report, how, correct)
        for name, role in plan.nodes.items():
            node = nodes[name]
            if node.op == "Sum":
                node.op = "Add"  # of two: the same, and there is a kernel for it
            if role == "product":
                report.edit(name, f"{node.op}: {said[name]}, input {reads[name]} to {kind}")
            else:
                shared = ", scale shared with its output" if role == "mover" else ""
                report.edit(name, f"{node.op}: reads {kind}{shared}")
        model.sort()
        _note_rest(model, plan, set(nodes), report)

    def _weights(
        self,
        model: Model,
        real: Model,
        ctx: Context,
        writer: Writer,
        inputs: dict[str, QType],
        bits: dict,
        report: Report,
        how: str,
        correct: bool,
    ) -> dict[str, str]:
        """Write the products' integers; name -> what was done."""
        nodes, said = {n.name: n for n in model.nodes}, {}

        def write(name: str, found: Fitted | None = None) -> None:
            p = products.read(nodes[name])
            said[name] = writer.product(p, parameters(inputs[name])[0], bits[name], self.per_channel, found)

        asked: list = []
        if how != "nearest" or correct:
            per_channel = self.per_channel and model.opset >= BY_AXIS
            wanted = {name: (q, bits[name]) for name, q in inputs.items()}
            asked, refused = requests(real, wanted, per_channel)
            for name, why in refused.items():
                report.note(f"{name} is rounded to nearest: {why}")
        fitted = {r.layer.node.name for r in asked}
        for name in inputs:
            if name not in fitted:
                write(name)
        model.sort()
        each = fit(real, model, asked, how, ctx) if asked else ()
        for (name, found), _ in zip(each, ctx.each(asked)):
            if nodes[name].op == "MatMul" and found.bias is not None:
                add_to_bias(model, nodes[name], found.bias)
            write(name, found)
            model.sort()
        return said


def _inputs(model: Model, plan: Placement, quantisers: dict[str, QType]) -> dict[str, QType]:
    """Of each product the quantiser of what it reads."""
    nodes = {n.name: n for n in model.nodes}
    chosen = [name for name, role in plan.nodes.items() if role == "product"]
    return {name: quantisers[plan.group[nodes[name].inputs[0].name]] for name in chosen}


def _note_rest(model: Model, plan: Placement, old: set[str], report: Report) -> None:
    """Say which operators on float tensors stayed as they were."""
    types = verify(model).types
    # told by themselves, or nothing that could be in integers
    known = (*PRODUCTS, *RECURRENT, "DynamicQuantizeLSTM", "DequantizeLinear", "If", "Loop", "Scan")
    rest = Counter(
        node.op if model.is_standard(node) else f"{node.domain}.{node.op}"
        for node in model.nodes
        if node.name in old and node.name not in plan.nodes and node.name not in plan.folded and node.op not in known
        and any(types.get(t.name) in (1, 10, 11, 16) for t in node.outputs)
    )  # fmt: skip
    note_left(model, report)
    if rest:
        report.note("left in float: " + ", ".join(f"{op} ({n})" for op, n in sorted(rest.items())))


def _listed(value: Iterable[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _note_slow(model: Model, report: Report) -> None:
    """Name the activations between integers for which ONNX Runtime's kernels are no faster than those of floats."""
    found = Counter(
        n.op for n in model.nodes
        if model.is_standard(n, *SLOW) and n.inputs[0].inputs and n.inputs[0].inputs[0].op == "DequantizeLinear"
    )  # fmt: skip
    if found:
        names = ", ".join(f"{op} ({n})" for op, n in sorted(found.items()))
        report.note(f"{names}: between integers, which may take ONNX Runtime longer than floats; see --time, skip=")
