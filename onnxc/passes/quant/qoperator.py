"""QDQ form to QOperator form: standard operators that read and write integers, for runtimes that do not fuse QDQ.

With Q, D for QuantizeLinear, DequantizeLinear and integers marked by ':

    D(x'), D(w'), D(b') -> Conv [-> Relu] -> Q -> y'   ->  QLinearConv(x', w', b') -> y'
    D(a'), D(b') -> MatMul -> Q -> y'                  ->  QLinearMatMul(a', b') -> y'
    D(a'), D(b') -> MatMul -> floats                   ->  MatMulInteger(a', b') -> Cast -> Mul(scales) -> floats
    D(a'), D(w'), D(b') -> Gemm                        ->  MatMulInteger -> Add(b') -> Cast -> Mul(scales)
    D(x') -> MaxPool (Reshape, Concat, ...) -> Q -> y' ->  MaxPool(x') -> y', where both sides share their scale

A Relu or Clip between goes where the integers saturate at its bounds. Sums, activations and transposed convolutions have
no standard operator on integers and stay in QDQ form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, Tensor
from ..base import Report
from .placement import clip_bounds, single_reader

MOVED = (
    *("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"),
    *("DepthToSpace", "SpaceToDepth", "Concat", "Identity"),
)
"""Operators that standard ONNX has for 8-bit integers too, with one output and no fill value."""
FLOAT32 = 1


def convert(model: Model, report: Report) -> None:
    """Rewrite `model`, which the quantiser left in QDQ form; what has no integer operator stays, and is counted."""
    left = 0
    for node in list(model.nodes):
        done = False
        if model.is_standard(node, "Conv"):
            done = _convolution(model, node)
        elif model.is_standard(node, "MatMul"):
            done = _product(model, node)
        elif model.is_standard(node, "Gemm"):
            done = _gemm(model, node)
        elif model.is_standard(node, *MOVED):
            done = _mover(model, node)
        left += not done and any(_dequantised(t) is not None for t in node.inputs)
    model.sort()
    model.drop_dead()
    if left:
        report.note(f"{left} operators keep the QDQ form: there is no standard operator for them on integers")


def _operands(tensors: Sequence[Tensor]) -> list[gs.Node] | None:
    """The dequantisers that make these tensors, where all have one."""
    found = [p for t in tensors if (p := _dequantised(t)) is not None]
    return found if len(found) == len(tensors) else None


def _convolution(model: Model, node: gs.Node) -> bool:
    parts = _operands(node.inputs)
    quantise = _saturating(model, node.outputs[0])
    if parts is None or quantise is None:
        return False
    x, w = parts[:2]
    inputs = [*x.inputs, *w.inputs, *quantise.inputs[1:3], *(p.inputs[0] for p in parts[2:])]
    _replace(model, node, "QLinearConv", inputs, quantise, dict(node.attrs))
    return True


def _product(model: Model, node: gs.Node) -> bool:
    a, b = (_dequantised(t) for t in node.inputs)
    if a is None or b is None:
        return False
    quantise = _saturating(model, node.outputs[0])
    if quantise is not None:
        _replace(model, node, "QLinearMatMul", [*a.inputs, *b.inputs, *quantise.inputs[1:3]], quantise, {})
        return True
    sums = _sums(model, node, a, b.inputs[0], b.inputs[2])
    _scaled(model, node, sums, a.inputs[1], b.inputs[1])
    return True


def _gemm(model: Model, node: gs.Node) -> bool:
    parts = _operands(node.inputs)
    if parts is None:
        return False
    a, w = parts[:2]
    weight = w.inputs[0]
    if node.attrs.get("transB", 0):
        weight = model.constant(f"{weight.name}_transposed", np.ascontiguousarray(weight.values.T))
    sums = _sums(model, node, a, weight, w.inputs[2])
    if len(parts) > 2:
        sums = model.node("Add", [sums, parts[2].inputs[0]], before=node).outputs[0]
    _scaled(model, node, sums, a.inputs[1], w.inputs[1])
    return True


def _sums(model: Model, node: gs.Node, a: gs.Node, weight: Tensor, zero: gs.Constant) -> Tensor:
    """The int32 sums of products."""
    return model.node("MatMulInteger", [a.inputs[0], weight, a.inputs[2], zero], before=node).outputs[0]


def _scaled(model: Model, node: gs.Node, sums: Tensor, left: gs.Constant, right: gs.Constant) -> None:
    """Floats of int32 sums, in the place of `node`."""
    scale = model.constant(f"{node.name}_scale", left.values * right.values)
    real = model.node("Cast", [sums], attrs={"to": FLOAT32}, before=node).outputs[0]
    out, name = node.outputs[0], node.name
    model.remove(node)
    model.node("Mul", [real, scale], [out]).name = name


def _mover(model: Model, node: gs.Node) -> bool:
    numbers = node.inputs if node.op == "Concat" else node.inputs[:1]
    parts = _operands(numbers)
    reader = single_reader(model, node.outputs[0])
    if parts is None or len(node.outputs) != 1 or reader is None or not model.is_standard(reader, "QuantizeLinear"):
        return False
    if any(p.inputs[i] is not reader.inputs[i] for p in parts for i in (1, 2)):
        return False
    inputs = [*(p.inputs[0] for p in parts), *node.inputs[len(numbers) :]]
    _replace(model, node, node.op, inputs, reader, dict(node.attrs))
    return True


def _replace(model: Model, node: gs.Node, op: str, inputs: list[Tensor], quantise: gs.Node, attrs: dict) -> None:
    """One operator from integers to integers for everything from `node` to `quantise`."""
    out, name, at = quantise.outputs[0], node.name, quantise
    while at is not node:
        before = at.inputs[0].inputs[0]
        model.remove(at)
        at = before
    model.remove(node)
    model.node(op, inputs, [out], attrs=attrs).name = name


def _dequantised(t: Tensor) -> gs.Node | None:
    """The DequantizeLinear with a zero point that alone makes `t`."""
    maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
    return maker if maker is not None and maker.op == "DequantizeLinear" and len(maker.inputs) == 3 else None


def _saturating(model: Model, t: Tensor) -> gs.Node | None:
    """The QuantizeLinear that alone reads `t`, perhaps behind a Relu or Clip whose bounds its integers saturate at."""
    reader = single_reader(model, t)
    least, most = -np.inf, np.inf
    if reader is not None and model.is_standard(reader, "Relu", "Clip"):
        bounds = (0.0, np.inf) if reader.op == "Relu" else clip_bounds(reader)
        if bounds is None or reader.inputs[0] is not t:
            return None
        least, most = bounds
        reader = single_reader(model, reader.outputs[0])
    if reader is None or not model.is_standard(reader, "QuantizeLinear") or len(reader.inputs) != 3:
        return None
    scale, zero = (c.values for c in reader.inputs[1:3])
    info = np.iinfo(zero.dtype)
    low, high = ((np.float32(end) - np.float32(zero)) * np.float32(scale) for end in (info.min, info.max))
    return reader if low >= least and high <= most else None
