"""A model made static: functions inlined, shapes fixed, constants folded, weights taken out of the graph.

    Conv(x, 500 MB of initialiser)   ->   Conv(x, w), the array of w beside the nodes

Nothing downstream copies or folds hundreds of megabytes, as weights become parameters of the program.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxc.codegen.operators import has_row
from onnxc.codegen.operators.node import held
from onnxc.codegen.prepare.constant import constant_of
from onnxc.codegen.prepare.contract import check_static
from onnxc.codegen.prepare.deciding import FINDERS, advice, skeleton
from onnxc.codegen.prepare.extents import Undecided, give_outputs
from onnxc.codegen.prepare.fold import SMALL, copy_of, infer
from onnxc.codegen.prepare.loops import Body
from onnxc.codegen.prepare.opening import opener
from onnxc.codegen.prepare.record import StaticModel, StaticRegion
from onnxc.codegen.prepare.rewrite import rewrite
from onnxc.codegen.prepare.stored import lookups
from onnxc.codegen.prepare.walk import REGION, STANDARD, Walk, bounded
from onnxc.ir.errors import BadModel, BadOption, Unsupported
from onnxc.ir.faults import ONNX_ERRORS, first_line

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

PLAIN_OPSET = 17  # of a model that imports no standard operators


@np.errstate(all="ignore")  # of constants that are not finite
def make_static(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> StaticModel:
    """`model` with static shapes; `shapes` gives the shape of an input that has symbolic dimensions. `arrays` are the values of
    initialisers that stand beside it (`onnxc.ir.lean`).

    A symbolic first dimension without a given shape becomes 1. Raises BadOption for a shape that does not fit and for
    other symbolic dimensions, Unsupported for what has no static form.
    """
    model, stored = lookups(model, arrays or {})
    work, constants = _strip(_inline(model), arrays or {})
    constants.update(stored)
    fixed = _fix_inputs(work, constants, dict(shapes or {}))
    before = skeleton(work.graph)
    try:
        walk, lengths = _walk(work, constants)
    except Unsupported as e:
        if not isinstance(e, Undecided):
            e.remedy = advice(before, [e.node or ""]) or e.remedy
        raise
    try:
        made = _settled(work, walk, fixed)
    except Unsupported as e:
        if not any(node.op_type in FINDERS for node in work.graph.node):
            e.remedy = advice(before, e.nodes or [e.node or ""]) or e.remedy
        raise
    made.lengths, made.most = lengths, walk.numbers.most
    made.shorter = (advice(before, made.most) or "") if made.most else ""
    return made


def _settled(work: onnx.ModelProto, walk: Walk, fixed: list[tuple[str, tuple[int, ...], str]]) -> StaticModel:
    """The static model of nodes that have been visited, with those of its regions."""
    _prune_dead(work)
    _refuse_namesakes(work.graph.node, walk.opsets)
    rewrite(work, walk.constants, walk.integers)
    _prune_dead(work)
    made = _separate(work, walk.constants, walk.integers, fixed)
    for node in made.nodes:
        if node.domain == REGION:
            region = walk.regions[node.name]
            bodies = [_body(work, walk, body) for body in region.bodies]
            made.regions[node.name] = StaticRegion(region.kind, bodies, region.states, region.rows)
    return check_static(made)


def _body(work: onnx.ModelProto, walk: Walk, body: Body) -> StaticModel:
    """The static model of a region's body: tensors come and go in the types in which they are held between nodes."""
    inner = onnx.ModelProto(ir_version=work.ir_version, opset_import=work.opset_import)
    inner.graph.name = "body"
    inner.graph.input.extend(onnx.ValueInfoProto(name=name, type=walk.type_of(name)) for name in body.inputs)
    inner.graph.output.extend(onnx.ValueInfoProto(name=name) for name in body.outputs)
    inner.graph.node.extend(body.nodes)
    given = [(name, walk.shape(name) or (), _dtype(walk.element(name), name)) for name in body.inputs]
    made = _settled(inner, walk, given)
    made.inputs, made.outputs = (
        [(name, shape, held(dtype)) for name, shape, dtype in side] for side in (made.inputs, made.outputs)
    )
    return made


def _walk(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> tuple[Walk, dict[str, str]]:
    """Computes what is constant, and opens what has no row, in place; and which outputs hold the extents of others."""
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in work.opset_import}
    walk = Walk(opsets, constants, {value.name: value.type for value in work.graph.input}, opener(has_row))
    lengths = give_outputs(walk, work.graph, walk.run(work.graph))
    del work.graph.node[:]
    work.graph.node.extend(walk.nodes)
    return walk, lengths


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except ONNX_ERRORS as e:
        raise BadModel(f"the model's functions cannot be written out: {first_line(e)}") from e


def _strip(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A copy without initialisers, and the initialisers as arrays. Constants of subgraphs stay where they are."""
    constants = {}
    for tensor in model.graph.initializer:
        constants[tensor.name] = arrays[tensor.name] if tensor.name in arrays else numpy_helper.to_array(tensor)
    for sparse in model.graph.sparse_initializer:
        raise Unsupported(f"sparse initialiser {sparse.values.name}", remedy="store it dense")
    work = onnx.ModelProto()
    work.ir_version = max(model.ir_version, 4)
    work.opset_import.extend(model.opset_import)
    if all(entry.domain not in ("", "ai.onnx") for entry in model.opset_import):  # what is opened needs one
        work.opset_import.add(version=PLAIN_OPSET)
    graph = work.graph
    graph.name = model.graph.name or "graph"
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(model.graph.output)
    for i, node in enumerate(model.graph.node):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            constants[node.output[0]] = constant_of(node)
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = node.name or f"{node.op_type}_{i}"
    return work, constants


def input_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None, names: Container[str]
) -> dict[str, tuple[int, ...]]:
    """The static shape of each of the inputs `names`, as `make_static` takes them. Raises BadOption as it does."""
    given = dict(shapes or {})
    known = [value for value in model.graph.input if value.name in names]
    _named(given, {value.name for value in known})
    return {value.name: _input_shape(value.name, value.type.tensor_type, given.get(value.name)) for value in known}


def _named(shapes: Mapping, known: set[str]) -> None:
    for name in shapes:
        if name not in known:
            raise BadOption(f"--shape names no input: {name!r}", expected="one of " + ", ".join(sorted(known)))


def _fix_inputs(work: onnx.ModelProto, constants: dict, shapes: dict) -> list[tuple[str, tuple[int, ...], str]]:
    _named(shapes, {value.name for value in work.graph.input})
    fixed = []
    for value in work.graph.input:
        if not value.type.HasField("tensor_type"):
            raise Unsupported("an input that is no tensor", tensor=value.name, remedy="pass it as tensors")
        tensor = value.type.tensor_type
        shape = _input_shape(value.name, tensor, shapes.get(value.name))
        bounded(value.name, shape)
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
            if dim.HasField("dim_value") and dim.dim_value >= 0:  # 0 is an extent, not a question
                shape.append(dim.dim_value)
            elif axis == 0:
                shape.append(1)
            else:
                filled = (d.dim_value if d.dim_value > 0 else 1 if i == 0 else 32 for i, d in enumerate(dims))
                example = "x".join(map(str, filled))
                raise BadOption(
                    "a symbolic dimension without a value",
                    tensor=name,
                    axis=axis,
                    found=dim.dim_param or "?",
                    remedy=f"give the shape, for instance --shape {name}={example}",
                )
        return tuple(shape)
    given = tuple(int(extent) for extent in given)
    if any(extent < 0 for extent in given):
        raise BadOption("a shape needs extents that are not negative", tensor=name, found="x".join(map(str, given)))
    if tensor.HasField("shape"):
        if len(dims) != len(given):
            raise BadOption("the rank disagrees with --shape", tensor=name, expected=len(dims), found=len(given))
        for axis, (dim, extent) in enumerate(zip(dims, given, strict=True)):
            if dim.dim_value > 0 and dim.dim_value != extent and axis != 0:
                raise BadOption("the model fixes it", tensor=name, axis=axis, expected=dim.dim_value, found=extent)
    return given


def _dtype(elem_type: int, name: str) -> str:
    if elem_type == onnx.TensorProto.STRING:
        raise Unsupported(
            "text, which a C library does not hold", tensor=name,
            remedy="compile the part between numbers: --from NAME, --until NAME of a tensor or node",
        )  # fmt: skip
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
    keep = [copy_of(node) for node in reversed(keep)]
    del work.graph.node[:]
    work.graph.node.extend(keep)


def _refuse_namesakes(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int]) -> None:
    """Raises Unsupported for operators of other domains that have no row: what follows may take them for the standard ones."""
    unknown = [
        node for node in nodes if node.domain in opsets and not has_row(node.op_type, node.domain, opsets[node.domain])
    ]
    if foreign := [node for node in unknown if node.domain not in STANDARD]:
        raise _refused([(node, f"there is no row for {node.op_type} of domain {node.domain}") for node in foreign])


def _separate(work: onnx.ModelProto, constants: dict[str, np.ndarray], integers: dict, fixed: list) -> StaticModel:
    """Which constants are weights, and what is known of every tensor."""
    found = infer(work, constants)
    outputs = []
    for value in work.graph.output:
        shape, kind = found.get(value.name, (None, 0))
        if value.name in constants:
            array = constants[value.name]
            shape, kind = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
        if shape is None:
            raise _unknown(work.graph.node, constants, found, value.name)
        outputs.append((value.name, shape, _dtype(kind, value.name)))
    nodes = [copy_of(node) for node in work.graph.node]
    weights: set[str] = set()
    used: dict[str, np.ndarray] = {name: constants[name] for name, _, _ in outputs if name in constants}
    users: dict[str, str] = {}
    for node in nodes:
        operands = WEIGHT_OPERANDS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if name not in constants:
                continue
            array = used[name] = constants[name]
            if (i in operands and array.ndim and array.dtype == np.float32) or array.size > SMALL:
                weights.add(name)
                users.setdefault(name, node.name)
    for node in nodes:
        for name in node.output:
            if name and found.get(name, ((), 0))[0] is None and name not in constants:
                raise _unknown(nodes, constants, found, name)
    types = {name: (shape, _dtype(kind, name)) for name, (shape, kind) in found.items() if shape is not None and kind}
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in work.opset_import}
    known = {name: found for name, found in integers.items() if name in weights}
    return StaticModel(nodes, fixed, outputs, used, weights, users, known, types, opsets)


_BEFORE = "compile the part of the model before this operator"


def _unknown(nodes: Sequence[onnx.NodeProto], constants: dict, found: dict, tensor: str) -> Unsupported:
    """Why tensors have no static shape: the nodes that read known ones only, but make others."""

    def known(name: str) -> bool:
        return not name or name in constants or found.get(name, (None, 0))[0] is not None

    roots = [node for node in nodes if all(map(known, node.input)) and not all(map(known, node.output))]
    reasons = []
    for node in roots:
        typed = any(found.get(name, (None, 0))[1] for name in node.output)  # ONNX knows the operator, and no shape
        missing = not typed and not has_row(node.op_type, node.domain)
        domain = f" of domain {node.domain}" if node.domain not in ("", "ai.onnx") else ""
        why = (
            f"there is no row for {node.op_type}{domain}"
            if missing
            else f"{node.op_type}'s output shape depends on data"
        )
        reasons.append((node, why))
    if not reasons:
        return Unsupported("its shape depends on data", tensor=tensor, remedy=_BEFORE)
    return _refused(reasons, next((n for n in roots[0].output if not known(n)), None))


def _refused(reasons: Sequence[tuple[onnx.NodeProto, str]], tensor: str | None = None) -> Unsupported:
    """One refusal of several nodes, each with its reason."""
    if len(reasons) == 1:
        (node, why), *_ = reasons
        return Unsupported(why, node=node.name, tensor=tensor, remedy=_BEFORE)
    remedy = "compile the part of the model before these operators"
    several = Unsupported("; ".join(f"node {node.name}: {why}" for node, why in reasons), remedy=remedy)
    several.nodes = [node.name for node, _ in reasons]
    return several
