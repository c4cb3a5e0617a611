"""Nodes and shape inference on a graph whose weights are held apart as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxc.ir.errors import BadModel

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


def infer(
    work: onnx.ModelProto, constants: Mapping[str, np.ndarray], strict: bool = False
) -> dict[str, tuple[tuple[int, ...] | None, int]]:
    """Inferred (shape or None, element type) of every tensor. Small constants are shown to the inference as values.

    Raises BadModel where inference finds a contradiction; `strict` makes it look for them in every operator.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(work)
    del probe.graph.value_info[:]
    used = {name for node in work.graph.node for name in node.input}
    for name, array in constants.items():
        if name not in used:
            continue
        if array.size <= SMALL:
            probe.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            probe.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    try:
        result = onnx.shape_inference.infer_shapes(probe, data_prop=True, strict_mode=strict)
    except onnx.shape_inference.InferenceError as error:
        raise BadModel(f"shape inference fails: {error}") from None
    found = {}
    for value in [*result.graph.input, *result.graph.value_info, *result.graph.output]:
        tensor = value.type.tensor_type
        shape = None
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shape = tuple(d.dim_value for d in tensor.shape.dim)
        found[value.name] = (shape, tensor.elem_type)
    return found
