"""The array of a Constant node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxc.ir.errors import BadModel, Unsupported
from onnxc.ir.values import to_array


def constant_of(node: onnx.NodeProto) -> np.ndarray:
    """What a Constant node holds. Raises Unsupported for text and sparse tensors, BadModel where it holds nothing."""
    if not node.attribute:
        raise BadModel(
            "a Constant without a value", node=node.name, tensor=node.output[0], remedy="export the model again"
        )
    own = node.attribute[0]
    value = helper.get_attribute_value(own)
    match own.name:
        case "value":
            return to_array(value, None)
        case "value_float" | "value_floats":
            return np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            return np.asarray(value, np.int64)
    raise Unsupported(f"Constant with {own.name}", node=node.name, remedy="use a dense numeric constant")
