"""ONNX's own operator cases as models that have static shapes, with inputs and the outputs that ONNX expects.

    Reshape(data, shape), both inputs   ->   Reshape(data, shape), shape a constant

An operand is given as a constant if it sets shapes: without its value, shape inference knows fewer of them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper

MOST_ELEMENTS = 64  # of an operand that may set shapes
DATA_DEPENDENT = {"NonZero", "Compress", "Unique", "NonMaxSuppression", "ImageDecoder"}  # the extents of their outputs
TRIPS = {"Loop": (0, 1)}  # operands that say how often a body runs


@dataclass(frozen=True)
class Case:
    """One case. `model` has static shapes; `inputs` are all that it reads, `outputs` what it should give."""

    name: str
    operator: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    rtol: float
    atol: float


@cache
def cases() -> dict[str, Case]:
    """All cases whose inputs and outputs are tensors of numbers and whose shapes do not depend on data, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows and divisions by zero are what some cases are about
        given = collect_testcases(None)
    operators = {one.name: one.model.graph.node[0].op_type for one in given}
    found = {}
    for one in given:
        graph = one.model.graph
        if any(node.op_type in DATA_DEPENDENT for node in graph.node) or not all(map(_numeric, _interface(graph))):
            continue
        inputs, outputs = ([_array(item) for item in items] for items in one.data_sets[0])
        feeds = dict(zip([value.name for value in graph.input], inputs, strict=True))
        model = _with_constants(one.model, feeds)
        read = {value.name for value in model.graph.input}
        wanted = dict(zip([value.name for value in graph.output], outputs, strict=True))
        plain = re.sub(r"_expanded(_ver\d+)?$", "", one.name)
        operator = operators.get(plain, operators[one.name])
        feeds = {name: array for name, array in feeds.items() if name in read}
        found[one.name] = Case(one.name, operator, model, feeds, wanted, one.rtol, one.atol)
    return found


def _interface(graph: onnx.GraphProto) -> list:
    return [*graph.input, *graph.output]


def _numeric(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type != onnx.TensorProto.STRING


def _array(item) -> np.ndarray:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)


def _with_constants(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model with the operands that set shapes as initialisers."""
    small = [name for name, array in feeds.items() if array.size <= MOST_ELEMENTS and array.ndim <= 1]
    trips = {
        node.input[i] for node in model.graph.node for i in TRIPS.get(node.op_type, ()) if len(node.input) > i
    }.intersection(feeds)
    wanted, most = set(small), _known(model, feeds, set(small))
    for name in small:
        if name not in trips and _known(model, feeds, wanted - {name}) == most:
            wanted.discard(name)
    return _frozen(model, feeds, wanted)


def _frozen(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: set[str]) -> onnx.ModelProto:
    """A copy with the inputs `names` as initialisers and the extents of `feeds` for the others."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(model.ir_version, 4)  # before it every initialiser is an input too
    del made.graph.input[:]
    for value in model.graph.input:
        if value.name in names:
            made.graph.initializer.append(numpy_helper.from_array(feeds[value.name], value.name))
            continue
        kind = value.type.tensor_type.elem_type
        made.graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind, feeds[value.name].shape))
    return made


def _known(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: set[str]) -> int:
    """How many extents of tensors inference finds if the inputs `names` are constants."""
    probe = _frozen(model, feeds, names)
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(probe, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return -1
    tensors = [v.type.tensor_type for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")]
    return len(tensors) + sum(dim.HasField("dim_value") for tensor in tensors for dim in tensor.shape.dim)
