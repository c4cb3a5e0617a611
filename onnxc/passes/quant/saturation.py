"""The part of a tensor's range that its readers can tell apart: a quantiser need not spend levels on the rest.

HardSwish gives 0 for all x <= -3, HardSigmoid is flat outside [-3, 3] (for alpha 1/6), Relu below 0, Clip outside its
bounds. A tensor that goes nowhere else is clipped there without any change of the result.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from ...ir.model import Model, Tensor
from .placement import clip_bounds

Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)


def distinguished(model: Model, t: Tensor) -> Range:
    """The least interval outside which no reader of `t` sees a difference."""
    if model.is_output(t) or not t.outputs:
        return EVERYTHING
    ranges = [_of_reader(model, node, t) for node in t.outputs]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _of_reader(model: Model, node: gs.Node, t: Tensor) -> Range:
    if not model.is_standard(node):
        return EVERYTHING
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op == "HardSwish":
        return -3.0, math.inf
    if node.op == "HardSigmoid":
        return _hard_sigmoid(node)
    if node.op == "Clip" and node.inputs[0] is t:
        return clip_bounds(node) or EVERYTHING
    if node.op == "Mul" and len(node.inputs) == 2:
        # x * HardSigmoid(x): 0 wherever the second factor is
        gate = node.inputs[1] if node.inputs[0] is t else node.inputs[0]
        maker = gate.inputs[0] if isinstance(gate, gs.Variable) and gate.inputs else None
        if maker is not None and model.is_standard(maker, "HardSigmoid") and maker.inputs[0] is t:
            return _hard_sigmoid(maker)[0], math.inf
    return EVERYTHING


def _hard_sigmoid(node: gs.Node) -> Range:
    """max(0, min(1, alpha x + beta)) moves between -beta / alpha and (1 - beta) / alpha."""
    alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else EVERYTHING
