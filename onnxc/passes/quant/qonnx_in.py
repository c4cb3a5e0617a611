"""QONNX read: Quant, BipolarQuant and Trunc become Quantize and Binarize, or constants where what they quantise is one.

    BipolarQuant(x, s)                     ->  Mul(Binarize(x), s)
    Quant(x, s, 0, bits), halves to even   ->  Quantize(x, s, low, high)
    Quant(x, s, z, bits), halves to even   ->  Mul(Sub(Quantize(Add(Div(x, s), z), 1, low, high), z), s)
    Quant that rounds otherwise            ->  Div, Add, Clip, Ceil, Floor, ..., Sub, Mul
    Quant, Trunc of constants              ->  their numbers

A Trunc of activations keeps its body.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions, qonnx
from ...ir.model import Model
from ...ir.verify import Verified
from ..base import Report

HALF_EVEN = ("ROUND", "HALF_EVEN")


def read(model: Model, verified: Verified, report: Report) -> int:
    """Rewrite every quantiser of QONNX that can be; the others are refused. Returns how many were."""
    done = 0
    for node in [n for n in model.nodes if qonnx.is_quantiser(n)]:
        what = _constant(model, node) or _activation(model, node, verified)
        if what.startswith("!"):
            report.refuse(node.name, what[1:])
        else:
            report.edit(node.name, what)
            done += 1
    used = {(n.domain, n.op) for n in model.nodes}
    for key in [k for k in model.functions if k[0] in qonnx.DOMAINS and k not in used]:
        del model.functions[key]
    left = {domain for domain, _ in used}
    for domain in qonnx.DOMAINS:
        if domain not in left:
            model.opsets.pop(domain, None)
    return done


def _constant(model: Model, node: gs.Node) -> str | None:
    if not all(isinstance(t, gs.Constant) for t in node.inputs):
        return None
    if qonnx.attributes(node)[2] not in ("", *qonnx.ROUND):
        return None
    values = qonnx.evaluate(node, [t.values for t in node.inputs])
    out = node.outputs[0]
    if model.is_output(out):
        return None
    model.replace_uses(out, model.constant(f"{node.inputs[0].name}_quantised", values.astype(np.float32)))
    model.remove(node)
    return f"{node.op} of a constant becomes its {values.size} numbers"


def _activation(model: Model, node: gs.Node, verified: Verified) -> str:
    """What became of it; a text that begins with ! says why nothing did."""
    x, *rest = node.inputs
    if not all(isinstance(t, gs.Constant) for t in rest):
        return f"!{node.op} with a computed scale, zero or width keeps its body"
    if verified.types.get(x.name, 1) != 1:
        return f"!{node.op} of other numbers than float32 keeps its body"
    if node.op == "Trunc":
        return "!Trunc of an activation keeps its body"
    scale = rest[0].values.astype(np.float32)
    if scale.size == 1:
        scale = scale.reshape(())
    if not (scale > 0).all():
        return f"!{node.op} with a scale of zero or below keeps its body"
    if node.op == "BipolarQuant":
        return _bipolar(model, node, x, scale)
    signed, narrow, mode = qonnx.attributes(node)
    zero, bits = rest[1].values, rest[2].values
    if bits.size != 1 or not 1 <= float(bits.item()) <= 16 or not float(bits.item()).is_integer():
        return "!Quant with a fractional width keeps its body"
    if mode not in qonnx.ROUND:
        return f"!Quant that rounds by {mode} is not known"
    if bits.item() == 1 and signed:
        if np.any(zero):
            return "!Quant of one bit with a zero point keeps its body"
        return _bipolar(model, node, x, scale)
    low, high = qonnx.levels(int(bits.item()), signed, narrow)
    bounds = [np.float32(low), np.float32(high)]
    if not np.any(zero) and mode in HALF_EVEN:
        made = functions.call(model, "Quantize", [x, scale, *bounds], stem=f"{node.name}_quantize", before=node)
        model.bypass(node, made.outputs[0])
    else:
        zero = zero.astype(np.float32)
        c = [model.constant(f"{node.name}_{k}", v) for k, v in (("scale", scale), ("zero", zero))]
        steps = model.node("Div", [x, c[0]], before=node).outputs[0]
        moved = model.node("Add", [steps, c[1]], before=node).outputs[0]
        if mode in HALF_EVEN:
            whole = functions.call(
                model, "Quantize", [moved, np.float32(1), *bounds], stem=f"{node.name}_quantize", before=node
            ).outputs[0]
        else:
            limits = [model.constant(f"{node.name}_{k}", v) for k, v in zip(("low", "high"), bounds, strict=True)]
            inside = model.node("Clip", [moved, *limits], before=node).outputs[0]
            whole = _rounded(model, inside, mode, node)
        back = model.node("Sub", [whole, c[1]], before=node).outputs[0]
        model.bypass(node, model.node("Mul", [back, c[0]], before=node).outputs[0])
    what = "Quantize" if mode in HALF_EVEN else f"standard operators, by {mode},"
    return f"Quant becomes {what} to {low:g} .. {high:g}, {int(bits.item())} bits"


def _rounded(model: Model, x, mode: str, before: gs.Node):
    """Whole numbers by `mode`: of x itself, or of its magnitude and then with its sign."""
    if mode in ("CEIL", "FLOOR"):
        return model.node(mode.capitalize(), [x], before=before).outputs[0]
    size = model.node("Abs", [x], before=before).outputs[0]
    if mode.startswith("HALF"):
        half = model.constant(f"{before.name}_half", np.float32(0.5 if mode == "HALF_UP" else -0.5))
        size = model.node("Add", [size, half], before=before).outputs[0]
    whole = model.node("Floor" if mode in ("DOWN", "HALF_UP") else "Ceil", [size], before=before).outputs[0]
    sign = model.node("Sign", [x], before=before).outputs[0]
    return model.node("Mul", [whole, sign], before=before).outputs[0]


def _bipolar(model: Model, node: gs.Node, x, scale: np.ndarray) -> str:
    made = functions.call(model, "Binarize", [x], stem=f"{node.name}_binarize", before=node).outputs[0]
    if np.any(scale != 1):
        factor = model.constant(f"{node.name}_scale", scale)
        made = model.node("Mul", [made, factor], before=node).outputs[0]
    what = f"{node.op} becomes Binarize"
    model.bypass(node, made)
    return what
