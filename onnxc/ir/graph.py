"""What holds of any onnx-graphsurgeon graph: domains that count as standard, read-only arrays, order, cheap edits and
copies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList

from .errors import BadModel

DOMAIN = "ai.onnxc"
"""The domain of our own functions."""
CAPTURED = "onnxc.captured"
"""The attribute that names the outer tensors which a node's bodies read."""
STANDARD = ("", "ai.onnx", None)

Tensor: TypeAlias = gs.Variable | gs.Constant


def read_only(values: np.ndarray | np.generic) -> np.ndarray:
    """A read-only view of `values`, at least an array of rank 0."""
    values = np.asarray(values).view()
    values.flags.writeable = False
    return values


def position(items: list, one, near: int = 0) -> int:
    """Where `one` stands in `items`, by identity; -1 if nowhere. The search begins at `near`, just ahead of where the
    last one was: edits go through a graph in its order or against it, so that each finds its place at once."""
    near = max(0, min(near, len(items)) - 1)
    for i in range(near, len(items)):
        if items[i] is one:
            return i
    return next((i for i in range(near) if items[i] is one), -1)


def unlink(items: SynchronizedList, one) -> None:
    """Take `one` out of the readers or makers of a tensor once, by identity."""
    at = position(items, one, getattr(items, "near", 0))
    if at >= 0:
        list.__delitem__(items, at)
        items.near = at


def _unlink_from(self: SynchronizedList, elem) -> None:
    unlink(getattr(elem, self.field_name), self.parent_obj)


# gs looks for the reader to take out by equality, which compares whole nodes with everything that reads the same tensor:
# a constant with n readers would cost n * n comparisons of nodes. Its lists are right, only slow.
SynchronizedList._remove_from_elem = _unlink_from


class Names:
    """Names that are taken, and new ones: `stem`, else `stem_1`, `stem_2`, ... Many of one stem cost no more than one."""

    def __init__(self, taken: Iterable[str]):
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def take(self, name: str) -> None:
        """From now on this name is taken."""
        self._taken.add(name)

    def fresh(self, stem: str) -> str:
        """A name that was not taken, and is now."""
        name = stem
        if name in self._taken:
            i = self._next.get(stem, 1)
            while (name := f"{stem}_{i}") in self._taken:
                i += 1
            self._next[stem] = i + 1
        self._taken.add(name)
        return name


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
