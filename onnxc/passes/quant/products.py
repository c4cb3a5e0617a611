"""Convolutions and matrix products as the quantiser sees them: the weight, and the axis of its output channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir import numbers
from ..layers.layout import layout

FLOAT = 1
"""The ONNX element type that is quantised."""


@dataclass(frozen=True)
class Product:
    """A product node ready to be quantised.

    weight, bias: float32, with Gemm's alpha and beta multiplied in; bias is a vector by output channel, or None.
    axis: of the output channels in the weight, None where one scale must do. groups: how often the channels along
    `axis` repeat in the bias (ConvTranspose has its groups on the other axis).
    """

    node: gs.Node
    weight: np.ndarray
    bias: np.ndarray | None
    axis: int | None
    groups: int = 1


def refusal(node: gs.Node, types: dict[str, int]) -> str | None:
    """Why this product cannot be quantised, or None."""
    if len(node.inputs) < 2:
        return "it has no weight"
    x, w = node.inputs[:2]
    if any(_maker(t) == "DequantizeLinear" for t in node.inputs[:3]):
        return "it is quantised already"
    if not isinstance(w, gs.Constant) and (stored := numbers.read(w)) is not None and stored.constant:
        return f"its weight is stored in {stored.q.bits} bits already"
    if not isinstance(w, gs.Constant):
        return "its left side is the constant" if isinstance(x, gs.Constant) else "both sides are activations"
    if isinstance(x, gs.Constant):
        return "both sides are constants"
    if w.values.dtype != np.float32:
        return f"its numbers are {w.values.dtype.name}, not float32"
    if (kind := types.get(x.name)) != FLOAT:
        name = onnx.TensorProto.DataType.Name(kind).lower() if kind else "of a type that is not known"
        return f"the numbers that it reads are {name}, not float32" if kind else f"what it reads is {name}"
    if w.values.size == 0 or not np.isfinite(w.values).all():
        return "its weight is empty, or not finite"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "its left side is transposed"
    if node.op == "MatMul" and w.values.ndim < 2:
        return "its weight is a vector"
    b = _bias(node)
    if b is not None:
        if not isinstance(b, gs.Constant):
            return "its bias is computed"
        if not np.isfinite(b.values).all():
            return "its bias is not finite"
        if node.op == "Gemm" and b.values.size not in (1, _columns(node, w)):
            return "its bias is no vector by output channel"
        if node.op == "Gemm" and b.values.ndim == 2 and b.values.shape[0] != 1:
            return "its bias is no vector by output channel"
    return None


def read(node: gs.Node) -> Product:
    """The product at `node`, for which `refusal` gave None."""
    w, b = node.inputs[1].values, _bias(node)
    bias = None if b is None else b.values.ravel()
    if node.op == "Gemm":
        alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
        w = w if alpha == 1.0 else w * np.float32(alpha)
        if bias is not None:
            bias = np.broadcast_to(bias if beta == 1.0 else bias * np.float32(beta), (_columns(node, node.inputs[1]),))
    elif node.op == "MatMul" and w.ndim != 2:
        return Product(node, w, None, None)
    at = layout(node)
    return Product(node, w, bias, at.output_axis, at.groups if node.op == "ConvTranspose" else 1)


def _columns(node: gs.Node, w: gs.Constant) -> int:
    return w.values.shape[layout(node).output_axis]


def _bias(node: gs.Node):
    return node.inputs[2] if node.op != "MatMul" and len(node.inputs) > 2 and node.inputs[2].name else None


def _maker(t) -> str | None:
    return t.inputs[0].op if isinstance(t, gs.Variable) and t.inputs else None
