"""Affine nodes: y = a*x + b with constants a and b, given for each channel, or one for all.

    BatchNormalization   a = scale / sqrt(var + epsilon)      b = bias - a*mean
    Mul, Div             a = c, 1/c                           b = 0
    Add, Sub             a = 1 (-1 in c - x)                  b = c, -c

Arithmetic is float64; the results are rounded once, when a weight is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..editor import Editor

FLOATS = ("float16", "float32", "float64")
AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")


@dataclass
class Affine:
    """y = a*x + b; a and b are float64, of shape () or broadcastable to the rank of x from the right (None: absent)."""

    x: gs.Variable
    a: np.ndarray | None
    b: np.ndarray | None


def is_float(values: np.ndarray) -> bool:
    """Whether an array, of any shape, is of a type that folding may compute in."""
    return values.dtype.name in FLOATS


def operand(node: gs.Node) -> tuple[int, np.ndarray] | None:
    """The index of the variable input of a binary node, and the float constant that is its other input."""
    if len(node.inputs) != 2:
        return None
    for i in (0, 1):
        t = node.inputs[1 - i]
        if isinstance(t, gs.Constant) and not isinstance(node.inputs[i], gs.Constant) and is_float(t.values):
            return i, t.values
    return None


def affine_of(e: Editor, node: gs.Node) -> Affine | None:
    """What `node` does, if it is affine in one variable."""
    if node.op == "BatchNormalization":
        return _batch_norm(e, node)
    if node.op not in AFFINE:
        return None
    found = operand(node)
    if found is None or not e.same_shape(node.inputs[found[0]], node.outputs[0]):
        return None
    i, c = found
    x, c = node.inputs[i], c.astype(np.float64)
    if node.op == "Mul":
        return Affine(x, c, None)
    if node.op == "Add":
        return Affine(x, None, c)
    if node.op == "Sub":
        return Affine(x, None, -c) if i == 0 else Affine(x, np.array(-1.0), c)
    if i == 1 or not np.all(c):
        return None
    return Affine(x, 1 / c, None)


def _batch_norm(e: Editor, node: gs.Node) -> Affine | None:
    if node.attrs.get("training_mode", 0) or len([t for t in node.outputs if t.name]) > 1:
        e.refuse(node, "it is in training mode")
        return None
    stats = node.inputs[1:5]
    if len(stats) != 4 or not all(isinstance(t, gs.Constant) and is_float(t.values) for t in stats):
        e.refuse(node, "its statistics are no constants")
        return None
    rank = e.rank(node.inputs[0])
    if rank is None or isinstance(node.inputs[0], gs.Constant):
        return None
    scale, bias, mean, var = (t.values.astype(np.float64) for t in stats)
    a = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    if not np.all(np.isfinite(a)):
        e.refuse(node, "a variance is negative or zero")
        return None
    shape = (-1, *(1,) * (rank - 2))
    return Affine(node.inputs[0], a.reshape(shape), (bias - a * mean).reshape(shape))


def per_channel(values: np.ndarray | None, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """`values` as a vector [channels] (or of shape [] for one number) where it varies along `axis` alone, else None."""
    if values is None or values.ndim > rank:
        return None
    at = axis - rank + values.ndim
    if any(n != 1 for d, n in enumerate(values.shape) if d != at):
        return None
    if values.size == 1:
        return values.reshape(())
    return values.reshape(-1) if values.size == channels else None


def aligned(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A vector along `axis` of a tensor of that rank, as an operand that broadcasts; one number stays one."""
    return vector if vector.ndim == 0 else vector.reshape(-1, *(1,) * (rank - 1 - axis))


def merge_affine(e: Editor, node: gs.Node) -> bool:
    """Two affine nodes in a row become one.

    Mul(Mul(x, c), d) -> Mul(x, c*d);   Add(Add(x, c), d) -> Add(x, c+d)
    Mul(Add(Mul(x, c), d), f) -> Add(Mul(x, c*f), d*f)
    BatchNormalization followed by an affine node -> BatchNormalization: scale*a, bias*a + b
    """
    now = affine_of(e, node)
    if now is None or node.op == "BatchNormalization":
        return False
    inner = e.producer(now.x, *AFFINE)
    if inner is None:
        return False
    if not e.alone(now.x):
        return inner.op == "BatchNormalization" and e.refuse(node, busy(e, now.x, inner))
    if inner.op == "BatchNormalization":
        return _into_batch_norm(e, node, now, inner)
    before = affine_of(e, inner)
    if before is None:
        return False
    for one, two, op, join in ((before.a, now.a, "Mul", np.multiply), (before.b, now.b, "Add", np.add)):
        pure = before.b is None and now.b is None if op == "Mul" else before.a is None and now.a is None
        if pure and one is not None and two is not None:
            return _pair(e, node, inner, before.x, op, join(one, two))
    if (
        now.a is not None and now.b is None and before.a is None and before.b is not None
    ):  # x + d times f, with a product under it
        under = e.producer(before.x, "Mul", "Div")
        scale = affine_of(e, under) if under is not None and e.alone(before.x) else None
        dtype = e.dtype(node.outputs[0])
        if under is not None and scale is not None and scale.a is not None and dtype is not None:
            factor, shift = store(scale.a * now.a, dtype), store(before.b * now.a, dtype)
            if factor is None or shift is None:
                return False
            e.rewrite(inner, "Mul", [scale.x, e.constant(f"{under.name}_factor", factor)])
            e.rewrite(node, "Add", [inner.outputs[0], e.constant(f"{node.name}_shift", shift)])
            e.edited(node, f"its factor is merged into {under.name}")
            return True
    return False


def store(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """float64 results rounded to the model's type; None where that overflows."""
    with np.errstate(over="ignore"):
        out = np.asarray(values).astype(dtype)
    return out if np.all(np.isfinite(out)) else None


def busy(e: Editor, t: Tensor, inner: gs.Node) -> str:
    """Why the result `t` of `inner` cannot be changed for one reader: a reason for a report."""
    return f"{inner.name} before it {'is a graph output' if e.is_output(t) else 'has other readers'}"


def _pair(e: Editor, node: gs.Node, inner: gs.Node, x, op: str, constant: np.ndarray) -> bool:
    dtype = e.dtype(node.outputs[0])
    values = store(constant, dtype) if dtype is not None else None
    if values is None:
        return e.refuse(node, f"merged with {inner.name} its constant overflows")
    e.rewrite(node, op, [x, e.constant(f"{node.name}_constant", values)])
    e.edited(node, f"merged with {inner.name}")
    return True


def _into_batch_norm(e: Editor, node: gs.Node, now: Affine, inner: gs.Node) -> bool:
    rank, channels = e.rank(now.x), inner.inputs[1].values.size
    if rank is None:
        return False
    parts = [None if v is None else per_channel(v, rank, 1, channels) for v in (now.a, now.b)]
    if any(p is None and v is not None for p, v in zip(parts, (now.a, now.b), strict=True)):
        return e.refuse(node, "its constant is not per channel")
    a, b = 1.0 if parts[0] is None else parts[0], 0.0 if parts[1] is None else parts[1]
    scale, bias = (inner.inputs[i].values for i in (1, 2))
    new = store(scale.astype(np.float64) * a, scale.dtype)
    shift = store(bias.astype(np.float64) * a + b, bias.dtype)
    if new is None or shift is None:
        return e.refuse(node, f"merged into {inner.name} its constants overflow")
    name = node.name
    if not e.bypass(node, now.x):
        return False
    e.model.set_weight(inner, 1, new)
    e.model.set_weight(inner, 2, shift)
    e.edited(name, f"merged into {inner.name}")
    return True


def divide_to_multiply(e: Editor, node: gs.Node) -> bool:
    """Div(x, c) -> Mul(x, 1/c): a multiplication is cheaper."""
    if node.op != "Div":
        return False
    found = operand(node)
    if found is None or found[0] == 1:
        return False
    with np.errstate(divide="ignore"):
        values = store(1 / found[1].astype(np.float64), found[1].dtype)
    tiny = np.finfo(found[1].dtype).tiny
    if values is None or np.any(np.abs(values) < tiny):
        return e.refuse(node, "the reciprocal of its constant is not a normal number")
    e.rewrite(node, "Mul", [node.inputs[0], e.constant(f"{node.name}_reciprocal", values)])
    e.edited(node, "a division by a constant becomes a multiplication")
    return True
