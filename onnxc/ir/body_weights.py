"""Tensors that bodies of If, Loop and Scan store, initialisers and Constants, each by a name of its own in the whole model.

y = If(c) {then_branch: z = If(d) {else_branch: W}}   ->   "y.then_branch/z.else_branch/W"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx

from .graph import CAPTURED
from .model import Model
from .values import copied
from .writing import node_proto

_A = onnx.AttributeProto


def inner_name(trail: Iterable[tuple[str, str]], tensor: str) -> str:
    """The name of a tensor behind a trail of (first output of a node, attribute that holds its body)."""
    return "/".join([*(f"{output}.{key}" for output, key in trail), tensor])


def bodies_of(node: onnx.NodeProto) -> Iterator[tuple[tuple[str, str], onnx.GraphProto]]:
    """The bodies of a node, each with its step of a trail."""
    for a in node.attribute:
        if a.type == _A.GRAPH and node.output:
            yield (node.output[0], a.name), a.g


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors that a body itself stores, by name: what they are may be changed in place."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def body_weights(model: Model) -> dict[str, onnx.TensorProto]:
    """All tensors that the bodies of `model` store, at any depth, by `inner_name`; they are copies."""
    nodes = [node_proto(node) for node in model.nodes if CAPTURED in node.attrs]
    return dict(_walk([(step, graph) for node in nodes for step, graph in bodies_of(node)], ()))


def _walk(found: list, trail: tuple) -> Iterator[tuple[str, onnx.TensorProto]]:
    for step, graph in found:
        here = (*trail, step)
        yield from ((inner_name(here, name), t) for name, t in stored(graph).items())
        yield from _walk([inner for node in graph.node for inner in bodies_of(node)], here)


def set_body_weights(model: Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays in the place of stored tensors, by `inner_name`, in attributes that no other model shares."""
    if not arrays:
        return
    for node in model.nodes:
        if CAPTURED not in node.attrs:
            continue
        for key, value in node.attrs.items():
            if not (isinstance(value, _A) and value.type == _A.GRAPH):
                continue
            step = (node.outputs[0].name, key)
            if not any(name.startswith(inner_name([step], "")) for name in arrays):
                continue
            own = copied(value)
            for name, t in _walk([(step, own.g)], ()):
                if name in arrays:
                    t.CopyFrom(onnx.numpy_helper.from_array(arrays[name], t.name))
            node.attrs[key] = own
