"""Initial states of recurrent layers that are zeros, which is what a layer without them begins with.

LSTM(x, W, R, B, , ConstantOfShape(...), Slice(ConstantOfShape(...)))   ->   LSTM(x, W, R, B)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ...ir.values import attribute_array
from ..editor import Editor

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
PICKED = {
    "Slice",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Tile",
    "Transpose",
    "Identity",
    "Gather",
    "Cast",
    "Flatten",
}
"""Operators whose results hold nothing but numbers of their first input."""
DEPTH = 16


def zero_states(e: Editor, node: gs.Node) -> bool:
    """Leave out the initial states of `node` that surely are zeros."""
    gone = [i for i in STATES.get(node.op, ()) if i < len(node.inputs) and _zeros(e, node.inputs[i], DEPTH)]
    if not gone:
        return False
    inputs = [gs.Variable.empty() if i in gone else t for i, t in enumerate(node.inputs)]
    while inputs and not inputs[-1].name:
        inputs.pop()
    e.set_inputs(node, inputs)
    e.edited(node, "its initial state is zero, as without one")
    return True


def _zeros(e: Editor, t: Tensor, depth: int) -> bool:
    if isinstance(t, gs.Constant):
        return t.values.dtype.kind in "fiu" and not np.any(t.values)
    maker = e.producer(t)
    if maker is None or not depth:
        return False
    if maker.op == "ConstantOfShape":
        value = attribute_array(maker.attrs.get("value"))
        return value is None or not np.any(value)
    if maker.op == "Split" or maker.op in PICKED:
        return _zeros(e, maker.inputs[0], depth - 1)
    return maker.op == "Concat" and all(_zeros(e, x, depth - 1) for x in maker.inputs)
