"""Changes of shape and layout move integers where they can: a byte an element, and no reader between quantiser and product.

View(D(x)) -> D(View(x))        Q(View(x)) -> View(Q(x))        one scale and zero point
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxc.codegen.prepare.fold import copy_of

VIEWS = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")


def move_views(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Applies both in place, through chains of views."""
    _replace(work, _after_dequantisers(work, constants))
    while (nodes := _before_quantisers(work, constants)) is not None:
        _replace(work, nodes)


def _replace(work: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    del work.graph.node[:]
    work.graph.node.extend(nodes)


def _one_scale(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return scale is not None and scale.ndim == 0 and (zero is None or zero.ndim == 0)


def _after_dequantisers(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    makers: dict[str, onnx.NodeProto] = {}
    nodes = []
    for node in work.graph.node:
        made = copy_of(node)
        before = makers.get(node.input[0]) if node.op_type in VIEWS and node.input else None
        if node.op_type == "DequantizeLinear" and _one_scale(node, constants):
            makers[node.output[0]] = made
        if before is None:
            nodes.append(made)
            continue
        last, y = copy_of(before), node.output[0]
        made.input[0], made.output[0] = before.input[0], f"{y}/integers"
        last.name, last.input[0], last.output[0] = f"{node.name}/{before.op_type}", made.output[0], y
        makers[y] = last
        nodes += [made, last]
    return nodes


def _before_quantisers(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto] | None:
    """The nodes with one quantiser ahead of its view; None where there is none to move."""
    makers = {node.output[0]: node for node in work.graph.node if node.op_type in VIEWS}
    outputs = {value.name for value in work.graph.output}
    uses = [name for node in work.graph.node for name in node.input]
    for node in work.graph.node:
        view = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if view is None or node.input[0] in outputs or uses.count(node.input[0]) > 1 or not _one_scale(node, constants):
            continue
        first, last, y = copy_of(node), copy_of(view), node.output[0]
        first.input[0], first.output[0] = view.input[0], f"{y}/first"
        last.input[0], last.output[0] = first.output[0], y
        nodes = []
        for other in work.graph.node:
            if other is view or other.output[0] == view.output[0]:
                continue
            nodes += [first, last] if other.output[0] == y else [copy_of(other)]
        return nodes
    return None
