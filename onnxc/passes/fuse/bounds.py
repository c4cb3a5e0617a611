"""Consecutive bounds become one: Clip, Relu, and Min or Max with one number.

Each is f(x) = min(h, max(l, x)). For l <= h and m <= k, Clip(Clip(x, l, h), m, k) is monotone and flat outside
[l, h], so it is Clip(x, f(l), f(h)) with f the outer one.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..editor import Editor

BOUNDS = ("Clip", "Relu", "Min", "Max")
INF = float("inf")


def bounds_of(e: Editor, node: gs.Node) -> tuple[gs.Variable, float, float] | None:
    """The variable and the bounds of a node, or None."""
    if node.op == "Relu":
        return node.inputs[0], 0.0, INF
    if node.op == "Clip":
        ends = [node.attrs.get("min", -INF), node.attrs.get("max", INF)]
        for i, t in enumerate(node.inputs[1:]):
            if t.name and not isinstance(t, gs.Constant):
                return None
            if t.name:
                ends[i] = float(t.values.reshape(()))
        return node.inputs[0], *ends
    if node.op in ("Min", "Max") and len(node.inputs) == 2:
        for i in (0, 1):
            t = node.inputs[1 - i]
            if isinstance(t, gs.Constant) and t.values.size == 1 and e.same_shape(node.inputs[i], node.outputs[0]):
                c = float(t.values.reshape(()))
                return (node.inputs[i], c, INF) if node.op == "Max" else (node.inputs[i], -INF, c)
    return None


def merge_bounds(e: Editor, node: gs.Node) -> bool:
    """Clip(Relu(x)), Relu(Clip(x)), Min(Max(x, l), h), ... -> Clip(x, low, high), or Relu."""
    if node.op not in BOUNDS:
        return False
    outer = bounds_of(e, node)
    maker = e.producer(outer[0], *BOUNDS) if outer is not None else None
    inner = bounds_of(e, maker) if maker is not None else None
    if outer is None or maker is None or inner is None:
        return False
    dtype = e.dtype(node.outputs[0])
    if dtype is None or dtype.name not in ("float16", "float32", "float64"):
        return e.refuse(node, "only floating-point bounds are merged")
    if not e.alone(outer[0]):
        why = "is a graph output" if e.is_output(outer[0]) else "has other readers"
        return e.refuse(node, f"{maker.name} before it {why}")
    (x, low, high), (_, m, k) = inner, outer
    if np.isnan([low, high, m, k]).any() or low > high or m > k:
        return e.refuse(node, "bounds that cross are left as they are")
    new_low, new_high = (min(k, max(m, v)) for v in (low, high))
    _write(e, node, x, new_low, new_high, dtype)
    e.edited(node, f"merged with {maker.name}")
    return True


def _write(e: Editor, node: gs.Node, x, low: float, high: float, dtype: np.dtype) -> None:
    if low == 0 and high == INF:
        e.rewrite(node, "Relu", [x])
    elif e.model.opset < 11:
        attrs = {k: v for k, v in (("min", low), ("max", high)) if abs(v) != INF}
        e.rewrite(node, "Clip", [x], attrs)
    else:
        ends = [
            gs.Variable.empty() if abs(v) == INF else e.constant(f"{node.name}_{stem}", np.array(v, dtype))
            for stem, v in (("min", low), ("max", high))
        ]
        e.rewrite(node, "Clip", [x, *(ends if abs(high) != INF else ends[:1])])
