"""Small models for the runtime's tests."""

import numpy as np
import onnx
from onnx import parser


def model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text, with `weights` as initialisers."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def affine(rows: str = "N") -> onnx.ModelProto:
    """y = relu(2 x) + 1 with the intermediate tensors `twice` and `positive`; x is float [rows, 3]."""
    return model(
        f"g (float[{rows},3] x) => (float[{rows},3] y)"
        "{ twice = Mul(x, two) positive = Relu(twice) y = Add(positive, one) }",
        two=np.float32([2]),
        one=np.float32([1]),
    )
