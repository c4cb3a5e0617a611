"""Mutations of ONNX models that know what a model is: operators, attributes, shapes, types, names, edges, functions, bodies,
initialisers; bytes are damaged last. `mutated(rng, model, others)` gives the bytes of one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
import mutate

INTS = (0, 1, -1, 2, 3, 7, -2, 32, 200, 65537, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
NAMES = ("", "x", "y", "a b", "a/b", "../a", "\n", "\x1b[2J", "%s", "ж", "*/", '"', "\u202e", "n" * 3000, "a\x00b")
DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "ai.onnxc", "x", "qonnx.custom_op.general", "ai.onnx.training")
SMALL = 1 << 20
"""Bytes that a model may have to be mutated further."""

Rng = np.random.Generator


def pick(rng: Rng, items):
    """One of a sequence."""
    return items[int(rng.integers(len(items)))]


def graphs(model: ModelProto) -> list[GraphProto]:
    """The graph and all bodies in it."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            for a in node.attribute:
                found += [a.g] if a.type == AttributeProto.GRAPH else list(a.graphs)
    return found


def places(rng: Rng, model: ModelProto):
    """Where nodes stand: a graph, a body, or a function."""
    return pick(rng, [*graphs(model), *model.functions])


def node_of(rng: Rng, model: ModelProto) -> NodeProto | None:
    place = places(rng, model)
    return pick(rng, place.node) if place.node else None


def names_of(place) -> list[str]:
    """Tensors that a node in `place` could read."""
    inputs = [i if isinstance(i, str) else i.name for i in place.input]
    weights = [t.name for t in getattr(place, "initializer", ())]
    return [*inputs, *weights, *(o for n in place.node for o in n.output)] or ["x"]


# nodes


def another_operator(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    node, like = node_of(rng, model), node_of(rng, pick(rng, others))
    if node is None or like is None:
        return
    node.op_type, node.domain = like.op_type, like.domain
    if rng.random() < 0.5:
        del node.attribute[:]
        node.attribute.extend(like.attribute)


def another_edge(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    place = places(rng, model)
    if not place.node:
        return
    node = pick(rng, place.node)
    names = [*names_of(place), "", "missing"]
    match int(rng.integers(6)):
        case 0:
            node.input.append(pick(rng, names))
        case 1 if node.input:
            del node.input[int(rng.integers(len(node.input)))]
        case 2 if node.output:
            node.output[int(rng.integers(len(node.output)))] = pick(rng, [*names, "new"])
        case 3:
            node.output.append(pick(rng, ["", "extra", *names]))
        case 4 if len(node.input) > 1:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        case _ if node.input:
            node.input[int(rng.integers(len(node.input)))] = pick(rng, names)


def fewer_or_more_nodes(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    place = places(rng, model)
    if not place.node:
        return
    at = int(rng.integers(len(place.node)))
    match int(rng.integers(4)):
        case 0:
            del place.node[at]
        case 1:
            node = NodeProto()
            node.CopyFrom(place.node[at])
            for i, name in enumerate(node.output):
                node.output[i] = f"{name}_twin"
            place.node.append(node)
        case 2:
            nodes = list(place.node)
            rng.shuffle(nodes)
            del place.node[:]
            place.node.extend(nodes)
        case _:  # in between: what reads its output reads that of another operator
            like = node_of(rng, pick(rng, others))
            if like is None or not place.node[at].input:
                return
            node = NodeProto()
            node.CopyFrom(like)
            del node.output[:]
            node.output.append("between")
            if node.input:
                node.input[0] = place.node[at].input[0]
            place.node[at].input[0] = "between"
            for i in range(1, len(node.input)):
                node.input[i] = pick(rng, names_of(place))
            place.node.insert(at, node)


def another_attribute(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    node = node_of(rng, model)
    if node is None:
        return
    if not node.attribute or rng.random() < 0.1:
        like = node_of(rng, pick(rng, others))
        node.attribute.extend([] if like is None else like.attribute)
        return
    a = pick(rng, node.attribute)
    match int(rng.integers(8)):
        case 0:
            node.attribute.remove(a)
        case 1:
            a.name = pick(rng, [*NAMES, *(b.name for b in node.attribute)])
        case 2:
            a.type = pick(rng, (0, *range(1, 15), 99))
        case 3:
            a.ref_attr_name = pick(rng, NAMES[:4])
        case 4:
            node.attribute.append(a)
        case _:
            odd_value(rng, a)


def odd_value(rng: Rng, a: AttributeProto) -> None:
    a.i = pick(rng, INTS)
    a.f = pick(rng, FLOATS)
    a.s = pick(rng, (b"", b"SAME_UPPER", b"VALID", b"linear", b"\xff\xfe", b"x" * 3000, b"i,j->k", b"...i->i"))
    for numbers, odd in ((a.ints, INTS), (a.floats, FLOATS)):
        if numbers and rng.random() < 0.8:
            numbers[int(rng.integers(len(numbers)))] = pick(rng, odd)
        if rng.random() < 0.3:
            numbers.append(pick(rng, odd))
        elif numbers and rng.random() < 0.3:
            del numbers[-1]
    if a.type == AttributeProto.TENSOR:
        odd_tensor(rng, a.t)
    if a.type == AttributeProto.INT:  # near what it was, more often than far
        a.i = int(rng.integers(-3, 9)) if rng.random() < 0.5 else a.i


# tensors


def odd_tensor(rng: Rng, t: TensorProto) -> None:
    match int(rng.integers(9)):
        case 0 if t.dims:
            t.dims[int(rng.integers(len(t.dims)))] = pick(rng, INTS)
        case 1:
            t.dims.append(pick(rng, INTS[:4]))
        case 2 if t.dims:
            del t.dims[-1]
        case 3:
            t.data_type = int(rng.integers(0, 28))
        case 4 if len(t.dims) > 1:
            t.dims[0], t.dims[-1] = t.dims[-1], t.dims[0]
        case 5:
            t.name = pick(rng, NAMES)
        case 6:
            t.data_location = TensorProto.EXTERNAL
            where = pick(rng, ("/etc/passwd", "../x", "x", "", "/dev/zero", "a\x00"))
            for key, value in (("location", where), ("offset", str(pick(rng, INTS))), ("length", str(pick(rng, INTS)))):
                t.external_data.add(key=key, value=value)
        case _:
            odd_numbers(rng, t)


def odd_numbers(rng: Rng, t: TensorProto) -> None:
    try:
        values = onnx.numpy_helper.to_array(t).copy()
    except Exception:  # noqa: BLE001  what cannot be read stays as it is
        return
    if not values.size or values.dtype == object or values.size > SMALL:
        return
    odd = INTS if values.dtype.kind in "iu" else FLOATS
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        match int(rng.integers(4)):
            case 0:
                flat[:] = np.asarray(pick(rng, odd)).astype(values.dtype)
            case 1:
                flat[int(rng.integers(flat.size))] = np.asarray(pick(rng, odd)).astype(values.dtype)
            case 2:
                flat[:] = flat[::-1]
            case _:
                flat[:] = rng.integers(-2, 5, flat.size).astype(values.dtype)
    name = t.name
    t.CopyFrom(onnx.numpy_helper.from_array(values, name))


def another_weight(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    graph = pick(rng, graphs(model))
    if not graph.initializer:
        return
    t = pick(rng, graph.initializer)
    match int(rng.integers(8)):
        case 0:
            graph.initializer.remove(t)
        case 1:
            graph.initializer.append(t)
        case 2:  # an input, which nobody gives a value
            graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
            if rng.random() < 0.5:
                graph.initializer.remove(t)
        case 3:
            sparse = graph.sparse_initializer.add(dims=[pick(rng, INTS) for _ in range(int(rng.integers(0, 3)))])
            sparse.values.CopyFrom(t)
            count = int(rng.integers(0, 4))
            sparse.indices.CopyFrom(
                helper.make_tensor("", TensorProto.INT64, [count], [pick(rng, INTS) for _ in range(count)])
            )
        case 4:  # a node makes it
            node = helper.make_node("Constant", [], [t.name], value=t)
            graph.initializer.remove(t)
            graph.node.insert(int(rng.integers(len(graph.node) + 1)), node)
        case _:
            odd_tensor(rng, t)


# interfaces


def another_interface(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    graph = pick(rng, graphs(model))
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = pick(rng, infos)
    kind = info.type.tensor_type
    match int(rng.integers(9)):
        case 0 | 1 | 2 if kind.shape.dim:
            dim = pick(rng, kind.shape.dim)
            if rng.random() < 0.3:
                dim.dim_param = pick(rng, ("N", "H", "N", "batch", "", "n" * 300, "\x1b[0m"))
            else:
                dim.dim_value = pick(rng, INTS)
        case 3:
            kind.shape.dim.add(dim_value=pick(rng, INTS[:6]))
        case 4 if kind.shape.dim:
            del kind.shape.dim[-1]
        case 5:
            kind.elem_type = int(rng.integers(0, 28))
        case 6:
            info.type.Clear() if rng.random() < 0.5 else kind.ClearField("shape")
        case 7:
            info.name = pick(rng, [*NAMES, *names_of(graph)])
        case _:
            many = pick(rng, (graph.input, graph.output, graph.value_info))
            if many and rng.random() < 0.5:
                del many[int(rng.integers(len(many)))]
            else:
                many.add().CopyFrom(info)
                many[-1].name = pick(rng, names_of(graph))


def another_name(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    place = places(rng, model)
    new = pick(rng, NAMES)
    if rng.random() < 0.5 or not place.node:
        node = node_of(rng, model)
        if node is not None:
            node.name = pick(rng, [new, *(n.name for n in place.node)])
        return
    old = pick(rng, names_of(place))  # everywhere: the model stays sound
    for node in place.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new if name == old else name
    for info in (
        *getattr(place, "initializer", ()),
        *(i for i in (*place.input, *place.output) if not isinstance(i, str)),
    ):
        info.name = new if info.name == old else info.name


# functions and bodies


def in_a_function(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    """A node of the graph becomes the call of a function that holds it, now and then one that calls itself."""
    graph = pick(rng, graphs(model))
    if not graph.node:
        return
    node = pick(rng, graph.node)
    inner = NodeProto()
    inner.CopyFrom(node)
    name = pick(rng, ("F", "F", "Conv", node.op_type or "F"))
    inputs, outputs = [f"i{i}" for i in range(len(node.input))], [f"o{i}" for i in range(len(node.output))]
    inner.input[:], inner.output[:] = [i if old else "" for i, old in zip(inputs, node.input)], outputs
    nodes = [inner]
    if rng.random() < 0.1:
        nodes = [helper.make_node(name, inputs, outputs, domain="local")]
    function = helper.make_function("local", name, inputs, outputs, nodes, list(model.opset_import))
    if rng.random() < 0.3 and inner.attribute:
        a = pick(rng, inner.attribute)
        function.attribute.append(a.name)
        a.ref_attr_name = a.name
    node.op_type, node.domain = name, "local"
    if rng.random() < 0.8:
        model.functions.append(function)
    if rng.random() < 0.9:
        model.opset_import.append(helper.make_opsetid("local", 1))


def in_a_body(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    """A node of the graph goes into the branches of an If, or into a Loop, which capture what it reads."""
    graph = pick(rng, graphs(model))
    if not graph.node:
        return
    at = int(rng.integers(len(graph.node)))
    node = graph.node[at]
    outputs = [onnx.ValueInfoProto(name=f"{o}_in") for o in node.output]
    for info in outputs:
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    inner = NodeProto()
    inner.CopyFrom(node)
    inner.output[:] = [o.name for o in outputs]
    if rng.random() < 0.5:
        flag = helper.make_tensor("flag", TensorProto.BOOL, [], [bool(rng.random() < 0.5)])
        graph.initializer.append(flag)
        body = helper.make_graph([inner], "branch", [], outputs)
        made = helper.make_node("If", ["flag"], list(node.output), then_branch=body, else_branch=body)
    else:
        trips = helper.make_tensor("trips", TensorProto.INT64, [], [pick(rng, (0, 1, 2, 3, 100, 10**9, -1))])
        graph.initializer.append(trips)
        ends = [
            helper.make_tensor_value_info(n, k, []) for n, k in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
        ]
        same = helper.make_node("Identity", ["go"], ["on"])
        on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
        body = helper.make_graph([inner, same], "body", ends, [on, *outputs])
        made = helper.make_node("Loop", ["trips", ""], list(node.output), body=body)
    del graph.node[at]
    graph.node.insert(at, made)


def another_header(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    match int(rng.integers(7)):
        case 0:
            model.ir_version = pick(rng, (0, 1, 3, 4, 7, 8, 10, 11, 13, 99, 2**40))
        case 1 if model.opset_import:
            pick(rng, model.opset_import).version = pick(rng, (*range(1, 30), 2**40, -1))
        case 2:
            model.opset_import.append(helper.make_opsetid(pick(rng, DOMAINS), int(rng.integers(0, 30))))
        case 3 if model.functions:
            del model.functions[int(rng.integers(len(model.functions)))]
        case 4:
            model.metadata_props.add(key=pick(rng, NAMES), value=pick(rng, NAMES))
        case 5:
            model.training_info.add().algorithm.CopyFrom(model.graph)
        case _:
            node = node_of(rng, model)
            if node is not None:
                node.domain = pick(rng, DOMAINS)


def spliced(rng: Rng, model: ModelProto, others: list[ModelProto]) -> None:
    """Another model behind one tensor of this one, or beside it."""
    other = ModelProto()
    other.CopyFrom(pick(rng, others))
    if len(other.graph.node) + len(model.graph.node) > 200:
        return
    renamed = {}
    if other.graph.input and rng.random() < 0.7:
        renamed[other.graph.input[0].name] = pick(rng, names_of(model.graph))
        del other.graph.input[0]
    for node in other.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, f"s_{name}" if name else "")
    for info in (*other.graph.input, *other.graph.output, *other.graph.initializer):
        info.name = f"s_{info.name}"
    for field in ("node", "input", "output", "initializer"):
        getattr(model.graph, field).extend(getattr(other.graph, field))
    model.functions.extend(other.functions)


KINDS: tuple[Callable[[Rng, ModelProto, list[ModelProto]], None], ...] = (
    another_operator, another_edge, another_edge, fewer_or_more_nodes, another_attribute, another_attribute, another_attribute,
    another_weight, another_weight, another_interface, another_interface, another_name, in_a_function, in_a_body,
    another_header, spliced,
)  # fmt: skip


def mutated(rng: Rng, model: ModelProto, others: list[ModelProto]) -> bytes:
    """The bytes of `model`, changed in one to four places; one in ten has damaged bytes besides."""
    made = ModelProto()
    made.CopyFrom(model)
    for _ in range(int(rng.choice((1, 1, 1, 2, 2, 3, 4)))):
        try:
            pick(rng, KINDS)(rng, made, others)
        except (ValueError, TypeError, IndexError):  # a value that the field does not take
            continue
    data = made.SerializeToString()
    return mutate.damage(rng, data) if rng.random() < 0.1 else data
