"""Two-valued activations, however an exporter wrote them, as Binarize. What happens at x = t is kept apart:

up      x >= t is the upper level     Where(x >= t, a, -a), 2 * Cast(x >= t) - 1, Sign(Sign(x) + 0.1)
down    x <= t is the lower level     Where(x > t, a, -a), 2 * Cast(x > t) - 1, Sign(Sign(x) - 0.1)
zero    0 is a level of its own       Sign(x)

up    ->  a * Binarize(x - t): in IEEE arithmetic x - t >= 0 exactly where x >= t
down  ->  -a * Binarize(t - x), or as `up` where x = t never happens
zero  ->  Binarize(x) where x = 0 never happens; else it stays
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.model import Model, Tensor

COMPARISONS = {"GreaterOrEqual": ("up", False), "Greater": ("down", False), "Less": ("up", True),
               "LessOrEqual": ("down", True)}  # fmt: skip
"""Operator -> (kind, whether the lower level is where it holds), for x on the left side."""
TURNED = {"GreaterOrEqual": "LessOrEqual", "Greater": "Less", "Less": "Greater", "LessOrEqual": "GreaterOrEqual"}


@dataclass
class Step:
    """y = level where x is above the threshold, -level below. kind: what happens at the threshold."""

    node: gs.Node
    x: Tensor
    kind: str
    threshold: np.ndarray | None = None
    level: float = 1.0


def scalar(t: Tensor) -> float | None:
    """The number that an initialiser of one element holds, or None."""
    return float(t.values.item()) if isinstance(t, gs.Constant) and t.values.size == 1 else None


def maker(model: Model, t: Tensor, *ops: str) -> gs.Node | None:
    """The standard node (of one of `ops`) that makes `t`, or None."""
    node = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
    return node if node is not None and model.is_standard(node, *ops) else None


def step(model: Model, node: gs.Node) -> Step | None:
    """The step function that `node` ends, or None."""
    if model.is_standard(node, "Sign"):
        return _sign(model, node)
    if model.is_standard(node, "Where"):
        high, low = scalar(node.inputs[1]), scalar(node.inputs[2])
        if high is None or low != -high or high == 0:
            return None
        return _compared(model, node, node.inputs[0], high)
    if model.is_standard(node, "Sub", "Add"):
        return _doubled(model, node)
    return None


def _sign(model: Model, node: gs.Node) -> Step:
    """Sign(x), or Sign(Sign(x) + c): c within (0, 1) decides zeros only."""
    inner = maker(model, node.inputs[0], "Add", "Sub")
    if inner is not None:
        for i in (0, 1) if inner.op == "Add" else (0,):
            first, c = maker(model, inner.inputs[i], "Sign"), scalar(inner.inputs[1 - i])
            if first is not None and c is not None and 0 < abs(c) < 1:
                upwards = (c > 0) == (inner.op == "Add")
                return Step(node, first.inputs[0], "up" if upwards else "down")
    return Step(node, node.inputs[0], "zero")


def _doubled(model: Model, node: gs.Node) -> Step | None:
    """2 * Cast(x >= t) - 1."""
    for i in (0, 1) if node.op == "Add" else (0,):
        if scalar(node.inputs[1 - i]) != (-1.0 if node.op == "Add" else 1.0):
            continue
        twice = maker(model, node.inputs[i], "Mul")
        if twice is None:
            continue
        for j in (0, 1):
            cast = maker(model, twice.inputs[j], "Cast")
            if cast is not None and scalar(twice.inputs[1 - j]) == 2.0:
                return _compared(model, node, cast.inputs[0], 1.0)
    return None


def _compared(model: Model, node: gs.Node, condition: Tensor, level: float) -> Step | None:
    """The step whose upper level stands where `condition` holds."""
    made = maker(model, condition)
    if made is not None and made.op == "Not":
        return _compared(model, node, made.inputs[0], -level)
    if made is not None and made.op == "Or":
        return _either(model, node, made, level)
    if made is None or made.op not in COMPARISONS:
        return None
    x, t = made.inputs
    op = made.op
    if isinstance(x, gs.Constant):
        x, t, op = t, x, TURNED[op]
    if not isinstance(t, gs.Constant) or isinstance(x, gs.Constant):
        return None
    kind, below = COMPARISONS[op]
    return Step(node, x, kind, t.values if np.any(t.values) else None, -level if below else level)


def _either(model: Model, node: gs.Node, made: gs.Node, level: float) -> Step | None:
    """Or(x > t, x == t)."""
    parts = [maker(model, t) for t in made.inputs]
    for a, b in (parts, parts[::-1]):
        if a is not None and b is not None and a.op == "Greater" and b.op == "Equal":
            if all(p is q for p, q in zip(a.inputs, b.inputs, strict=True)):
                found = _compared(model, node, made.inputs[parts.index(a)], level)
                return found and Step(node, found.x, "up", found.threshold, level)
    return None


def write(model: Model, found: Step, exact: bool) -> str:
    """Put Binarize in the place of a step, and say how. exact: whether x = t may happen, and is to be kept."""
    node, x, level = found.node, found.x, found.level
    if found.kind == "down" and exact:
        if found.threshold is None:
            x = model.node("Neg", [x], before=node).outputs[0]
        else:
            x = model.node("Sub", [model.constant(f"{node.name}_threshold", found.threshold), x], before=node).outputs[
                0
            ]
        level = -level
    elif found.threshold is not None:
        x = model.node("Sub", [x, model.constant(f"{node.name}_threshold", found.threshold)], before=node).outputs[0]
    made = functions.call(model, "Binarize", [x], stem=f"{node.name}_binarize", before=node).outputs[0]
    if level != 1.0:
        factor = model.constant(f"{node.name}_level", np.float32(level))
        made = model.node("Mul", [made, factor], before=node).outputs[0]
    model.bypass(node, made)
    return f"{node.op} becomes Binarize"
