"""What holds of any onnx-graphsurgeon graph: domains that count as standard, read-only arrays, order, cheap copies."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from .errors import BadModel

DOMAIN = "ai.onnxc"
"""The domain of our own functions."""
CAPTURED = "onnxc.captured"
"""The attribute that names the outer tensors which a node's bodies read."""
STANDARD = ("", "ai.onnx", None)

Tensor = gs.Variable | gs.Constant


def read_only(values: np.ndarray) -> np.ndarray:
    """A read-only view of `values`, at least an array of rank 0."""
    values = np.asarray(values).view()
    values.flags.writeable = False
    return values


def stable_topological_order(nodes: list[gs.Node]) -> list[gs.Node]:
    """Nodes with producers ahead of readers; ties keep their order. Raises BadModel on a cycle, naming a node in it."""
    made_by = {id(t): i for i, n in enumerate(nodes) for t in n.outputs if t.name}
    order: list[int] = []
    state = [0] * len(nodes)
    for start in range(len(nodes)):
        if state[start]:
            continue
        stack = [(start, iter(_needed(nodes[start], made_by)))]
        state[start] = 1
        while stack:
            i, needs = stack[-1]
            for j in needs:
                if state[j] == 1:
                    raise BadModel("the graph has a cycle", node=nodes[j].name or nodes[j].op, remedy="export it again")
                if state[j] == 0:
                    state[j] = 1
                    stack.append((j, iter(_needed(nodes[j], made_by))))
                    break
            else:
                state[i] = 2
                order.append(i)
                stack.pop()
    return [nodes[i] for i in order]


def _needed(node: gs.Node, made_by: dict[int, int]) -> list[int]:
    return [made_by[id(t)] for t in node.inputs if id(t) in made_by]


def copy_graph(graph: gs.Graph) -> gs.Graph:
    """A copy with new nodes and tensors that shares weight arrays and attribute values (gs looks up by name)."""
    twins: dict[int, Tensor] = {}

    def twin(t: Tensor) -> Tensor:
        found = twins.get(id(t))
        if found is None:
            if isinstance(t, gs.Constant):
                found = gs.Constant(t.name, t._values)
            else:
                found = gs.Variable(t.name, t.dtype, t.shape, t.type)
            twins[id(t)] = found
        return found

    inputs = [twin(t) for t in graph.inputs]
    nodes = [
        gs.Node(n.op, n.name, dict(n.attrs), [twin(t) for t in n.inputs], [twin(t) for t in n.outputs], domain=n.domain)
        for n in graph.nodes
    ]
    outputs = [twin(t) for t in graph.outputs]
    return gs.Graph(nodes, inputs, outputs, name=graph.name, doc_string=graph.doc_string, opset=graph.opset)
