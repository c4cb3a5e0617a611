"""Outputs whose lengths follow from what a model computes: boxes that are found, steps until a decoder stops.

    boxes [found, 4]   NonZero, NonMaxSuppression, Unique, Compress above it, or a Loop with a condition

A pass that may change numbers may change such lengths. Outputs of other lengths are compared at the reference's: what is missing
counts as zeros, what is too much is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

FINDERS = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop"})
Free = Mapping[str, frozenset[int]]
"""Axes of outputs, by name, whose extents no input's shape says."""


def free_axes(proto: onnx.ModelProto) -> dict[str, frozenset[int]]:
    """The axes of each output of `proto` that data may make longer or shorter; outputs without any are left out."""
    if not _finds(proto):
        return {}
    symbols = {dim.dim_param for value in proto.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
    found = {}
    for value in proto.graph.output:
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            found[value.name] = frozenset(range(32))
            continue
        free = [a for a, d in enumerate(kind.shape.dim) if not d.HasField("dim_value") and d.dim_param not in symbols]
        if free:
            found[value.name] = frozenset(free)
    return found


def _finds(proto: onnx.ModelProto) -> bool:
    stack = [proto.graph.node, *(function.node for function in proto.functions)]
    while stack:
        for node in stack.pop():
            if node.op_type in FINDERS:
                return True
            stack += [g.node for a in node.attribute for g in (a.g, *a.graphs) if g.node]
    return False


def differs(reference: np.ndarray, other: np.ndarray, free: frozenset[int]) -> bool:
    """Whether `other` is what `reference` is but for its lengths along free axes."""
    if reference.shape == other.shape or reference.ndim != other.ndim:
        return False
    return all(a == b or axis in free for axis, (a, b) in enumerate(zip(reference.shape, other.shape, strict=True)))


def fitted(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other` in the shape of `reference`: cut, and filled up with zeros."""
    made = np.zeros(reference.shape, other.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(reference.shape, other.shape, strict=True))
    made[common] = other[common]
    return made


def sentence(name: str, reference: np.ndarray, other: np.ndarray) -> str:
    """What to tell of an output of another length."""
    shapes = ["x".join(map(str, a.shape)) for a in (other, reference)]
    return f"output {name} has another length, {shapes[0]} for {shapes[1]}: data decide it; missing elements count as zeros"
