"""Inputs and outputs that are no tensors, as arrays.

xs seq(tensor(float)) [n, 16]          <->  array [k, n, 16], a tensor for each index of its first axis
x optional(tensor(float)) [n, 16]      <->  array [n, 16]
probabilities seq(map(string, float))   ->  array [k, classes], ordered by key
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def tensor_of(kind: onnx.TypeProto) -> tuple[onnx.TypeProto.Tensor, bool] | None:
    """The type of the tensors that an input holds, and whether it holds several; None for maps, nested sequences, sparse."""
    several = False
    if kind.WhichOneof("value") == "optional_type":
        kind = kind.optional_type.elem_type
    if kind.WhichOneof("value") == "sequence_type":
        kind, several = kind.sequence_type.elem_type, True
    return (kind.tensor_type, several) if kind.WhichOneof("value") == "tensor_type" else None


def sequences(graph: onnx.GraphProto) -> set[str]:
    """The inputs that ONNX Runtime is fed as lists."""
    return {value.name for value in graph.input if (found := tensor_of(value.type)) is not None and found[1]}


def taken(value: object) -> np.ndarray:
    """What ONNX Runtime gives back as one array: tensors of a sequence stand behind each other where they have one shape, and
    flat where not; of a map, the values by order of its keys; an optional that holds nothing is empty."""
    if isinstance(value, np.ndarray):
        return value
    if value is None:
        return np.zeros(0, np.float32)
    if isinstance(value, Mapping):
        made = np.asarray([value[key] for key in sorted(value)])
        return made.astype(np.float32) if made.dtype.kind == "f" else made  # which ZipMap makes
    if not isinstance(value, list):
        return np.asarray(value)
    parts = [taken(one) for one in value]
    if not parts:
        return np.zeros(0, np.float32)
    alike = len({part.shape for part in parts}) == 1
    return np.stack(parts) if alike else np.concatenate([part.reshape(-1) for part in parts])
