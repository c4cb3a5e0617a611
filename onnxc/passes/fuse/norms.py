"""Decomposed normalisations back into LayerNormalization (opset 17) and RMSNormalization (opset 23).

    d / sqrt(mean(d^2) + eps) * gamma + beta,   d = x - mean(x)      ->  LayerNormalization(x, gamma, beta)
    x / sqrt(mean(x^2) + eps) * gamma                                ->  RMSNormalization(x, gamma)

The means run over the last axes. 1/sqrt may stand as Sqrt and Div, as Sqrt, Reciprocal and Mul, or as Pow and Mul.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.axes import numbers
from ...ir.model import Tensor
from ..clean.identities import ints_of
from ..editor import Editor
from .affine import is_float


def number(t: Tensor) -> float | None:
    """The value of a constant of one element."""
    return (
        float(t.values.reshape(()))
        if isinstance(t, gs.Constant) and t.values.size == 1 and is_float(t.values)
        else None
    )


def reduced_axes(e: Editor, node: gs.Node) -> list[int] | None:
    """The axes of a reduction that keeps them with extent 1, sorted, from 0 on; None where they are not known."""
    rank, axes = e.rank(node.inputs[0]), ints_of(node, "axes", 1)
    if rank is None or not axes or not node.attrs.get("keepdims", 1):
        return None
    return sorted(k % rank for k in axes)


def normalisation(e: Editor, node: gs.Node, has: Callable[[Editor, str, int, gs.Node], bool]) -> bool:
    """Match at the node that divides by the deviation; the operator takes the place of the last node of the pattern."""
    core = _core(e, node)
    if core is None:
        return False
    x, axis, epsilon, centred = core
    op, since = ("LayerNormalization", 17) if centred else ("RMSNormalization", 23)
    if not has(e, op, since, node):
        return False
    extents = numbers((e.analysis.shape(x.name) or (None,))[axis:])
    if extents is None:
        return e.refuse(node, f"the extents that {op} runs over are not known")
    last, gamma = _weight(e, node, "Mul", extents)
    beta = None
    if centred:
        last, beta = _weight(e, last, "Add", extents)
    dtype = e.dtype(x)
    scale = np.ones(extents, dtype) if gamma is None else gamma
    inputs = [x, e.constant(f"{last.name}_scale", scale)]
    if beta is not None:
        inputs.append(e.constant(f"{last.name}_bias", beta))
    e.rewrite(last, op, inputs, {"axis": axis, "epsilon": epsilon})
    e.edited(last, f"recognised as {op}")
    return True


def _core(e: Editor, node: gs.Node) -> tuple[gs.Variable, int, float, bool] | None:
    """x, the first axis, epsilon, and whether the mean is subtracted, of `node` = d / sqrt(mean(d*d) + epsilon)."""
    for i in (0, 1) if node.op == "Mul" else (0,):
        d, r = node.inputs[i], node.inputs[1 - i]
        inner = [r]
        inside = _under_root(e, r, inner, inverse=node.op == "Mul")
        add = e.producer(inside, "Add") if inside is not None else None
        if add is None:
            continue
        j = 0 if number(add.inputs[1]) is not None else 1
        mean, epsilon = e.producer(add.inputs[j], "ReduceMean"), number(add.inputs[1 - j])
        if mean is None or epsilon is None:
            continue
        rank, axes = e.rank(d), reduced_axes(e, mean)
        if not axes or rank is None or axes != list(range(axes[0], rank)) or isinstance(d, gs.Constant):
            continue
        square = e.producer(mean.inputs[0], "Mul", "Pow")
        if square is None or square.inputs[0] is not d:
            continue
        if not (square.inputs[1] is d if square.op == "Mul" else number(square.inputs[1]) == 2):
            continue
        inner += [inside, add.inputs[j], mean.inputs[0]]
        x = _centred(e, d, axes, inner)
        if x is not None and (e.is_output(d) or {id(n) for n in d.outputs} != {id(node), id(square)}):
            inner.append(d)
        busy = next((t for t in inner if not e.alone(t)), None)
        if busy is not None:
            e.refuse(node, f"{busy.name}, inside a normalisation, has other readers or is a graph output")
            return None
        return (d if x is None else x), axes[0], epsilon, x is not None
    return None


def _under_root(e: Editor, r, inner: list, *, inverse: bool):
    """v where `r` is sqrt(v), or with inverse=True 1/sqrt(v); tensors on the way are added to `inner`."""
    maker = e.producer(r)
    if maker is None:
        return None
    if maker.op == "Pow":
        return maker.inputs[0] if number(maker.inputs[1]) == (-0.5 if inverse else 0.5) else None
    if inverse:
        if maker.op == "Div" and number(maker.inputs[0]) == 1:
            r = maker.inputs[1]
        elif maker.op == "Reciprocal":
            r = maker.inputs[0]
        else:
            return None
        inner.append(r)
        maker = e.producer(r, "Sqrt")
    return maker.inputs[0] if maker is not None and maker.op == "Sqrt" else None


def _centred(e: Editor, d, axes: list[int], inner: list):
    """x where d = x - mean(x); the mean is added to `inner`."""
    sub = e.producer(d, "Sub")
    mean = e.producer(sub.inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0] or reduced_axes(e, mean) != axes:
        return None
    inner.append(sub.inputs[1])
    return sub.inputs[0]


def _weight(e: Editor, node: gs.Node, op: str, extents: list[int]) -> tuple[gs.Node, np.ndarray | None]:
    """The reader of `node` that applies a constant over the last axes, with the constant; else `node` itself."""
    out = node.outputs[0]
    reader = out.outputs[0] if e.alone(out) else None
    if reader is None or not e.model.is_standard(reader, op):
        return node, None
    c = next((t for t in reader.inputs if isinstance(t, gs.Constant) and is_float(t.values)), None)
    if c is None or not e.same_shape(out, reader.outputs[0]):
        return node, None
    values = c.values
    while values.ndim > len(extents) and values.shape[0] == 1:
        values = values[0]
    if values.ndim > len(extents):
        return node, None
    return reader, np.ascontiguousarray(np.broadcast_to(values, extents))
