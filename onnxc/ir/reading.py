"""ModelProto -> Model. Structure is checked first, so that a damaged, cyclic or malicious model gives one BadModel."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from . import qonnx
from .errors import BadModel
from .escape import line
from .external import Beside
from .graph import CAPTURED, Names, read_only, stable_topological_order
from .inference import ELEMENT_TYPES, refuse_impossible
from .model import Model
from .nodes import bodies, with_bodies
from .values import attribute, copied, densify, to_array, variable

MIN_OPSET = 7
MOST_NODES = 1_000_000
"""Nodes that calls of functions may stand for, beside those that are there: ONNX and its runtimes write them all out."""

_A = onnx.AttributeProto


def from_proto(proto: onnx.ModelProto, beside: Beside, weights: Iterable[onnx.TensorProto] = ()) -> Model:
    """The model that `proto` holds, with `weights` behind its own initialisers; `beside` gives external data, which are copied
    into `proto` where they are no weights of the outer graph. Raises BadModel."""
    _check_text(proto)
    opsets = _opsets(proto)
    graph = proto.graph
    if not graph.output:
        raise BadModel(
            "the graph has no outputs", remedy="export it again, or declare the tensors that you need as outputs"
        )
    remarks: list[str] = []
    tensors: dict[str, gs.Variable | gs.Constant] = {}
    for init in chain(graph.initializer, weights):
        _refuse_bytes([init.name])
        if not init.name:
            raise BadModel("an initialiser has no name", found="''")
        if init.name in tensors:
            remarks.append(f"initialiser {line(init.name)} stands twice: the last one holds, as in ONNX Runtime")
        tensors[init.name] = gs.Constant(init.name, to_array(init, beside))
    for name in sorted(_made_again(graph) & tensors.keys()):
        remarks.append(f"initialiser {line(name)} has the name of a Constant, which holds, as in ONNX Runtime")
        del tensors[name]
    for sparse in graph.sparse_initializer:
        if not sparse.values.name or sparse.values.name in tensors:
            raise BadModel("a sparse initialiser has no name or stands twice", tensor=sparse.values.name or "''")
        beside.inline(sparse)
        tensors[sparse.values.name] = gs.Constant(sparse.values.name, densify(sparse))
    inputs = []
    for info in graph.input:
        if isinstance(tensors.get(info.name), gs.Constant):
            continue  # IR 3 lists initialisers as inputs too
        if not info.name or info.name in tensors:
            raise BadModel("a graph input has no name or stands twice", tensor=info.name or "''")
        tensors[info.name] = variable(info)
        inputs.append(tensors[info.name])
    nodes = _nodes(graph, tensors, beside, opsets[""])
    outputs: list[gs.Tensor] = []
    for info in graph.output:
        t = tensors.get(info.name)
        if t is None:
            raise BadModel("no node makes this graph output", tensor=info.name or "''")
        if any(t is o for o in outputs):
            remarks.append(f"output {line(info.name)} stands twice: it is one")
            continue
        if isinstance(t, gs.Variable) and all(t is not i for i in inputs):
            like = variable(info)
            t.dtype, t.shape, t.type = like.dtype, like.shape, like.type
        outputs.append(t)
    name = graph.name or "graph"
    made = gs.Graph(
        stable_topological_order(nodes), inputs, outputs, name=name, doc_string=graph.doc_string, opset=opsets[""]
    )
    for function in proto.functions:
        beside.inline(function)
    functions = [copied(f) for f in proto.functions]
    if any(f.overload for f in functions):
        raise BadModel("overloaded functions are not supported", found=next(f.name for f in functions if f.overload))
    _bound_calls(graph, functions)
    for function in functions:
        own = {o.domain: o.version for o in function.opset_import}
        refuse_impossible(with_bodies(function.node), own.get("", opsets[""]))
    wanted = {
        t.name
        for n in nodes
        if n.domain not in ("", "ai.onnx", None) or n.attrs.get(CAPTURED) is not None
        for t in n.outputs
    }
    model = Model(
        made,
        opsets=opsets,
        ir_version=proto.ir_version,
        functions=functions,
        metadata={p.key: p.value for p in proto.metadata_props},
        producer=(proto.producer_name, proto.producer_version, proto.domain, proto.model_version, proto.doc_string),
        declared={v.name: copied(v) for v in graph.value_info if v.name in wanted},
        reserved=_inner_names(graph),
    )
    model.remarks = remarks
    _name_nodes(model)
    qonnx.attach(model)
    return model


def _made_again(graph: onnx.GraphProto) -> set[str]:
    """What Constant nodes make; an input stays one, and what makes it too is refused."""
    made = {name for n in graph.node if n.op_type == "Constant" and n.domain in ("", "ai.onnx") for name in n.output}
    return made - {info.name for info in graph.input}


def _bound_calls(graph: onnx.GraphProto, functions: list[onnx.FunctionProto]) -> None:
    """Raise BadModel where functions call themselves, or where all calls written out are more than MOST_NODES."""
    known = {(f.domain, f.name): f for f in functions}
    sizes: dict[tuple[str, str], int] = {}
    stack, open_calls = [(key, False) for key in known], set()
    while stack:
        key, left = stack.pop()
        if key in sizes:
            continue
        nodes = with_bodies(known[key].node)
        calls = [(n.domain, n.op_type) for n in nodes if (n.domain, n.op_type) in known]
        if left:
            sizes[key] = len(nodes) + sum(sizes[call] for call in calls)
            open_calls.discard(key)
            continue
        open_calls.add(key)
        if key in calls or open_calls.intersection(calls):
            raise BadModel("functions call each other in a circle", found=f"{key[0]}.{key[1]}")
        stack += [(key, True), *((call, False) for call in dict.fromkeys(calls))]
    total = sum(sizes.get((n.domain, n.op_type), 0) for n in with_bodies(graph.node))
    if total > MOST_NODES:
        raise BadModel(
            "the functions that the model calls stand for too many nodes", expected=f"at most {MOST_NODES}",
            found=total if total < 10**18 else "more than 10^18",
        )  # fmt: skip


def _check_text(proto: onnx.ModelProto) -> None:
    """Names must be text: protobuf gives what is not UTF-8 as bytes."""
    strings = [
        proto.producer_name,
        proto.producer_version,
        proto.domain,
        proto.doc_string,
        proto.graph.name,
        proto.graph.doc_string,
    ]
    strings += [s for p in proto.metadata_props for s in (p.key, p.value)] + [o.domain for o in proto.opset_import]
    strings += [s for f in proto.functions for s in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    nodes = [n for f in proto.functions for n in f.node]
    graphs = [proto.graph]
    while graphs or nodes:
        if graphs:
            g = graphs.pop()
            infos = (*g.input, *g.output, *g.value_info)
            for info in infos:
                _check_type(info.name, info.type)
            strings += [t.name for t in (*g.initializer, *infos)] + [t.values.name for t in g.sparse_initializer]
            strings += [d.dim_param for v in infos for d in v.type.tensor_type.shape.dim]
            nodes += g.node
            continue
        n = nodes.pop()
        strings += [
            n.name,
            n.op_type,
            n.domain,
            *n.input,
            *n.output,
            *(a.name for a in n.attribute),
            *(a.ref_attr_name for a in n.attribute),
        ]
        graphs += bodies(n)
    _refuse_bytes(strings)


def _check_type(name: str, kind: onnx.TypeProto) -> None:
    """Raise BadModel for elements that there are not; those that nothing is said of are left to whoever needs them."""
    while (held := kind.WhichOneof("value")) is not None:
        inner = getattr(kind, held)
        element = inner.key_type if held == "map_type" else getattr(inner, "elem_type", 0)
        if isinstance(element, int) and element not in (0, *ELEMENT_TYPES):
            raise BadModel("this tensor has an unknown type", tensor=name, found=element)
        following = inner.value_type if held == "map_type" else element
        if not isinstance(following, onnx.TypeProto):
            return
        kind = following


def _refuse_bytes(strings: Iterable[str | bytes]) -> None:
    bad = next((s for s in strings if not isinstance(s, str)), None)
    if bad is not None:
        raise BadModel("a name is not text", found=repr(bad), remedy="the file is damaged: export it again")


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for o in proto.opset_import:
        domain = "" if o.domain == "ai.onnx" else o.domain
        opsets[domain] = max(o.version, opsets.get(domain, 0))
    newest = onnx.defs.onnx_opset_version()
    if "" not in opsets:
        if any(n.domain in ("", "ai.onnx") for n in proto.graph.node):
            raise BadModel("the model imports no standard opset", remedy="export it again")
        opsets[""] = min(17, newest)
    if not MIN_OPSET <= opsets[""] <= newest:
        raise BadModel(
            "the opset is not supported",
            expected=f"{MIN_OPSET} to {newest}",
            found=opsets[""],
            remedy="convert it with onnx.version_converter",
        )
    return opsets


def _nodes(graph: onnx.GraphProto, tensors: dict, beside: Beside, opset: int) -> list[gs.Node]:
    made: set[str] = set(tensors)
    for proto in graph.node:
        for name in proto.output:
            if name and name in made:
                raise BadModel("two nodes make this tensor", node=proto.name or proto.op_type, tensor=name)
            if name:
                made.add(name)
    outputs = {o.name for o in graph.output}
    nodes: list[gs.Node] = []
    for proto in graph.node:
        if not proto.op_type:
            raise BadModel("a node has no operator", node=proto.name or "''")
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx") and len(proto.output) == 1:
            name = proto.output[0]
            values = _constant_node(proto, beside)
            if values is not None and name not in outputs:
                known = tensors.get(name)
                if known is not None:  # a reader stood ahead of it
                    known.to_constant(values)
                else:
                    tensors[name] = gs.Constant(name, values)
                continue
        beside.inline(proto)
        _refuse_references(proto)
        refuse_impossible(with_bodies([proto]), opset)
        outer = captured(proto)
        given = list(proto.input)
        while given and not given[-1]:
            given.pop()
        ins = [_use(name, proto, tensors, made) for name in (*given, *outer)]
        outs = [tensors.setdefault(name, gs.Variable(name)) if name else gs.Variable.empty() for name in proto.output]
        attrs = {a.name: attribute(a) for a in proto.attribute}
        if outer:
            attrs[CAPTURED] = outer
        elif any(a.type in (_A.GRAPH, _A.GRAPHS) for a in proto.attribute):
            attrs[CAPTURED] = ()
        nodes.append(gs.Node(proto.op_type, proto.name, attrs, ins, outs, domain=proto.domain or None))
    return nodes


def _refuse_references(proto: onnx.NodeProto) -> None:
    """Raise BadModel where an attribute takes its value from one of a function, of which there is none around it."""
    for node in with_bodies([proto]):
        for a in node.attribute:
            if a.ref_attr_name:
                raise BadModel(
                    "an attribute takes its value from that of a function, outside of one", node=proto.name or proto.op_type,
                    found=f"{a.name} = {a.ref_attr_name}",
                )  # fmt: skip


def _use(name: str, proto: onnx.NodeProto, tensors: dict, made: set[str]):
    if not name:
        return gs.Variable.empty()
    if name not in made:
        raise BadModel("this input is made by no node", node=proto.name or proto.op_type, tensor=name)
    return tensors.setdefault(name, gs.Variable(name))


def _constant_node(proto: onnx.NodeProto, beside: Beside) -> np.ndarray | None:
    if len(proto.attribute) != 1:
        return None
    a = proto.attribute[0]
    if a.name == "value" and a.type == _A.TENSOR:
        return to_array(a.t, beside)
    if a.name == "sparse_value" and a.type == _A.SPARSE_TENSOR:
        beside.inline(proto)
        return densify(a.sparse_tensor)
    if a.name in ("value_int", "value_ints"):
        return read_only(np.array(a.i if a.name == "value_int" else list(a.ints), np.int64))
    if a.name in ("value_float", "value_floats"):
        return read_only(np.array(a.f if a.name == "value_float" else list(a.floats), np.float32))
    return None


def captured(proto: onnx.NodeProto) -> tuple[str, ...]:
    """The outer tensors that the node's bodies read, in order of first use."""
    found: dict[str, None] = {}

    def walk(graph: onnx.GraphProto, outer: set[str]) -> None:
        local = outer | {t.name for t in (*graph.initializer, *graph.input)}
        local |= {name for n in graph.node for name in n.output}
        for n in graph.node:
            found.update((name, None) for name in n.input if name and name not in local)
            for inner in bodies(n):
                walk(inner, local)
        found.update((o.name, None) for o in graph.output if o.name not in local)

    for body in bodies(proto):
        walk(body, set())
    return tuple(found)


def _inner_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    stack = [b for n in graph.node for b in bodies(n)]
    while stack:
        body = stack.pop()
        names.update(t.name for t in (*body.initializer, *body.input, *body.output))
        for n in body.node:
            names.update((n.name, *n.input, *n.output))
            stack += bodies(n)
    return names


def _name_nodes(model: Model) -> None:
    """Give every node a name of its own: missing ones after their operator, repeated ones with a number behind."""
    names = Names(set(model.tensors()) | model.reserved)
    seen: set[str] = set()
    for node in model.nodes:
        stem = node.name or next((t.name for t in node.outputs if t.name), node.op)
        if stem in seen:
            node.name = names.fresh(stem)
        else:  # a node may be named as a tensor is
            node.name = stem
            names.take(stem)
        seen.add(node.name)
