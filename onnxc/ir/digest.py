"""What a model computes, in 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    import numpy as np

RAW = b"\x4a"
"""The tag of TensorProto.raw_data: field 9, bytes. All fields with lower numbers stand ahead of it."""


def digest(proto: onnx.ModelProto, arrays: Mapping[str, np.ndarray] | None = None) -> str:
    """SHA-256 in hexadecimal of what a model computes, part by part: a whole model may be too large to serialise.

    `arrays` are the values of initialisers that stand beside it (`onnxc.ir.lean`); the digest is that of the whole model.
    """
    found, arrays = hashlib.sha256(), arrays or {}
    graph = proto.graph
    for parts in (proto.opset_import, proto.functions, graph.input, graph.output, graph.node, graph.initializer):
        for part in parts:
            if isinstance(part, onnx.TensorProto) and part.name in arrays:
                found.update(_held(part, arrays[part.name]))
            else:
                found.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return found.hexdigest()


def _held(tensor: onnx.TensorProto, values: np.ndarray) -> bytes:
    """The digest of a tensor with its values, as it would be serialised."""
    head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    made, left, length = hashlib.sha256(head.SerializeToString(deterministic=True)), values.nbytes, b""
    while left >= 128:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    made.update(RAW + length + bytes([left]))
    made.update(values.reshape(-1).view("u1").data)
    return made.digest()
