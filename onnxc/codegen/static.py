"""A model made static: functions inlined, shapes fixed, constants folded, weights taken out of the graph.

    y = BatchNormalization(Conv(x, w), s, b, m, v)   ->   y = Add(Mul(Conv(x, w), s / sqrt(v + e)), b - m s / sqrt(v + e))
    Reshape(x, Concat(Slice(Shape(x)), -1))          ->   Reshape(x, [1, -1])

Weights become extra inputs, so that nothing downstream copies or folds hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.errors import BadModel, BadOption, Unsupported

SMALL = 64  # constants of at most so many elements stay in the graph: shape operands, bounds, scales
WEIGHT_OPERANDS = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0, 1),
    "PRelu": (1,),
    "Gather": (0,),
    "ConvTranspose": (1, 2),
    "LayerNormalization": (1, 2),
}
ROUNDS = 20  # folding shortens at least one chain a round; real models need two or three


@dataclass
class StaticModel:
    """A graph with static shapes whose weights are graph inputs.

    `inputs` and `outputs` are the user's (name, shape, dtype); in `proto` they are called x0, x1, ... and y0, y1, ...
    `weights` maps the other inputs of `proto` to arrays, `users` to the name of the first node that reads them.
    """

    proto: onnx.ModelProto
    inputs: list[tuple[str, tuple[int, ...], str]]
    outputs: list[tuple[str, tuple[int, ...], str]]
    weights: dict[str, np.ndarray]
    users: dict[str, str]


def make_static(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> StaticModel:
    """`model` with static shapes; `shapes` gives the shape of an input that has symbolic dimensions.

    A symbolic first dimension without a given shape becomes 1. Raises BadOption for a shape that does not fit and for
    other symbolic dimensions, Unsupported for what has no static form.
    """
    work, constants = _strip(_inline(model))
    fixed = _fix_inputs(work, constants, dict(shapes or {}))
    _fold(work, constants)
    _lower_batch_norm(work, constants)
    _prune_dead(work)
    return _separate(work, constants, fixed)


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def _strip(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A copy without initialisers, and the initialisers as arrays. Constants of subgraphs stay where they are."""
    constants = {}
    for tensor in model.graph.initializer:
        constants[tensor.name] = numpy_helper.to_array(tensor)
    for sparse in model.graph.sparse_initializer:
        raise Unsupported(f"sparse initialiser {sparse.values.name}", remedy="store it dense")
    work = onnx.ModelProto()
    work.ir_version = max(model.ir_version, 4)
    work.opset_import.extend(model.opset_import)
    graph = work.graph
    graph.name = model.graph.name or "graph"
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(model.graph.output)
    for i, node in enumerate(model.graph.node):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            constants[node.output[0]] = _constant(node)
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = node.name or f"{node.op_type}_{i}"
    return work, constants


def _constant(node: onnx.NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return numpy_helper.to_array(value)
        case "value_float" | "value_floats":
            return np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            return np.asarray(value, np.int64)
    raise Unsupported(f"Constant with {attribute.name}", node=node.name, remedy="use a dense numeric constant")


def _fix_inputs(work: onnx.ModelProto, constants: dict, shapes: dict) -> list[tuple[str, tuple[int, ...], str]]:
    known = {value.name for value in work.graph.input}
    for name in shapes:
        if name not in known:
            raise BadOption(f"--shape names no input: {name!r}", expected="one of " + ", ".join(sorted(known)))
    fixed = []
    for value in work.graph.input:
        if not value.type.HasField("tensor_type"):
            raise Unsupported("an input that is no tensor", tensor=value.name, remedy="remove the optional or sequence")
        tensor = value.type.tensor_type
        shape = _input_shape(value.name, tensor, shapes.get(value.name))
        del tensor.shape.dim[:]
        for extent in shape:
            tensor.shape.dim.add().dim_value = extent
        fixed.append((value.name, shape, _dtype(tensor.elem_type, value.name)))
    for value in work.graph.output:  # inference derives them anew
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return fixed


def _input_shape(name: str, tensor, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if not tensor.HasField("shape") and given is None:
        raise BadOption("the input has no shape", tensor=name, remedy=f"give one: --shape {name}=1x3x224x224")
    dims = list(tensor.shape.dim)
    if given is None:
        shape = []
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                shape.append(dim.dim_value)
            elif axis == 0:
                shape.append(1)
            else:
                example = "x".join(str(d.dim_value or (1 if i == 0 else 32)) for i, d in enumerate(dims))
                raise BadOption(
                    "a symbolic dimension without a value",
                    tensor=name,
                    axis=axis,
                    found=dim.dim_param or "?",
                    remedy=f"give the shape, for instance --shape {name}={example}",
                )
        return tuple(shape)
    given = tuple(int(extent) for extent in given)
    if any(extent < 1 for extent in given):
        raise BadOption("a shape needs positive extents", tensor=name, found="x".join(map(str, given)))
    if tensor.HasField("shape"):
        if len(dims) != len(given):
            raise BadOption("the rank disagrees with --shape", tensor=name, expected=len(dims), found=len(given))
        for axis, (dim, extent) in enumerate(zip(dims, given, strict=True)):
            if dim.dim_value > 0 and dim.dim_value != extent and axis != 0:
                raise BadOption("the model fixes it", tensor=name, axis=axis, expected=dim.dim_value, found=extent)
    return given


def _dtype(elem_type: int, name: str) -> str:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type)).name
    except KeyError:
        raise Unsupported(f"element type {elem_type}", tensor=name, remedy="cast it to a numeric type") from None


def _prune_dead(work: onnx.ModelProto) -> None:
    wanted = {value.name for value in work.graph.output}
    keep = []
    for node in reversed(work.graph.node):
        if any(name in wanted for name in node.output):
            keep.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:
                for graph in [attribute.g, *attribute.graphs]:
                    wanted.update(name for inner in graph.node for name in inner.input)
    keep = [helper_copy(node) for node in reversed(keep)]
    del work.graph.node[:]
    work.graph.node.extend(keep)


def helper_copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node that outlives its graph's list."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _infer(work: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...] | None, int]]:
    """Inferred (shape or None, element type) of every tensor. Small constants are shown to the inference as values."""
    probe = onnx.ModelProto()
    probe.CopyFrom(work)
    del probe.graph.value_info[:]
    used = {name for node in work.graph.node for name in node.input}
    for name, array in constants.items():
        if name not in used:
            continue
        if array.size <= SMALL:
            probe.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            probe.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    try:
        result = onnx.shape_inference.infer_shapes(probe, data_prop=True)
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


def _fold(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Folds Shape of static tensors and every node whose inputs are all constant, until nothing changes."""
    for _ in range(ROUNDS):
        changed = _fold_constants(work, constants)
        found = _infer(work, constants)
        for node in work.graph.node:
            shape = found.get(node.input[0], (None, 0))[0] if node.input else None
            if node.op_type == "Shape" and shape is not None:
                start, end = (_attribute(node, key, default) for key, default in (("start", 0), ("end", len(shape))))
                constants[node.output[0]] = np.asarray(shape[start:end], np.int64)
            elif node.op_type == "Size" and shape is not None:
                constants[node.output[0]] = np.asarray(np.prod(shape, dtype=np.int64))
        changed |= _drop_folded(work, constants)
        if not changed:
            return


def _attribute(node: onnx.NodeProto, name: str, default):
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _drop_folded(work: onnx.ModelProto, constants: Mapping) -> bool:
    keep = [helper_copy(n) for n in work.graph.node if not all(out in constants or not out for out in n.output)]
    if len(keep) == len(work.graph.node):
        return False
    del work.graph.node[:]
    work.graph.node.extend(keep)
    return True


UNFOLDABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
UNFOLDABLE |= {"If", "Loop", "Scan"}


def _fold_constants(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> bool:
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
            value = _attribute(node, "value", None)
            fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
            shape = tuple(int(extent) for extent in constants.get(inputs[0], ()))
            if inputs[0] in constants:
                constants[node.output[0]] = np.broadcast_to(fill.reshape(()), shape)
                known.update(node.output)
                continue
        if node.op_type in ("Identity", "Unsqueeze") and inputs[0] in constants and _view(node, constants):
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
        axes = _attribute(node, "axes", None)
        if axes is None:
            if node.input[1] not in constants:
                return False
            axes = constants[node.input[1]].tolist()
        array = np.expand_dims(array, tuple(axes))
    constants[node.output[0]] = array
    return True


def _evaluate(work: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    from onnx.reference import ReferenceEvaluator

    made = {name for node in nodes for name in node.output if name}
    needed = sorted({name for node in nodes for name in node.input if name and name not in made})
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(constants[n].dtype), constants[n].shape)
        for n in needed
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in sorted(made)]
    graph = helper.make_graph(nodes, "constants", inputs, outputs)
    model = helper.make_model(graph, opset_imports=work.opset_import, ir_version=work.ir_version)
    try:
        results = ReferenceEvaluator(model).run(None, {name: constants[name] for name in needed})
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise Unsupported(f"constant folding failed: {error}", remedy="run onnxc passes -p clean on the model") from None
    constants.update(zip(sorted(made), (np.asarray(r) for r in results), strict=True))


def _lower_batch_norm(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Inference BatchNormalization with constant parameters -> Mul and Add, which kernels take into their epilogue."""
    found = None
    nodes = []
    for node in work.graph.node:
        params = [constants.get(name) for name in node.input[1:5]]
        training = _attribute(node, "training_mode", 0)
        if node.op_type != "BatchNormalization" or any(p is None for p in params) or training:
            nodes.append(helper_copy(node))
            continue
        found = found or _infer(work, constants)
        shape = found.get(node.input[0], (None, 0))[0]
        if shape is None:
            nodes.append(helper_copy(node))
            continue
        scale, bias, mean, variance = (np.asarray(p, np.float64) for p in params)
        factor = scale / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        view = (-1,) + (1,) * (len(shape) - 2)
        y = node.output[0]
        constants[f"{y}/scale"] = factor.astype(params[0].dtype).reshape(view)
        constants[f"{y}/shift"] = (bias - mean * factor).astype(params[0].dtype).reshape(view)
        nodes.append(helper.make_node("Mul", [node.input[0], f"{y}/scale"], [f"{y}/scaled"], name=f"{node.name}/scale"))
        nodes.append(helper.make_node("Add", [f"{y}/scaled", f"{y}/shift"], [y], name=node.name))
    del work.graph.node[:]
    work.graph.node.extend(nodes)


def _separate(work: onnx.ModelProto, constants: dict[str, np.ndarray], fixed: list) -> StaticModel:
    """Weights become inputs w0, w1, ...; the user's inputs x0, x1, ... and outputs y0, y1, ..."""
    found = _infer(work, constants)
    outputs = []
    for value in work.graph.output:
        shape, kind = found.get(value.name, (None, 0))
        if value.name in constants:
            array = constants[value.name]
            shape, kind = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
        if shape is None:
            raise Unsupported(
                "the output's shape depends on data",
                tensor=value.name,
                remedy="compile the part of the model before the data-dependent operator",
            )
        outputs.append((value.name, shape, _dtype(kind, value.name)))
    rename = {name: f"x{i}" for i, (name, _, _) in enumerate(fixed)}
    graph = onnx.GraphProto(name="main")
    nodes = [helper_copy(node) for node in work.graph.node]
    inner = {name for n in nodes for a in n.attribute for g in [a.g, *a.graphs] for k in g.node for name in k.input}
    weights, users, names = {}, {}, {}
    used = {value.name for value in work.graph.output}
    for node in nodes:
        used.update(node.input)
        operands = WEIGHT_OPERANDS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            array = constants.get(name)
            if array is None or name in names or name in inner:
                continue
            if (i in operands and array.ndim and array.dtype == np.float32) or array.size > SMALL:
                names[name] = f"w{len(names)}"
                weights[names[name]], users[names[name]] = array, node.name
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in names or name in rename:
                node.input[i] = names.get(name) or rename[name]
    for name, array in constants.items():
        if name in used | inner and name not in names:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    for name, shape, dtype in fixed:
        graph.input.append(helper.make_tensor_value_info(rename[name], _elem(dtype), shape))
    for name, array in weights.items():
        graph.input.append(helper.make_tensor_value_info(name, _elem(array.dtype), array.shape))
    graph.node.extend(nodes)
    for i, (name, shape, dtype) in enumerate(outputs):
        source = names.get(name) or rename.get(name) or name
        graph.node.append(helper.make_node("Identity", [source], [f"y{i}"], name=f"output {name}"))
        graph.output.append(helper.make_tensor_value_info(f"y{i}", _elem(dtype), shape))
    proto = helper.make_model(graph, opset_imports=work.opset_import, ir_version=work.ir_version)
    _check_static(proto, found, inner)
    return StaticModel(proto, fixed, outputs, weights, users)


def _elem(dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype != "bfloat16" else TensorProto.BFLOAT16


def _check_static(proto: onnx.ModelProto, found: dict, inner: set[str]) -> None:
    for node in proto.graph.node:
        for name in node.output:
            if name and node.op_type != "Identity" and found.get(name, ((), 0))[0] is None:
                raise Unsupported(
                    f"{node.op_type}'s output shape depends on data",
                    node=node.name,
                    tensor=name,
                    remedy="compile the part of the model before this operator",
                )
