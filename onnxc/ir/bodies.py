"""What stands inside nodes, each as a model of its own: bodies of If, Loop and Scan, and functions that the model calls.

A body's inputs are its own and what it captures, of the types and shapes that these have outside; captured initialisers are
its initialisers. `put_back` writes a changed body where it came from; of what it captured unchanged there is still one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs

from . import qonnx
from .axes import Extent
from .errors import DimensionError, OnnxcError
from .external import Beside
from .graph import CAPTURED, DOMAIN, STANDARD
from .live import Sizes, number
from .model import Model, Tensor
from .reading import captured, from_proto
from .verify import Verified, verify
from .writing import node_proto

PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Einsum"})
_A = onnx.AttributeProto


@dataclass(eq=False)
class Body:
    """One body of `node`: the attribute that holds it ("" for the body of a function), and it as a verified model.

    passed: the outer tensors behind its last inputs and its captured initialisers, by the names they have inside.
    trips: how often it runs each time that the node does, 1 where that is not known.
    """

    node: gs.Node
    key: str
    model: Model
    verified: Verified
    passed: dict[str, Tensor]
    trips: int = 1

    @property
    def name(self) -> str:
        return f"{self.node.name}/{self.key}" if self.key else self.node.name


def inner(model: Model, verified: Verified) -> list[Body]:
    """Every body and every called function of `model` that can be read as a model, but for functions of our own; looked up
    once for each `verified`, which must be of this very model."""
    if verified.bodies is None:
        verified.bodies = [b for node in model.nodes for b in _of(model, verified, node)]
    return verified.bodies


def unread(model: Model, verified: Verified) -> list[str]:
    """The nodes with a body that cannot be read as a model, by name, those within bodies too: nothing there is counted or
    worked on."""
    bodies = list(inner(model, verified))
    read = [(id(body.node), body.key) for body in bodies]
    found = [
        node.name
        for node in model.nodes
        if CAPTURED in node.attrs and any(_is_graph(v) and (id(node), k) not in read for k, v in node.attrs.items())
    ]
    for body in bodies:
        found += [f"{body.name}/{name}" for name in unread(body.model, body.verified)]
    return found


def _is_graph(value: object) -> bool:
    return isinstance(value, _A) and value.type == _A.GRAPH


def hides_products(model: Model, node: gs.Node) -> bool:
    """Whether `node` calls a function, none of ours and no quantiser, in which matrix products or convolutions stand."""
    function = model.function(node)
    if function is None or node.domain == DOMAIN or qonnx.is_quantiser(node):
        return False
    seen: set[tuple[str, str]] = set()
    stack = [function]
    while stack:
        for inner_node in stack.pop().node:
            key = (inner_node.domain, inner_node.op_type)
            if inner_node.op_type in PRODUCTS and inner_node.domain in STANDARD:
                return True
            if key in model.functions and key not in seen:
                seen.add(key)
                stack.append(model.functions[key])
    return False


def _of(model: Model, verified: Verified, node: gs.Node) -> Iterator[Body]:
    for key, value in node.attrs.items():
        if _is_graph(value) and CAPTURED in node.attrs:
            body = read_body(model, verified, node, key)
            if body is not None:
                yield body
    if hides_products(model, node):
        body = read_body(model, verified, node, "")
        if body is not None:
            yield body


def read_body(model: Model, verified: Verified, node: gs.Node, key: str) -> Body | None:
    """The body in the attribute `key` of `node`, or of the function that it calls, as a model; None where it cannot be one:
    a type is not known, or ONNX's checks refuse it by itself."""
    if key:
        names = node.attrs[CAPTURED]
        passed = dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True))
        proto = onnx.ModelProto(graph=node.attrs[key].g)
        reads = set(captured(onnx.NodeProto(attribute=[node.attrs[key]])))
        passed = {name: t for name, t in passed.items() if name in reads}
        own = _own_inputs(proto.graph, node, verified)
    else:
        passed = {t.name: t for t in node.inputs if t.name}
        proto = onnx.ModelProto(graph=_call(node))
        own = {}
    shapes = {name: shape for name, (_, shape) in own.items() if shape is not None}
    for name, t in passed.items():
        if isinstance(t, gs.Constant):  # its array is put in below, without a copy
            proto.graph.initializer.append(onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[0]))
            continue
        if not verified.types.get(t.name):
            return None
        shape = verified.analysis.shape(t.name)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, verified.types[t.name], shape))
        if shape is not None:
            shapes[name] = shape
    proto.ir_version = max(model.ir_version, 8)
    proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in model.opsets.items())
    proto.functions.extend(model.functions.values())
    try:
        if not key:
            proto = opened(proto, [k for k in model.functions if k[0] != DOMAIN])
        made = from_proto(proto, Beside())
        for name, t in made.constants().items():
            if name in passed:
                t.values = passed[name].values
        made.ir_version, made.lax = model.ir_version, model.lax
        made.reserve(model.names())
        found = Body(node, key, made, _verified(made), passed, _trips(node, own, verified))
    except (OnnxcError, RuntimeError):  # the inliner's C++ side raises bare RuntimeErrors
        return None
    sizes: Sizes = {**verified.analysis.sizes}
    outer = {name: t.name for name, t in passed.items()} | {name: t for name, (t, _) in own.items()}
    for name, shape in shapes.items():
        axes = verified.analysis.axes.get(outer[name])
        if axes is not None and len(axes) == len(shape):
            made.shapes[name] = tuple(number(a, sizes) for a in axes)
        elif all(isinstance(n, int) for n in shape):
            made.shapes[name] = tuple(n for n in shape if isinstance(n, int))
    return found


def _verified(body: Model) -> Verified:
    """The body, verified; what it declares of an output that has another shape, which runtimes overlook, is not heeded."""
    for _ in body.outputs:
        try:
            return verify(body)
        except DimensionError as e:
            wrong = [
                t for t in body.outputs if t.name == e.tensor and isinstance(t, gs.Variable) and t.shape is not None
            ]
            if not wrong:
                raise
            wrong[0].shape = None
    return verify(body)


def opened(proto: onnx.ModelProto, functions: list[tuple[str, str]]) -> onnx.ModelProto:
    """`proto` with the bodies of these functions, (domain, name), in the place of their calls."""
    return onnx.inliner.inline_selected_functions(proto, functions)


def _call(node: gs.Node) -> onnx.GraphProto:
    graph = onnx.GraphProto(name=node.name, node=[node_proto(node)])
    graph.output.extend(onnx.ValueInfoProto(name=t.name) for t in node.outputs if t.name)
    return graph


Own = dict[str, tuple[str, tuple[Extent, ...] | None]]
"""Input of a body -> the outer tensor that it begins as ("" for none) and its shape there."""


def _own_inputs(graph: onnx.GraphProto, node: gs.Node, verified: Verified) -> Own:
    """The inputs of a body of Loop or Scan; those without a type get that of what they begin as."""
    given = node.inputs[: len(node.inputs) - len(node.attrs[CAPTURED])]
    found: Own = {}
    scanned = int(node.attrs.get("num_scan_inputs", 0)) if node.op == "Scan" else 0
    sources: list[Tensor | None] = [None, None, *given[2:]] if node.op == "Loop" else list(given)
    kinds = [int(onnx.TensorProto.INT64), int(onnx.TensorProto.BOOL)]
    axes = node.attrs.get("scan_input_axes") or [0] * scanned
    for i, (info, t) in enumerate(zip(graph.input, sources, strict=False)):
        if t is None:
            found[info.name] = ("", ())
            kind = kinds[i]
            info.type.tensor_type.ClearField(
                "shape"
            )  # the number of the turn and the condition are scalars, whatever is declared
            info.type.tensor_type.shape.SetInParent()
        else:
            shape = t.values.shape if isinstance(t, gs.Constant) else verified.analysis.shape(t.name)
            if shape is not None and i >= len(sources) - scanned:
                axis = axes[i - len(sources) + scanned] % max(len(shape), 1)
                shape = shape[:axis] + shape[axis + 1 :]
            found[info.name] = (t.name, shape)
            kind = _kind(t, verified)
        if not info.type.tensor_type.elem_type and kind:
            info.type.tensor_type.elem_type = kind
    return found


def _kind(t: Tensor, verified: Verified) -> int:
    if isinstance(t, gs.Constant):
        return int(onnx.helper.np_dtype_to_tensor_dtype(t.values.dtype))
    return verified.types.get(t.name, 0)


def _trips(node: gs.Node, own: Own, verified: Verified) -> int:
    if node.op == "Loop" and node.inputs and isinstance(node.inputs[0], gs.Constant):
        return max(int(node.inputs[0].values.reshape(-1)[0]), 0)
    if node.op == "Scan" and own:
        axes = verified.analysis.axes.get(list(own.values())[-1][0])
        if axes:
            at = node.attrs.get("scan_input_axes", [0])
            axis = at[-1] if isinstance(at, list) else 0
            return number(axes[axis], {**verified.analysis.sizes})
    return 1


def put_back(model: Model, body: Body) -> None:
    """Write `body.model` into the attribute that it came from; what it captures unchanged stays outside, once."""
    node, inside = body.node, body.model
    old: onnx.GraphProto = node.attrs[body.key].g
    same = set()
    for name, t in inside.constants().items():
        outer = body.passed.get(name)
        if isinstance(outer, gs.Constant):
            if outer.values is t.values:
                same.add(name)
            else:  # two tensors of one name, one outside and one inside, would hide one another
                t.name = inside.fresh(name)
    graph = inside.to_proto().graph
    new = onnx.GraphProto(name=old.name, doc_string=old.doc_string, input=old.input, output=old.output)
    new.node.extend(graph.node)
    new.value_info.extend(graph.value_info)
    new.initializer.extend(t for t in graph.initializer if t.name not in same)
    node.attrs[body.key] = _A(name=body.key, type=_A.GRAPH, g=new)
    names = node.attrs[CAPTURED]
    own = len(node.inputs) - len(names)
    tensors = dict(zip(names, node.inputs[own:], strict=True))
    graphs = [v for v in node.attrs.values() if isinstance(v, _A) and v.type in (_A.GRAPH, _A.GRAPHS)]
    now = captured(onnx.NodeProto(attribute=graphs))
    node.attrs[CAPTURED] = now
    kept = [*node.inputs[:own], *(tensors[name] for name in now)]
    node.inputs.clear()
    node.inputs.extend(kept)
    model.reserve(inside.names())
    for key, function in inside.functions.items():
        model.functions.setdefault(key, function)
    for domain, version in inside.opsets.items():
        model.opsets.setdefault(domain, version)
