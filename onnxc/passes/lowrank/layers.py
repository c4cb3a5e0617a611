"""Layers that multiply by a matrix: fully connected ones and 1x1 convolutions, read as W [out, in] and split in two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model

_PLACES = ("strides", "pads", "auto_pad", "dilations")


def matrix(node: gs.Node) -> np.ndarray:
    """The weight of a Gemm, MatMul or 1x1 Conv as W [out, in]: y = W x, whatever order the node stores it in."""
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
