"""Constant folding and shape inference on a graph whose weights are held apart as arrays.

Reshape(x, Concat(Slice(Shape(x)), -1))   ->   Reshape(x, [1, -1])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxc.ir.errors import BadModel

SMALL = 64  # constants of at most so many elements stay in the graph: shape operands, bounds, scales
ROUNDS = 20  # folding shortens at least one chain a round; real models need two or three
UNFOLDABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
UNFOLDABLE |= {"If", "Loop", "Scan"}
# what onnx.reference raises for operators or attributes it lacks; such a node is left for the importer to judge
EVALUATION_ERRORS = (NotImplementedError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True)
class Integers:
    """A constant as `values` (int8) times `scale` (float32), which broadcasts to the shape of the values."""

    values: np.ndarray
    scale: np.ndarray


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


def fold(work: onnx.ModelProto, constants: dict[str, np.ndarray], integers: dict[str, Integers] | None = None) -> None:
    """Folds Shape of static tensors and every node whose inputs are all constant, until nothing changes.

    `integers` takes the integers of dequantised constants, by the names of the constants.
    """
    integers = {} if integers is None else integers
    for _ in range(ROUNDS):
        changed = _fold_constants(work, constants, integers)
        found = infer(work, constants)
        for node in work.graph.node:
            shape = found.get(node.input[0], (None, 0))[0] if node.input else None
            if node.op_type == "Shape" and shape is not None:
                start, end = (attribute_of(node, key, default) for key, default in (("start", 0), ("end", len(shape))))
                constants[node.output[0]] = np.asarray(shape[start:end], np.int64)
            elif node.op_type == "Size" and shape is not None:
                constants[node.output[0]] = np.asarray(np.prod(shape, dtype=np.int64))
        changed |= _drop_folded(work, constants)
        if not changed:
            return


def _drop_folded(work: onnx.ModelProto, constants: Mapping) -> bool:
    keep = [copy_of(n) for n in work.graph.node if not all(out in constants or not out for out in n.output)]
    if len(keep) == len(work.graph.node):
        return False
    del work.graph.node[:]
    work.graph.node.extend(keep)
    return True


def _fold_constants(work: onnx.ModelProto, constants: dict[str, np.ndarray], integers: dict[str, Integers]) -> bool:
    """Evaluates the nodes that depend on constants alone with ONNX's reference implementation."""
    ready = []
    known = set(constants)
    for node in work.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type in UNFOLDABLE or not all(name in known for name in inputs):
            continue
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "ConstantOfShape":  # a view of one element: synthetic weights cost no memory
            value = attribute_of(node, "value", None)
            fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
            shape = tuple(int(extent) for extent in constants.get(inputs[0], ()))
            if inputs[0] in constants:
                constants[node.output[0]] = np.broadcast_to(fill.reshape(()), shape)
                known.update(node.output)
                continue
        if node.op_type in ("Identity", "Unsqueeze") and inputs[0] in constants and _view(node, constants):
            known.update(node.output)
            continue
        if node.op_type == "DequantizeLinear" and all(name in constants for name in inputs):
            constants[node.output[0]], found = _dequantized(node, [constants[name] for name in inputs])
            if found is not None:
                integers[node.output[0]] = found
            known.update(node.output)
            continue
        ready.append(node)
        known.update(node.output)
    if ready:
        _evaluate(work, ready, constants)
    return _drop_folded(work, constants)


def _view(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Identity and Unsqueeze of a constant without a copy; False when an operand is not at hand."""
    array = constants[node.input[0]]
    if node.op_type == "Unsqueeze":
        axes = attribute_of(node, "axes", None)
        if axes is None:
            if node.input[1] not in constants:
                return False
            axes = constants[node.input[1]].tolist()
        array = np.expand_dims(array, tuple(axes))
    constants[node.output[0]] = array
    return True


def _dequantized(node: onnx.NodeProto, operands: list[np.ndarray]) -> tuple[np.ndarray, Integers | None]:
    """(values - zero point) * scale, per tensor, per axis or per block, as ONNX defines it; its integers if int8 holds them."""
    values, scale = operands[0], operands[1]
    zero = operands[2] if len(operands) > 2 else np.zeros_like(scale, values.dtype)
    axis = attribute_of(node, "axis", 1)
    block = attribute_of(node, "block_size", 0)
    if block:
        scale, zero = (np.repeat(a, block, axis).take(range(values.shape[axis]), axis) for a in (scale, zero))
    elif scale.size > 1:
        view = [1] * values.ndim
        view[axis] = -1
        scale, zero = scale.reshape(view), zero.reshape(view)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    levels = values.astype(np.int64) - zero.astype(np.int64)
    fits = not block and values.dtype.itemsize == 1 and levels.min(initial=0) >= -128 and levels.max(initial=0) <= 127
    found = Integers(levels.astype(np.int8), scale) if fits and scale.dtype == np.float32 else None
    return (levels.astype(scale.dtype) * scale).astype(scale.dtype), found


def _evaluate(work: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Evaluates all nodes at once or, where that fails, one by one; what cannot be evaluated stays in the graph."""
    if _evaluated(work, nodes, constants) or len(nodes) == 1:
        return
    for node in nodes:
        if all(name in constants for name in node.input if name):
            _evaluated(work, [node], constants)


def _evaluated(work: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bool:
    from onnx.reference import ReferenceEvaluator

    made = {name for node in nodes for name in node.output if name}
    needed = sorted({name for node in nodes for name in node.input if name and name not in made})
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(constants[n].dtype), constants[n].shape)
        for n in needed
    ]
    graph = helper.make_graph(nodes, "constants", inputs, [onnx.ValueInfoProto(name=name) for name in sorted(made)])
    model = helper.make_model(graph, opset_imports=work.opset_import, ir_version=work.ir_version)
    try:
        results = ReferenceEvaluator(model).run(None, {name: constants[name] for name in needed})
    except EVALUATION_ERRORS:
        return False
    constants.update(zip(sorted(made), (np.asarray(result) for result in results), strict=True))
    return True
