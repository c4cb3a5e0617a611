"""Common subexpressions and equal constants: the second one reads, or is, the first.

Two nodes are one when operator, domain, attributes, inputs and the number of outputs agree; random operators, bodies,
functions and foreign operators (whose determinism nobody knows) are left. Constants are one when type, shape and every
bit agree.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.evaluate import core
from ..editor import Editor, opaque
from .fold import RANDOM

SAMPLE = 16


class Pool:
    """Constants by contents: `first(t)` is the first initialiser that was seen with the contents of `t`."""

    def __init__(self) -> None:
        self._buckets: dict[tuple, list[gs.Constant]] = {}
        self._known: dict[int, gs.Constant] = {}
        self._kept: list[gs.Constant] = []

    def first(self, t: gs.Constant) -> gs.Constant:
        found = self._known.get(id(t))
        if found is None:
            bucket = self._buckets.setdefault(_key(t.values), [])
            found = next((other for other in bucket if equal(other.values, t.values)), None)
            if found is None:
                bucket.append(t)
                found = t
            self._known[id(t)] = found
            self._kept.append(t)  # an id is only good while its object lives
        return found


def _key(values: np.ndarray) -> tuple:
    """Type, shape and a few elements: enough to tell most constants apart without reading them."""
    if values.dtype == object:
        return "object", values.shape
    c = core(values)
    if c.size > 2 * SAMPLE:
        flat = c.reshape(-1) if c.flags.c_contiguous else c[tuple(slice(0, 4) for _ in c.shape)].reshape(-1)
        c = flat[:: max(1, flat.size // SAMPLE)]
    return values.dtype.str, values.dtype.name, values.shape, c.tobytes()


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type and shape agree in every bit."""
    if a is b:
        return True
    if a.dtype == object:
        return a.tolist() == b.tolist()
    if a.__array_interface__["data"][0] == b.__array_interface__["data"][0] and a.strides == b.strides:
        return True
    x, y = core(a), core(b)
    if x.shape != y.shape:
        x, y = a, b
    if x.dtype.itemsize in (1, 2, 4, 8):
        x, y = (np.ascontiguousarray(v).view(f"u{v.dtype.itemsize}") for v in (x, y))
        return bool(np.array_equal(x, y))
    return x.tobytes() == y.tobytes()


def share_constants(e: Editor, node: gs.Node, pool: Pool) -> bool:
    """Let `node` read the first of equal constants."""
    changed = False
    for i, t in enumerate(node.inputs):
        if isinstance(t, gs.Constant) and t.name:
            first = pool.first(t)
            if first is not t:
                e.set_input(node, i, first)
                e.edited(t.name, f"the same as {first.name}")
                changed = True
    return changed


def expression(node: gs.Node) -> tuple | None:
    """What `node` computes, as a key; None for a node that must stay as it is."""
    if opaque(node) or node.op in RANDOM or node.op == "Constant" or not node.inputs:
        return None
    if node.op == "Dropout" and len(node.inputs) > 2:
        return None
    inputs = tuple(id(t) if t.name else 0 for t in node.inputs)
    attrs = tuple(sorted((k, _plain(v)) for k, v in node.attrs.items()))
    return node.op, inputs, attrs, tuple(bool(t.name) for t in node.outputs)


def _plain(value):
    if isinstance(value, onnx.AttributeProto):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    return type(value).__name__, tuple(value) if isinstance(value, list) else value


def common(e: Editor, node: gs.Node, seen: dict[tuple, gs.Node]) -> bool:
    """Remove `node` where an earlier node computes the same."""
    key = expression(node)
    if key is None:
        return False
    first = seen.setdefault(key, node)
    if first is node:
        return False
    pairs = list(zip(node.outputs, first.outputs, strict=True))
    for out, source in pairs:
        if out.name and e.is_output(out):
            if len(pairs) > 1 or e.is_output(source):
                return e.refuse(node, f"the same as {first.name}, but both are graph outputs")
    name = node.name
    if len(pairs) == 1:
        if not e.bypass(node, pairs[0][1]):
            return False
    else:
        e.kill(node)
        for out, source in pairs:
            if out.name:
                e.model.replace_uses(out, source)
    e.edited(name, f"the same as {first.name}")
    return True
