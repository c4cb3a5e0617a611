"""Nodes and shape inference on a graph whose weights are held apart as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.walk import Walk

SMALL = 64  # constants of at most so many elements stay in the graph: shape operands, bounds, scales


def copy_of(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node that outlives its graph's list."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def attribute_of(node: onnx.NodeProto, name: str, default):
    """The value of an attribute, or `default`."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def infer(work: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...] | None, int]]:
    """Inferred (shape or None, element type) of every tensor, node by node as the walk does it.

    Raises BadModel where inference finds a contradiction.
    """
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in work.opset_import}
    walk = Walk(opsets, dict(constants), {value.name: value.type for value in work.graph.input}, lambda *_: None)
    for node in work.graph.node:
        walk.types.update(walk.inferred(node))
    return {name: (walk.shape(name), walk.element(name)) for name in walk.types}
