"""One copy of what several bodies store alike: it stands outside, where all of them capture it.

    If(c) {MatMul(x, W int8)} {MatMul(-x, W int8)}   ->   W int8 once, captured by both branches

A pass that changes a captured weight leaves the new one in each body that it works on: this puts them together again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from .graph import CAPTURED
from .model import Model, Tensor
from .nodes import bodies
from .reading import captured
from .writing import rename

LEAST = 64
"""Bytes below which a second copy costs less than the capture."""
_A = onnx.AttributeProto
Key = tuple[int, tuple[int, ...], bytes]


def hoist(model: Model) -> int:
    """Put equal initialisers of the bodies of `model`, or of one and the model, into the model; how many copies went."""
    holders = [node for node in model.nodes if CAPTURED in node.attrs]
    counts = Counter(key for node in holders for _, _, key in _stored(node))
    outside = _outside(model, {key[:2] for key in counts})
    shared = {key for key, count in counts.items() if count > 1 or key in outside}
    gone = 0
    for node in holders:
        if any(key in shared for _, _, key in _stored(node)):
            gone += _capture(model, node, shared, outside)
    return gone


def _capture(model: Model, node: gs.Node, shared: set[Key], outside: dict[Key, Tensor]) -> int:
    for name, value in node.attrs.items():
        if isinstance(value, _A) and value.type in (_A.GRAPH, _A.GRAPHS):
            node.attrs[name] = _A()  # a copy: other models hold the same attribute
            node.attrs[name].CopyFrom(value)
    names, gone = node.attrs[CAPTURED], 0
    own = len(node.inputs) - len(names)
    tensors = dict(zip(names, node.inputs[own:], strict=True))
    for graph, t, key in list(_stored(node)):
        if key not in shared:
            continue
        if key not in outside:
            outside[key] = model.constant(t.name, onnx.numpy_helper.to_array(t))
        # a name that no other body of the node gives to anything else
        old, inside = t.name, model.fresh(t.name)
        tensors[inside] = outside[key]
        del graph.initializer[[one.name for one in graph.initializer].index(old)]
        rename(graph, {old: inside})
        gone += 1
    now = captured(_proto(node))
    node.attrs[CAPTURED] = now
    kept = [*node.inputs[:own], *(tensors[name] for name in now)]
    node.inputs.clear()
    node.inputs.extend(kept)
    return gone


def _outside(model: Model, alike: set[tuple[int, tuple[int, ...]]]) -> dict[Key, Tensor]:
    """The model's own initialisers of these types and shapes."""
    found: dict[Key, Tensor] = {}
    for t in model.constants().values():
        kind = int(onnx.helper.np_dtype_to_tensor_dtype(t.values.dtype))
        if (kind, t.values.shape) in alike:
            found.setdefault((kind, t.values.shape, _digest(t.values.tobytes())), t)
    return found


def _proto(node: gs.Node) -> onnx.NodeProto:
    graphs = [v for v in node.attrs.values() if isinstance(v, _A) and v.type in (_A.GRAPH, _A.GRAPHS)]
    made = onnx.NodeProto()
    made.attribute.extend(graphs)
    return made


def _stored(node: gs.Node) -> Iterator[tuple[onnx.GraphProto, onnx.TensorProto, Key]]:
    """The initialisers of the bodies of a node, at any depth, with the graphs that hold them."""
    stack = [
        graph
        for v in node.attrs.values()
        if isinstance(v, _A)
        for graph in ([v.g] if v.type == _A.GRAPH else v.graphs if v.type == _A.GRAPHS else ())
    ]
    while stack:
        graph = stack.pop()
        for t in graph.initializer:
            if len(t.raw_data) >= LEAST:
                yield graph, t, (t.data_type, tuple(t.dims), _digest(t.raw_data))
        stack += [inner for n in graph.node for inner in bodies(n)]


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()
