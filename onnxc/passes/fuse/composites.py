"""Decomposed operators back into one: gates (HardSigmoid, HardSwish, Swish, Gelu) and Softmax.

    x * clip(x + 3, 0, 6) / 6            ->  HardSwish(x) from opset 14, before: x * HardSigmoid(x)
    clip(a*x + b, 0, h) / h              ->  HardSigmoid(x, alpha=a/h, beta=b/h)
    x * sigmoid(c*x)                     ->  Swish(x, alpha=c) from opset 24
    x * 0.5 * (1 + erf(x / sqrt(2)))     ->  Gelu(x) from opset 20; likewise its tanh form
    exp(x) / sum(exp(x))                 ->  Softmax(x)

A product is matched as a set of factors, so neither order nor the place of constants matters. Every inner tensor must
be read by the pattern alone. The opset is never raised: what a model is too old for is left, and noted once.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..editor import Editor
from .bounds import INF, bounds_of
from .norms import normalisation, number, reduced_axes


class Composites:
    """The rules with what they remember: operators that the model's opset lacks, and how often."""

    def __init__(self) -> None:
        self.lacking: dict[tuple[str, int], set[str]] = {}

    def __call__(self, e: Editor, node: gs.Node) -> bool:
        dtype = e.dtype(node.outputs[0])
        if dtype is None or dtype.name not in ("float16", "float32", "float64"):
            return False
        if node.op in ("Mul", "Div"):
            return self.gate(e, node) or softmax(e, node) or normalisation(e, node, self.has)
        return node.op == "Clip" and hard_sigmoid(e, node, node.outputs[0], node, 1.0)

    def has(self, e: Editor, op: str, since: int, node: gs.Node) -> bool:
        """Whether the opset has `op`; if not, it is remembered for the note."""
        if e.model.opset >= since:
            return True
        self.lacking.setdefault((op, since), set()).add(node.name)
        return False

    def notes(self, e: Editor) -> None:
        for (op, since), names in sorted(self.lacking.items()):
            count = f"{len(names)} pattern{'s' if len(names) > 1 else ''}"
            e.report.note(f"{op} needs opset {since}, the model has {e.model.opset}: {count} as given")

    def gate(self, e: Editor, node: gs.Node) -> bool:
        """x * g(x), with constants anywhere in the product."""
        found = factors(e, node)
        if found is None:
            return False
        tensors, k = found
        if len(tensors) == 1:
            return hard_sigmoid(e, node, tensors[0], e.producer(tensors[0], "Clip"), k)
        if len(tensors) != 2:
            return False
        for x, g in (tensors, tensors[::-1]):
            maker = e.producer(g) if e.alone(g) else None
            if maker is None:
                continue
            if maker.op == "Clip" and self._hard_swish(e, node, x, g, maker, k):
                return True
            if maker.op == "HardSigmoid" and maker.inputs[0] is x and close(k, 1) and is_hard_swish(maker.attrs):
                return e.model.opset >= 14 and _become(e, node, "HardSwish", [x], {})
            if maker.op == "Sigmoid" and close(k, 1) and (alpha := _scaled(e, maker.inputs[0], x)) is not None:
                # ONNX Runtime 1.32 has the operator at opset 24 and none for newer ones
                attrs: dict[str, object] = {} if alpha == 1 else {"alpha": alpha}
                return self.has(e, "Swish", 24, node) and e.model.opset == 24 and _become(e, node, "Swish", [x], attrs)
            if maker.op == "Add" and close(k, 0.5) and (kind := _gelu(e, maker, x)):
                attrs = {"approximate": "tanh"} if kind == "tanh" else {}
                return self.has(e, "Gelu", 20, node) and _become(e, node, "Gelu", [x], attrs)
        return False

    def _hard_swish(self, e: Editor, node: gs.Node, x, g, clip: gs.Node, k: float) -> bool:
        line = _hard_line(e, clip)
        if line is None or line[0] is not x:
            return False
        _, a, b, high = line
        if not close(k * high, 1):
            return False
        attrs = {"alpha": a / high, "beta": b / high}
        if e.model.opset >= 14 and is_hard_swish(attrs):
            return _become(e, node, "HardSwish", [x], {})
        e.rewrite(clip, "HardSigmoid", [x], attrs)
        e.edited(clip, "a clipped line becomes HardSigmoid")
        return _become(e, node, "Mul", [x, g], {})


def close(a: float, b: float) -> bool:
    """Whether two constants are the same but for how exporters round them: to 1e-6 of the larger."""
    return math.isclose(a, b, rel_tol=1e-6)


def is_hard_swish(attrs: dict) -> bool:
    """Whether a HardSigmoid of these attributes is the one within HardSwish: max(0, min(1, x / 6 + 1 / 2))."""
    return close(attrs.get("alpha", 0.2), 1 / 6) and close(attrs.get("beta", 0.5), 0.5)


def _become(e: Editor, node: gs.Node, op: str, inputs: list, attrs: dict) -> bool:
    e.rewrite(node, op, inputs, attrs)
    e.edited(node, f"recognised as {op}")
    return True


def factors(e: Editor, node: gs.Node, depth: int = 4) -> tuple[list, float] | None:
    """The variable factors and the constant factor of a product tree whose inner tensors nothing else reads."""
    tensors: list = []
    constant = 1.0
    for i, t in enumerate(node.inputs):
        c = number(t)
        if c is not None:
            if node.op == "Div" and (i == 0 or c == 0):
                return None
            constant = constant / c if node.op == "Div" else constant * c
            continue
        if (node.op == "Div" and i == 1) or isinstance(t, gs.Constant):
            return None
        inner = e.producer(t, "Mul", "Div") if depth and e.alone(t) else None
        below = factors(e, inner, depth - 1) if inner is not None else None
        if below is None:
            tensors.append(t)
        else:
            tensors += below[0]
            constant *= below[1]
    return tensors, constant


def _scaled(e: Editor, t, x) -> float | None:
    """c where `t` is c*x (1 where it is x itself)."""
    if t is x:
        return 1.0
    maker = e.producer(t, "Mul", "Div") if e.alone(t) else None
    got = factors(e, maker) if maker is not None else None
    return got[1] if got is not None and len(got[0]) == 1 and got[0][0] is x else None


def plus(e: Editor, node: gs.Node) -> tuple[gs.Variable, float] | None:
    """x and c of Add(x, c) or Add(c, x)."""
    for i in (0, 1):
        c = number(node.inputs[1 - i])
        if node.op == "Add" and c is not None and e.same_shape(node.inputs[i], node.outputs[0]):
            return node.inputs[i], c
    return None


def _hard_line(e: Editor, clip: gs.Node) -> tuple[gs.Variable, float, float, float] | None:
    """x, a, b and h of Clip(a*x + b, 0, h)."""
    got = bounds_of(e, clip) if clip.op == "Clip" else None
    if got is None or got[1] != 0 or got[2] in (0, INF):
        return None
    add = e.producer(got[0], "Add") if e.alone(got[0]) else None
    line = plus(e, add) if add is not None else None
    if line is None:
        return None
    x, b = line
    mul = e.producer(x, "Mul", "Div") if e.alone(x) else None
    scaled = factors(e, mul) if mul is not None else None
    if scaled is not None and len(scaled[0]) == 1:
        return scaled[0][0], scaled[1], b, got[2]
    return x, 1.0, b, got[2]


def hard_sigmoid(e: Editor, node: gs.Node, g: Tensor, clip: gs.Node | None, k: float) -> bool:
    """k * Clip(a*x + b, 0, h) with k*h = 1 -> HardSigmoid(x, a/h, b/h)."""
    if clip is None or (clip is not node and not e.alone(g)):
        return False
    line = _hard_line(e, clip)
    if line is None or not close(k * line[3], 1):
        return False
    x, a, b, high = line
    if not e.same_shape(x, node.outputs[0]):
        return False
    return _become(e, node, "HardSigmoid", [x], {"alpha": a / high, "beta": b / high})


def _gelu(e: Editor, add: gs.Node, x) -> str | None:
    """`erf` or `tanh` where `add` is 1 + erf(x/sqrt(2)) or 1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))."""
    one = plus(e, add)
    if one is None or one[1] != 1 or not e.alone(one[0]):
        return None
    inner = e.producer(one[0], "Erf", "Tanh")
    if inner is None:
        return None
    if inner.op == "Erf":
        c = _scaled(e, inner.inputs[0], x)
        return "erf" if c is not None and close(c, math.sqrt(0.5)) else None
    outer = e.producer(inner.inputs[0], "Mul") if e.alone(inner.inputs[0]) else None
    got = factors(e, outer) if outer is not None else None
    if got is None or len(got[0]) != 1 or not close(got[1], math.sqrt(2 / math.pi)) or not e.alone(got[0][0]):
        return None
    cubic = e.producer(got[0][0], "Add")
    if cubic is None or not any(t is x for t in cubic.inputs):
        return None
    term = next((t for t in cubic.inputs if t is not x), None)
    maker = e.producer(term, "Mul") if term is not None and e.alone(term) else None
    parts = factors(e, maker) if maker is not None else None
    if parts is None or not close(parts[1], 0.044715):
        return None
    return "tanh" if _is_cube(e, parts[0], x) else None


def _is_cube(e: Editor, tensors: list, x) -> bool:
    power = 0.0
    for t in tensors:
        maker = e.producer(t, "Pow") if t is not x else None
        exponent = number(maker.inputs[1]) if maker is not None and maker.inputs[0] is x and e.alone(t) else None
        if t is x:
            power += 1
        elif exponent is not None:
            power += exponent
        else:
            return False
    return power == 3


def softmax(e: Editor, node: gs.Node) -> bool:
    """exp(z) / ReduceSum(exp(z), k) -> Softmax(x, k), where z is x, or x - ReduceMax(x, k)."""
    if node.op != "Div":
        return False
    exp, total = e.producer(node.inputs[0], "Exp"), e.producer(node.inputs[1], "ReduceSum")
    if exp is None or total is None or total.inputs[0] is not node.inputs[0] or not e.alone(node.inputs[1]):
        return False
    rank, axes = e.rank(node.inputs[0]), reduced_axes(e, total)
    if rank is None or axes is None or len(axes) != 1:
        return False
    if len(node.inputs[0].outputs) != 2 or e.is_output(node.inputs[0]):
        return e.refuse(node, f"{exp.name} is read by more than this Softmax")
    if e.model.opset < 13 and axes[0] != rank - 1:
        return e.refuse(node, "before opset 13 Softmax is over all axes from one on")
    x = exp.inputs[0]
    shift = e.producer(x, "Sub") if e.alone(x) else None
    top = e.producer(shift.inputs[1], "ReduceMax") if shift is not None else None
    if shift is not None and top is not None and top.inputs[0] is shift.inputs[0] and reduced_axes(e, top) == axes:
        x = shift.inputs[0]
    return _become(e, node, "Softmax", [x], {"axis": axes[0]})
