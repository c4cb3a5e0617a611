"""Nodes as ONNX stores them, at any depth."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

STANDARD = ("", "ai.onnx")
"""How nodes name ONNX's own domain."""
_A = onnx.AttributeProto


def bodies(proto: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    return [
        g for a in proto.attribute for g in ([a.g] if a.type == _A.GRAPH else a.graphs if a.type == _A.GRAPHS else ())
    ]


def with_bodies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes, and those of the bodies in them, at any depth."""
    found = list(nodes)
    for node in found:  # which grows
        found += [n for body in bodies(node) for n in body.node]
    return found


def all_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those of a model, its functions and bodies."""
    return with_bodies(n for part in (proto.graph, *proto.functions) for n in part.node)
