"""`--io int8`: where a model begins and ends with quantisers, the library takes and gives their integers.

    x float -> Q -> net -> D -> y float     ->     x int8 -> net -> y int8

Views between an input and its quantiser go behind it, those between the last DequantizeLinear and an output before it.
Other inputs and outputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxc.codegen.prepare.views import move_views
from onnxc.ir.errors import Unsupported
from onnxc.runtime.data import open_data
from onnxc.runtime.specs import input_specs


@dataclass(frozen=True)
class Scaled:
    """What the integers of an input or output stand for: (integer - zero) * scale."""

    scale: float
    zero: int


def integer_ends(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Scaled]]:
    """A copy of the model whose quantised inputs and outputs are integers, and what they stand for, by name.

    Raises Unsupported where no input and no output is quantised with one scale.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    move_views(made, constants)
    ends = _inputs(graph, constants) | _outputs(graph, constants)
    if not ends:
        raise Unsupported(
            "no input and no output of the model is quantised with one scale",
            remedy="quantise the model first (onnxc run quant.int8), or use --io float",
        )
    for info in [info for info in graph.value_info if info.name in ends]:
        graph.value_info.remove(info)
    return made, ends


def _numbers(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> tuple[Scaled, int] | None:
    """Scale and zero point of a quantiser with one of each, and ONNX's number of its integers' type."""
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or scale.dtype != np.float32:
        return None
    kinds = {"int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8}
    if zero.dtype.name not in kinds:
        return None
    return Scaled(float(scale.reshape(())), int(zero.reshape(()))), kinds[zero.dtype.name]


def _inputs(graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> dict[str, Scaled]:
    found = {}
    outputs = {value.name for value in graph.output}
    for value in graph.input:
        readers = [node for node in graph.node if value.name in node.input]
        first = _numbers(readers[0], constants) if readers and readers[0].op_type == "QuantizeLinear" else None
        if first is None or value.name in outputs:
            continue
        if any(node.op_type != "QuantizeLinear" or _numbers(node, constants) != first for node in readers):
            continue
        for node in readers:
            if node.output[0] in outputs:
                break
        else:
            found[value.name] = first[0]
            value.type.tensor_type.elem_type = first[1]
            _rename(graph, {node.output[0]: value.name for node in readers}, readers)
    return found


def _outputs(graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> dict[str, Scaled]:
    found = {}
    for value in graph.output:
        last = next((node for node in graph.node if value.name in node.output), None)
        numbers = _numbers(last, constants) if last is not None and last.op_type == "DequantizeLinear" else None
        if last is None or numbers is None or any(value.name in node.input for node in graph.node):
            continue
        made = last.input[0]
        if made in constants or made in {other.name for other in (*graph.input, *graph.output)}:
            continue
        found[value.name] = numbers[0]
        value.type.tensor_type.elem_type = numbers[1]
        _rename(graph, {made: value.name}, [last])
    return found


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], gone: list[onnx.NodeProto]) -> None:
    """Tensors get other names, and the nodes `gone` go."""
    for node in gone:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for info in [info for info in graph.value_info if info.name in names]:
        graph.value_info.remove(info)


def quantised_data(
    proto: onnx.ModelProto, data, ends: Mapping[str, Scaled], shapes, seed: int
) -> dict[str, np.ndarray]:
    """A sample of `data` for the model as it was, as the integers that its library takes."""
    specs = input_specs(proto)
    given = shapes if isinstance(shapes, Mapping) else (shapes or [{}])[0]
    fixed = {name: spec._replace(shape=tuple(given.get(name, spec.shape))) for name, spec in specs.items()}
    chunk = next(open_data(data, fixed, seed=seed).batches(1))
    kinds = {value.name: value.type.tensor_type.elem_type for value in integer_ends(proto)[0].graph.input}
    made = {}
    for name in specs:
        made[name] = chunk[name]
        if name in ends:
            limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
            levels = np.rint(chunk[name] / np.float32(ends[name].scale)) + ends[name].zero
            made[name] = np.clip(levels, limits.min, limits.max).astype(limits.dtype)
    return made
