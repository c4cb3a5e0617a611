"""Inputs and outputs of types that ONNX Runtime cannot exchange with NumPy, exchanged in types that hold all their numbers.

x bfloat16 -> y int4   ->   x float32 -> Cast(bfloat16) -> ... -> Cast(int8) -> y int8

Every bfloat16 and float8 number is a float32 one and every integer of 4 or 2 bits one of 8, so nothing is rounded on either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

FLOATS = ("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
INTEGERS = {"INT4": "INT8", "UINT4": "UINT8", "INT2": "INT8", "UINT2": "UINT8"}
WIDER = dict.fromkeys(FLOATS, "FLOAT") | INTEGERS
STANDARD = 25  # the opset for the Casts of a model that uses none of its own


class Exchange:
    """The narrow inputs and outputs of a model: `wrap` puts Casts around it, `given` and `taken` convert arrays.

    The arrays that a caller sees have the model's own types, those of ml_dtypes.
    """

    def __init__(self, proto: onnx.ModelProto):
        defaults = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = dict(_narrow(value for value in proto.graph.input if value.name not in defaults))
        self.outputs = dict(_narrow(proto.graph.output))

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)

    def wrap(self, graph: onnx.GraphProto, opsets) -> None:
        """Put the Casts into a graph, whose own tensors keep their names."""
        from onnx import TensorProto, helper

        if not any(one.domain in ("", "ai.onnx") for one in opsets):
            opsets.add(domain="", version=STANDARD)
        first = []
        for value in graph.input:
            if value.name in self.inputs:
                name, kind = value.name, self.inputs[value.name]
                node = helper.make_node("Cast", [_outer(name, "in")], [name], to=TensorProto.DataType.Value(kind))
                if kind.startswith("FLOAT8"):  # otherwise infinities would become the largest number
                    node.attribute.append(helper.make_attribute("saturate", 0))
                first.append(node)
                _widen(value, _outer(name, "in"), kind)
        for value in graph.output:
            if value.name in self.outputs:
                name, kind = value.name, self.outputs[value.name]
                wide = TensorProto.DataType.Value(WIDER[kind])
                graph.node.append(helper.make_node("Cast", [name], [_outer(name, "out")], to=wide))
                # the Cast takes any type: that the model has the one that it says is still ONNX Runtime's to check
                graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.DataType.Value(kind), None))
                _widen(value, _outer(name, "out"), kind)
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*first, *rest])

    def given(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the wrapped model is fed."""
        made = {}
        for name, array in feeds.items():
            kind = self.inputs.get(name)
            made[name if kind is None else _outer(name, "in")] = (
                array if kind is None else array.astype(_dtype(WIDER[kind]))
            )
        return made

    def names(self, names: Sequence[str]) -> list[str]:
        """What the outputs `names` are called in the wrapped model."""
        return [_outer(name, "out") if name in self.outputs else name for name in names]

    def taken(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs `names` in the model's own types."""
        return [
            array.astype(_dtype(self.outputs[name]))
            if name in self.outputs and isinstance(array, np.ndarray)
            else array
            for name, array in zip(names, arrays, strict=True)
        ]


def _narrow(values) -> Iterator[tuple[str, str]]:
    from onnx import TensorProto

    for value in values:
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if kind in WIDER:
            yield value.name, kind


def _outer(name: str, way: str) -> str:
    return f"{name}/exchanged/{way}"


def _widen(value: onnx.ValueInfoProto, name: str, kind: str) -> None:
    from onnx import TensorProto

    value.name = name
    value.type.tensor_type.elem_type = TensorProto.DataType.Value(WIDER[kind])


def _dtype(kind: str) -> np.dtype:
    from onnx import TensorProto, helper

    return helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
