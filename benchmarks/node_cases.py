"""ONNX's own operator cases as models that have static shapes, with inputs and the outputs that ONNX expects.

    Reshape(data, shape), both inputs   ->   Reshape(data, shape), shape a constant

An operand is given as a constant if it sets shapes: without its value, shape inference knows fewer of them, or it is one of
SETTING, or such a one is computed from it.
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
DATA_DEPENDENT = {"Unique", "ImageDecoder"}  # the extents of their outputs
SETTING = {
    "Loop": (0, 1), "Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Reshape": (1,), "Pad": (1, 3),
    "CenterCropPad": (1,), "MaxUnpool": (2,), "Resize": (1,), "Dropout": (1, 2), "MelWeightMatrix": (0, 1, 2, 3, 4),
}  # fmt: skip
"""Operands that say how often a body runs, the extents of what is made, or in which of its ways an operator works."""
DISPUTED = {
    "test_resize_downsample_scales_linear_align_corners": "length_resized is the length of the resized tensor",
    "test_resize_downsample_scales_cubic_align_corners": "length_resized is the length of the resized tensor",
}
"""Cases whose expected values contradict the text of their operator, and which sentence: ONNX Runtime leaves them out too."""


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
        if one.name in DISPUTED:
            continue
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
    settled = _setting(model.graph).intersection(small)
    wanted, most = set(small), _known(model, feeds, set(small))
    for name in small:
        if name not in settled and _known(model, feeds, wanted - {name}) == most:
            wanted.discard(name)
    return _frozen(model, feeds, wanted)


def _setting(graph: onnx.GraphProto) -> set[str]:
    """The tensors of a graph from whose values operands of SETTING are computed."""
    nodes, stack = [], [graph]
    while stack:
        own = stack.pop().node
        nodes += own
        stack += [a.g for node in own for a in node.attribute if a.g.node]
    made = {name: node for node in nodes for name in node.output}
    left = [node.input[i] for node in nodes for i in SETTING.get(node.op_type, ()) if i < len(node.input)]
    found: set[str] = set()
    while left:
        name = left.pop()
        if not name or name in found:
            continue
        found.add(name)
        if name in made and made[name].op_type not in ("Shape", "Size"):
            left += [*made[name].input, *(value.name for a in made[name].attribute for value in a.g.output)]
    return found


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
