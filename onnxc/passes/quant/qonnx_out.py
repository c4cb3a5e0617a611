"""quant.qonnx: a few-bit model in the operators of QONNX, for tools that read these (FINN, hls4ml, qonnx)."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions, qonnx
from ...ir.errors import Unsupported
from ...ir.model import DOMAIN, Model
from ..base import Claim, Context, Pass, Report, register
from .few_bits import integers

TARGET = "qonnx.custom_op.general"
MOST = 127
"""Largest whole number of a weight that is written as Quant: of 8 bits."""


@register("quant.qonnx")
class QuantQonnx(Pass):
    """Write quantisers and few-bit weights as Quant and BipolarQuant of QONNX, with bodies so that any runtime runs them.

    1. Binarize(x)                        ->  BipolarQuant(x, 1); with a Mul by a constant behind it  ->  BipolarQuant(x, c)
    2. Quantize(x, s, low, high)          ->  Quant(x, s, 0, bits), where low and high are those of a width
    3. ResidualBinarize(x, s)             ->  BipolarQuant, Sub, BipolarQuant, ..., Add
    4. Lookup of +-s for each output      ->  BipolarQuant(w, s); of whole numbers times s -> Quant(w, s, 0, bits)
    5. any other Lookup                   ->  its floats

    QONNX stores weights as floats in front of their quantiser, so the file grows.
    """

    claim = Claim.EXACT
    requires = ("clean",)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        rewrite = {"Binarize": _binarize, "Quantize": _quantize, "ResidualBinarize": _residual, "Lookup": _weight,
                   "ProductLookup": _floats}  # fmt: skip
        for node in [n for n in model.nodes if functions.calls(n, *rewrite)]:
            if model.opset < qonnx.OPSET:
                raise Unsupported(
                    "QONNX has no bodies there", pass_name=self.name, expected=f"opset {qonnx.OPSET} or newer",
                    found=f"opset {model.opset}", remedy="raise the model's opset first",
                )  # fmt: skip
            what = rewrite[node.op](model, node)
            if what.startswith("!"):
                report.refuse(node.name, what[1:])
            else:
                report.edit(node.name, what)
        model.drop_dead()
        used = {(n.domain, n.op) for n in model.nodes}
        for key in [k for k in model.functions if k[0] == DOMAIN and k not in used]:
            del model.functions[key]
        qonnx.attach(model)
        return report


def _number(model: Model, node: gs.Node, stem: str, value) -> gs.Constant:
    return model.constant(f"{node.name}_{stem}", np.asarray(value, np.float32))


def _bipolar(model: Model, x, scale, before: gs.Node, stem: str) -> gs.Variable:
    return model.node("BipolarQuant", [x, scale], domain=TARGET, name=f"{stem}_bipolar", before=before).outputs[0]


def _quant(model: Model, node: gs.Node, x, scale, bits: int, signed: bool, narrow: bool) -> gs.Variable:
    inputs = [x, scale, _number(model, node, "zero", 0), _number(model, node, "bits", bits)]
    attrs = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
    return model.node("Quant", inputs, attrs=attrs, domain=TARGET, name=f"{node.name}_quant", before=node).outputs[0]


def _binarize(model: Model, node: gs.Node) -> str:
    out, scale, end = node.outputs[0], _number(model, node, "scale", 1), node
    reader = out.outputs[0] if len(out.outputs) == 1 and not model.is_output(out) else None
    if reader is not None and model.is_standard(reader, "Mul"):
        factor = next((t for t in reader.inputs if t is not out), None)
        if isinstance(factor, gs.Constant) and factor.values.dtype == np.float32 and (factor.values > 0).all():
            scale, end = factor, reader
    made = _bipolar(model, node.inputs[0], scale, node, node.name)
    model.bypass(end, made)
    return "Binarize becomes BipolarQuant"


def _quantize(model: Model, node: gs.Node) -> str:
    x, scale, *bounds = node.inputs
    if not all(isinstance(t, gs.Constant) for t in bounds):
        return "!its bounds are computed"
    low, high = (float(t.values.item()) for t in bounds)
    for bits, signed, narrow in itertools.product(range(1, 33), (False, True), (False, True)):
        if qonnx.levels(bits, signed, narrow) == (low, high) and (bits > 1 or not signed):
            model.bypass(node, _quant(model, node, x, scale, bits, signed, narrow))
            return f"Quantize becomes Quant of {bits} bits"
    return f"!no width has the levels {low:g} to {high:g}"


def _residual(model: Model, node: gs.Node) -> str:
    left, scales = node.inputs
    if not isinstance(scales, gs.Constant):
        return "!its scales are computed"
    total = None
    for k, s in enumerate(scales.values):
        part = _bipolar(model, left, _number(model, node, f"scale{k}", s), node, f"{node.name}_{k}")
        total = part if total is None else model.node("Add", [total, part], before=node).outputs[0]
        if k + 1 < len(scales.values):
            left = model.node("Sub", [left, part], before=node).outputs[0]
    model.bypass(node, total)
    return f"ResidualBinarize becomes {len(scales.values)} BipolarQuant"


def _floats(model: Model, node: gs.Node) -> str:
    if not functions.is_lookup(node):
        return "!its parts are no constants"
    w = functions.weight(node)
    model.bypass(node, model.constant(f"{node.outputs[0].name.removesuffix('_shared')}_floats", w))
    return f"its {w.size} floats"


def _weight(model: Model, node: gs.Node) -> str:
    if not functions.is_lookup(node):
        return "!its parts are no constants"
    w = functions.weight(node)
    rows = w.reshape(len(node.inputs[1].values), -1) if w.dtype == np.float32 else None
    parts = integers(rows, MOST) if rows is not None else None
    stem = node.outputs[0].name.removesuffix("_shared")
    stored = model.constant(f"{stem}_floats", w)
    if rows is None or parts is None or len(rows) not in (1, w.shape[0]):
        model.bypass(node, stored)
        return f"its {w.size} floats"
    exact = (_exact_scale(real, whole) for real, whole in zip(rows, parts[1], strict=True))
    found = [scale for scale in exact if scale is not None]
    if len(found) < len(rows):
        model.bypass(node, stored)
        return f"its {w.size} floats: no scale gives them exactly"
    scale = _number(model, node, "scale", np.reshape(found, (-1, *[1] * (w.ndim - 1))) if len(rows) > 1 else found[0])
    if np.abs(parts[1]).min(initial=1) == 1 == np.abs(parts[1]).max(initial=1):
        made, bits = _bipolar(model, stored, scale, node, node.name), 1
    else:
        bits = max(2, int(np.abs(parts[1]).max()).bit_length() + 1)
        made = _quant(model, node, stored, scale, bits, True, True)
    model.bypass(node, made)
    return f"{w.size} weights become {'BipolarQuant' if bits == 1 else f'Quant of {bits} bits'}"


def _exact_scale(real: np.ndarray, whole: np.ndarray) -> np.float32 | None:
    """The scale, among those that single weights tell, that gives every weight of a row to the last bit."""
    tell = whole != 0
    for scale in np.unique((real[tell] / whole[tell]).astype(np.float32)):
        if np.array_equal(whole.astype(np.float32) * scale, real):
            return scale
    return None if tell.any() else np.float32(1)
