"""Layers that multiply by a matrix: fully connected ones and 1x1 convolutions, read as W [out, in] and split in two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model

OPERATORS = ("Gemm", "MatMul", "Conv")
_PLACES = ("strides", "pads", "auto_pad", "dilations")


def refusal(node: gs.Node) -> str | None:
    """Why the weight of this node is no matrix that can be factored, or None."""
    if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        return "its weight is no constant"
    w = node.inputs[1].values
    if isinstance(node.inputs[0], gs.Constant):
        return "both sides are constants"
    if w.dtype.kind != "f":
        return f"its weight is {w.dtype.name}, not of floating point"
    if node.op == "Conv":
        if any(k != 1 for k in w.shape[2:]):
            return f"its kernel is {'x'.join(map(str, w.shape[2:]))}, not 1x1"
        if node.attrs.get("group", 1) != 1:
            return "it has groups"
    elif w.ndim != 2:
        return f"its weight has rank {w.ndim}"
    if w.size == 0 or not np.isfinite(w).all():
        return "its weight is empty, or not finite"
    return None


def matrix(node: gs.Node) -> np.ndarray:
    """The weight of a node without refusal as W [out, in]: y = W x, whatever order the node stores it in."""
    w = node.inputs[1].values
    if node.op == "Conv":
        return w.reshape(w.shape[:2])
    return w if _rows_are_outputs(node) else w.T


@dataclass(frozen=True)
class Factors:
    """Two initialisers in the order that a node stores its weight in, shared by all nodes that shared the weight."""

    first: gs.Constant
    second: gs.Constant

    @staticmethod
    def of(model: Model, node: gs.Node, first: np.ndarray, second: np.ndarray) -> Factors:
        """From first [rank, in] and second [out, rank]."""
        name = node.inputs[1].name

        def stored(f: np.ndarray) -> np.ndarray:
            if node.op == "Conv":
                return f.reshape(*f.shape, *(1,) * (node.inputs[1].values.ndim - 2))
            return f if _rows_are_outputs(node) else np.ascontiguousarray(f.T)

        return Factors(model.constant(f"{name}_first", stored(first)), model.constant(f"{name}_second", stored(second)))


def split(model: Model, node: gs.Node, factors: Factors) -> gs.Node:
    """Put a layer for the first factor ahead of `node`, which goes on with the second; returns the new layer.

    The bias, Gemm's alpha and beta stay behind, with the second. Strides, pads and dilations go ahead: a stride saves
    most there, and what is padded is zero behind a layer without bias as well. Gemm's transA goes ahead too.
    """
    ahead: dict = {}
    if node.op == "Gemm":
        ahead = {k: node.attrs[k] for k in ("transA", "transB") if k in node.attrs}
        node.attrs.pop("transA", None)
    elif node.op == "Conv":
        ahead = {k: node.attrs.pop(k) for k in _PLACES if k in node.attrs}
        ahead["kernel_shape"] = [1] * (node.inputs[1].values.ndim - 2)
    new = model.node(node.op, [node.inputs[0], factors.first], name=f"{node.name}_first", attrs=ahead, before=node)
    node.inputs[0] = new.outputs[0]
    node.inputs[1] = factors.second
    return new


def _rows_are_outputs(node: gs.Node) -> bool:
    return node.op == "Gemm" and bool(node.attrs.get("transB", 0))
