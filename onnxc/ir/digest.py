"""What a model computes, in 64 hexadecimal digits."""

from __future__ import annotations

import hashlib

import onnx


def digest(proto: onnx.ModelProto) -> str:
    """SHA-256 in hexadecimal of what a model computes, part by part: a whole model may be too large to serialise."""
    found = hashlib.sha256()
    graph = proto.graph
    for parts in (proto.opset_import, proto.functions, graph.input, graph.output, graph.node, graph.initializer):
        for part in parts:
            found.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return found.hexdigest()
