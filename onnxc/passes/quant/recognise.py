"""quant.recognise: binary and few-bit networks as other tools write them, said in our functions and packed bits."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions, numbers
from ...ir.model import Model
from ...ir.qtype import dtype_bits
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report, register
from ..layers.capture import Stream
from ..layers.stored import PRODUCTS, layers
from ..opset import raise_opset
from ..options import Range
from . import qonnx_in, recognise_signs, recognise_steps, thresholds
from .few_bits import coded, pack

RAISE_TO = 13
SAMPLES = 256
"""Calibration samples in which a zero is looked for, at most."""


@register("quant.recognise")
class QuantRecognise(Pass):
    """Find binary and few-bit layers and store their weights as bits; what the model computes stays.

    1. Sign, Where(x >= 0, 1, -1), 2 * Cast(x >= 0) - 1, ...     ->  Binarize
    2. Div, Round, Clip, Mul; QuantizeLinear, DequantizeLinear   ->  Quantize
    3. Quant, BipolarQuant, Trunc of QONNX                       ->  the same, or a constant
    4. Conv -> BatchNormalization, Mul, ... [MaxPool] -> Binarize, on whole numbers  ->  Conv -> Binarize [MaxPool]
    5. weights of few values, DequantizeLinear of constants      ->  packed bits and a codebook

    zero: what becomes of operators that give 0 (or the lower level) for 0, where Binarize gives 1: they turn into
    Binarize if 0 never turns up in the data (data), always (plus), or are kept exact (keep). qdq: which pairs of
    QuantizeLinear and DequantizeLinear become Quantize, those of up to 4 bits (few), all, or none. bits: weights of at
    most 2^bits values are packed, 0 for none. thresholds: whether case 4 is done.
    """

    claim = Claim.EXACT
    requires = ("clean",)
    needs_data = True

    zero: Literal["data", "plus", "keep"] = "data"
    qdq: Literal["few", "all", "none"] = "few"
    bits: Annotated[int, Range(0, 8)] = 8
    thresholds: bool = True

    def __post_init__(self) -> None:
        self.needs_data = self.zero == "data"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        qonnx_in.read(model, ctx.verified, report)
        if model.opset < functions.OPSET and self._something(model, ctx):
            raise_opset(model, RAISE_TO, ctx, report, "the functions need that")
        self._signs(model, ctx, report)
        self._steps(model, report)
        model.drop_dead()
        if self.thresholds and any(functions.calls(n, "Binarize") for n in model.nodes):
            thresholds.fuse(model, verify(model), report)
        if self.bits and model.opset >= functions.OPSET:
            self._weights(model, report)
        _summary(model, report)
        return report

    def _something(self, model: Model, ctx: Context) -> bool:
        """Whether an old model has anything that would change."""
        analysis = ctx.verified.analysis
        return any(
            recognise_signs.step(model, n) or recognise_steps.uniform(model, n, analysis) for n in model.nodes
        ) or any(coded(layer, self.bits) for layer in layers(model, analysis, [], Report()) if self.bits)

    def _signs(self, model: Model, ctx: Context, report: Report) -> None:
        analysed = verify(model)
        found = [s for n in model.nodes if (s := recognise_signs.step(model, n)) is not None]
        inner = {id(t) for s in found for t in _between(s)}
        found = [s for s in found if id(s.node.outputs[0]) not in inner]
        odd = [s for s in found if analysed.types.get(s.x.name) != 1]
        for s in odd:
            report.refuse(s.node.name, "only float32 numbers are binarised")
        found = [s for s in found if all(s is not o for o in odd)]
        hit = self._hit(model, ctx, [s for s in found if s.kind != "up"])
        for s in found:
            if s.kind == "zero" and s.node.name in hit:
                report.refuse(s.node.name, hit[s.node.name])
                continue
            what = recognise_signs.write(model, s, exact=s.node.name in hit)
            report.edit(s.node.name, what)

    def _hit(self, model: Model, ctx: Context, steps: list[recognise_signs.Step]) -> dict[str, str]:
        """Steps whose threshold itself may turn up, by name, and why that is so."""
        if self.zero == "plus" or not steps:
            return {}
        if self.zero == "keep":
            return {s.node.name: "it keeps 0, as the option zero says" for s in steps}
        if ctx.runner is None or ctx.data is None:
            return {s.node.name: "it keeps 0, and there are no data to see whether 0 turns up" for s in steps}
        hit: dict[str, str] = {}
        names = sorted({s.x.name for s in steps})
        run = ctx.runner.prepare(model.lean(), names)
        for feeds in Stream(ctx, ctx.verified.analysis, names, SAMPLES):
            got = run(feeds)
            for s in steps:
                level = np.float32(0) if s.threshold is None else s.threshold
                count = int((got[s.x.name] == level).sum())
                if count:
                    hit.setdefault(s.node.name, f"it keeps 0, and 0 turned up {count} times in a batch")
        return hit

    def _steps(self, model: Model, report: Report) -> None:
        analysed = verify(model)
        for node in list(model.nodes):
            found = recognise_steps.uniform(model, node, analysed.analysis)
            if found is None or analysed.types.get(found.x.name) != 1 or not node.outputs:
                continue
            if node.op == "DequantizeLinear" and (self.qdq == "none" or (self.qdq == "few" and found.bits > 4)):
                continue
            if any(recognise_steps.uniform(model, r, analysed.analysis) is not None for r in node.outputs[0].outputs):
                continue  # its reader ends the same quantiser
            report.edit(node.name, recognise_steps.write(model, found))

    def _weights(self, model: Model, report: Report) -> None:
        stored = _dequantised(model) if self.qdq != "none" else {}
        for layer in layers(model, verify(model).analysis, [], Report()):
            what = pack(model, layer, self.bits)
            if what is not None:
                report.edit(layer.name, what)
            elif layer.tensor.name in stored:
                model.replace_uses(layer.tensor, stored[layer.tensor.name])
        model.drop_dead()


def _dequantised(model: Model) -> dict[str, gs.Variable]:
    """Let products read the floats of constants behind DequantizeLinear, where their integers need fewer bits than they
    have; returns what the products read before, by the name of the new constant."""
    before = {}
    for node in model.nodes:
        if not model.is_standard(node, *PRODUCTS) or len(node.inputs) < 2:
            continue
        w = node.inputs[1]
        made, held = recognise_signs.maker(model, w, "DequantizeLinear"), numbers.read(w)
        if (
            made is None
            or held is None
            or made.attrs.get("block_size", 0)
            or not all(isinstance(t, gs.Constant) for t in made.inputs)
        ):
            continue
        levels = len(np.unique(made.inputs[0].values))
        if (levels - 1).bit_length() >= dtype_bits(made.inputs[0].values.dtype) or len(w.outputs) != 1:
            continue
        floats = held.real()
        constant = model.constant(f"{w.name}_floats", floats)
        node.inputs[1] = constant
        before[constant.name] = w
    return before


def _summary(model: Model, report: Report) -> None:
    """Note how many products have few-bit inputs, and how many few-bit weights."""
    products = [n for n in model.nodes if model.is_standard(n, *PRODUCTS) and len(n.inputs) > 1]
    inputs = sum(thresholds.input_levels(n) is not None for n in products)
    weights = sum(bool(n.inputs[1].inputs) and functions.is_lookup(n.inputs[1].inputs[0]) for n in products)
    report.note(f"of {len(products)} products {inputs} read few-bit numbers, {weights} have weights in bits")


def _between(s: recognise_signs.Step) -> list:
    """Outputs of the nodes that a step swallows: a Sign inside of a Sign is no step of its own."""
    found, todo = [], list(s.node.inputs)
    while todo:
        t = todo.pop()
        if t is s.x or not t.inputs:
            continue
        found.append(t)
        todo += t.inputs[0].inputs
        if len(found) > 8:
            break
    return found
