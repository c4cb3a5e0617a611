"""A model with float16 and bfloat16 inside as the same model in float32, which says how much their rounding changes.

x float16, Conv(x, w float16), Cast(to float16)   ->   x float32, Conv(x, w float32), Cast(to float32)
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.errors import OnnxcError
from onnxc.runtime.reference import Session

EPSILON = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
"""What rounding to a type changes at most, as a share of a value."""


def outputs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What ONNX Runtime computes of the model in float32, in the types of the model; None where it does not take it."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    _graph(wide.graph)
    for function in wide.functions:
        _nodes(function.node)
    half = {value.name for value in proto.graph.input if value.type.tensor_type.elem_type in EPSILON}
    try:
        found = Session(wide, optimise=False).run(
            {name: array.astype(np.float32) if name in half else array for name, array in feeds.items()}
        )
    except OnnxcError:
        return None
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    return {
        name: array.astype(helper.tensor_dtype_to_np_dtype(kinds[name])) if kinds[name] in EPSILON else array
        for name, array in found.items()
    }


def _graph(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type in EPSILON:
            kind.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _tensor(tensor)
    _nodes(graph.node)


def _tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in EPSILON:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _nodes(nodes) -> None:
    for node in nodes:
        for own in node.attribute:
            if own.name in ("to", "dtype", "output_dtype") and own.i in EPSILON:
                own.i = TensorProto.FLOAT
            _tensor(own.t)
            for graph in ([own.g] if own.HasField("g") else []) + list(own.graphs):
                _graph(graph)
