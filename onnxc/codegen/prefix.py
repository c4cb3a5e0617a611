"""A model up to one of its nodes, as a model of its own.

x -> a -> b -> c -> y   up to b:   x -> a -> b
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx

from onnxc.ir.table import follow_no_weights, followed

SMALL = 1024  # elements; larger weights are of no use to type inference


def kinds_of(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of tensors that nodes make, as far as ONNX can tell; large weights are not read."""
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph, own = skeleton.graph, proto.graph
    graph.name = "skeleton"
    graph.node.extend(own.node)
    graph.output.extend(own.output)
    graph.input.extend(own.input)
    given = {value.name for value in own.input}
    for tensor in own.initializer:
        count = 1
        for extent in tensor.dims:
            count *= extent
        if count <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    follow_no_weights(graph, given)
    inferred = followed(skeleton)
    known = {value.name: value.type for value in (*own.value_info, *inferred.value_info, *inferred.output)}
    return {name: kind for name, kind in known.items() if kind.tensor_type.elem_type}


def needed(proto: onnx.ModelProto, outputs: Iterable[str]) -> list[int]:
    """The numbers of the nodes that `outputs` are computed by, in order."""
    wanted, found = set(outputs), []
    for i in range(len(proto.graph.node) - 1, -1, -1):
        node = proto.graph.node[i]
        if not wanted.isdisjoint(node.output):
            wanted.update(_reads(node))
            found.append(i)
    return found[::-1]


def until(proto: onnx.ModelProto, numbers: Sequence[int], outputs: Iterable[str], kinds: dict) -> onnx.ModelProto:
    """The model of the nodes `numbers` alone, which need no others.

    Its outputs are all that the rest of the model reads of them, and those of `outputs` that they make, as far as their type
    is known: what is wrong anywhere in it is wrong in one of these. Arrays of weights are copied.
    """
    nodes = [proto.graph.node[i] for i in numbers]
    rest = set(range(len(proto.graph.node))).difference(numbers)
    wanted = {name for i in rest for name in _reads(proto.graph.node[i])}.union(outputs)
    last = [name for node in nodes for name in node.output if name in wanted and name in kinds]
    made = onnx.ModelProto(ir_version=proto.ir_version)
    made.opset_import.extend(proto.opset_import)
    made.functions.extend(proto.functions)
    made.graph.name = proto.graph.name or "graph"
    made.graph.node.extend(nodes)
    read = {name for node in nodes for name in _reads(node)}
    made.graph.input.extend(value for value in proto.graph.input if value.name in read)
    made.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name in read)
    made.graph.output.extend(onnx.ValueInfoProto(name=name, type=kinds[name]) for name in last)
    return made


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, in its bodies too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)
