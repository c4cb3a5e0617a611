"""Operators that change nothing, each recognised by facts that hold on every run.

    Identity, Dropout (inference), Cast to the same type, Transpose [0,1,2], Reshape to the shape it has, Pad of
    nothing, Slice of everything, Concat of one, Expand and Tile to the shape it has, x+0, x-0, x*1, x/1, Relu(Relu(x))

x+0 turns -0.0 into 0.0 where x does not: the two compare equal, and no operator but a division or a sign bit tells them
apart. Removing the addition is taken as exact.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..editor import Editor, alike, size

IDEMPOTENT = {"Relu", "Abs", "Ceil", "Floor", "Round", "Sign"}
NOT_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid", "Sqrt", "Softplus"}
INVOLUTIONS = {"Neg", "Not", "BitwiseNot"}
VALUES_KEPT = {
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
}
NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "And": 1, "Or": 0, "Xor": 0}
COMMUTATIVE = {"Add", "Mul", "And", "Or", "Xor"}
FAR = 2**31 - 1


def identity(e: Editor, node: gs.Node) -> bool:
    """Remove `node` where it surely passes an input on."""
    rule = RULES.get(node.op)
    if rule is None:
        return False
    try:
        found = rule(e, node)
    except (ArithmeticError, LookupError, ValueError):  # axes or counts that the operator does not allow
        return False
    if found is None:
        return False
    source, why = found
    name = node.name
    if not e.bypass(node, source):
        if any(map(e.used, node.outputs[1:])):
            return e.refuse(node, "its second output is used")
        return e.refuse(node, "it gives an input, a constant or another output the name of a graph output")
    e.edited(name, f"removed: {why}")
    return True


def ints_of(node: gs.Node, name: str, i: int) -> list[int] | None:
    """Integers given as attribute `name` or as constant input `i`; None where absent or computed."""
    if name in node.attrs:
        got = node.attrs[name]
        return [got] if isinstance(got, int) else list(got)
    t = node.inputs[i] if i < len(node.inputs) else None
    return [int(v) for v in t.values.ravel()] if isinstance(t, gs.Constant) else None


def _same(e, node):
    return node.inputs[0], f"{node.op} passes its input on"


def _dropout(e: Editor, node: gs.Node):
    training = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if training is not None and (not isinstance(training, gs.Constant) or training.values.any()):
        e.refuse(node, "it is, or may be, in training mode")
        return None
    return node.inputs[0], "Dropout passes its input on in inference"


def _cast(e: Editor, node: gs.Node):
    to = node.attrs.get("to") if node.op == "Cast" else e.elem(node.inputs[1])
    return (node.inputs[0], "a cast to the type it has") if to and to == e.elem(node.inputs[0]) else None


def _transpose(e: Editor, node: gs.Node):
    perm = node.attrs.get("perm")
    n = e.rank(node.inputs[0])
    still = list(perm) == list(range(len(perm))) if perm else n is not None and n < 2
    return (node.inputs[0], "its permutation moves nothing") if still else None


def same_grouping(e: Editor, before: Tensor, after: Tensor) -> bool:
    """Whether both tensors, which hold the same elements in the same order, surely have the same shape.

    One axis may be unknown: where all others agree and none of them is 0, it must agree too.
    """
    a, b = e.axes(before), e.axes(after)
    if a is None or b is None or len(a) != len(b):
        return False
    differ = [k for k, (x, y) in enumerate(zip(a, b, strict=True)) if not alike(x, y)]
    if not differ:
        return True
    k = differ[0]
    known = all(isinstance(n := size(y), int) and n > 0 for j, y in enumerate(b) if j != k)
    return len(differ) == 1 and known and not (isinstance(size(a[k]), int) and isinstance(size(b[k]), int))


def _regroup(e: Editor, node: gs.Node):
    if same_grouping(e, node.inputs[0], node.outputs[0]):
        return node.inputs[0], f"{node.op} to the shape it has"
    return None


def _pad(e: Editor, node: gs.Node):
    pads = ints_of(node, "pads", 1)
    return (node.inputs[0], "it pads nothing") if pads is not None and not any(pads) else None


def _slice(e: Editor, node: gs.Node):
    starts, ends = ints_of(node, "starts", 1), ints_of(node, "ends", 2)
    axes = e.axes(node.inputs[0])
    if (
        starts is None
        or ends is None
        or axes is None
        or (len(node.inputs) > 3 and node.inputs[3].name and ints_of(node, "axes", 3) is None)
    ):
        return None
    at = ints_of(node, "axes", 3) or list(range(len(starts)))
    steps = ints_of(node, "steps", 4) or [1] * len(starts)
    if len(node.inputs) > 4 and node.inputs[4].name and ints_of(node, "steps", 4) is None:
        return None
    for k, start, end, step in zip(at, starts, ends, steps, strict=True):
        n = size(axes[k])
        begins = start == 0 or (isinstance(n, int) and start <= -n)
        if step != 1 or not begins or not (end >= FAR or (isinstance(n, int) and end >= n)):
            return None
    return node.inputs[0], "it takes everything"


def _one_input(e: Editor, node: gs.Node):
    return (node.inputs[0], f"{node.op} of one tensor") if len(node.inputs) == 1 else None


def _concat(e: Editor, node: gs.Node):
    """Drop parts of extent 0; a Concat of one part is that part; a Concat of all parts of a Split is what was split."""
    k = node.attrs.get("axis", 0)
    if len(node.inputs) > 1:
        full = []
        for t in node.inputs:
            axes = e.axes(t)
            if axes is None or size(axes[k]) != 0:
                full.append(t)
        if 0 < len(full) < len(node.inputs):
            e.set_inputs(node, full)
            e.edited(node, "empty parts dropped")
    if len(node.inputs) == 1:
        return node.inputs[0], "Concat of one tensor"
    split = node.inputs[0].inputs[0] if node.inputs[0].inputs and not isinstance(node.inputs[0], gs.Constant) else None
    if split is None or not e.model.is_standard(split, "Split") or len(split.outputs) != len(node.inputs):
        return None
    rank = e.rank(split.inputs[0])
    if not rank or split.attrs.get("axis", 0) % rank != k % rank:
        return None
    if all(a is b for a, b in zip(split.outputs, node.inputs, strict=True)):
        return split.inputs[0], "it joins what was split"
    return None


def _expand(e: Editor, node: gs.Node):
    return (node.inputs[0], "Expand to the shape it has") if e.same_shape(node.inputs[0], node.outputs[0]) else None


def _tile(e: Editor, node: gs.Node):
    repeats = ints_of(node, "repeats", 1)
    return (node.inputs[0], "it repeats once") if repeats is not None and all(r == 1 for r in repeats) else None


def _neutral(e: Editor, node: gs.Node):
    value = NEUTRAL[node.op]
    for i in (1, 0) if node.op in COMMUTATIVE else (1,):
        t, x = node.inputs[i], node.inputs[1 - i]
        if not isinstance(t, gs.Constant) or t.values.dtype == object or not t.values.size:
            continue
        first = t.values[(0,) * t.values.ndim]
        if (
            first == value
            and np.all(t.values == value)
            and e.same_shape(x, node.outputs[0])
            and e.elem(x) == e.elem(node.outputs[0])
        ):
            return x, f"{node.op} with {value} changes nothing"
        if first == value and t.values.size == 1 and t.values.ndim == 0 and e.elem(x) == e.elem(node.outputs[0]):
            return x, f"{node.op} with {value} changes nothing"
    return None


def _clip(e: Editor, node: gs.Node):
    bounds = [t for t in node.inputs[1:] if t.name] + [k for k in ("min", "max") if k in node.attrs]
    return (node.inputs[0], "it has no bounds") if not bounds else None


def _idempotent(e: Editor, node: gs.Node):
    maker = e.producer(node.inputs[0], node.op)
    if maker is not None:
        return node.inputs[0], f"{node.op} of {node.op}"
    if node.op in ("Relu", "Abs") and not_negative(e, node.inputs[0]):
        return node.inputs[0], f"{node.op} of what is never negative"
    return None


def not_negative(e: Editor, t: Tensor, depth: int = 8) -> bool:
    """Whether `t` surely holds no negative number."""
    for _ in range(depth):
        maker = e.producer(t)
        if maker is None:
            return isinstance(t, gs.Constant) and t.values.dtype.kind in "fiu" and bool(np.all(t.values >= 0))
        if maker.op in NOT_NEGATIVE:
            return True
        if maker.op == "Clip":
            low = maker.attrs.get("min") if len(maker.inputs) < 2 or not maker.inputs[1].name else None
            if len(maker.inputs) > 1 and isinstance(maker.inputs[1], gs.Constant):
                low = float(maker.inputs[1].values.reshape(()))
            high = (
                maker.inputs[2].values
                if len(maker.inputs) > 2 and isinstance(maker.inputs[2], gs.Constant)
                else maker.attrs.get("max", 0)
            )
            open_above = len(maker.inputs) > 2 and maker.inputs[2].name and not isinstance(maker.inputs[2], gs.Constant)
            return low is not None and low >= 0 and not open_above and float(np.reshape(high, ())) >= 0
        if maker.op == "Concat":
            return depth > 1 and all(not_negative(e, x, depth - 1) for x in maker.inputs)
        if maker.op not in VALUES_KEPT:
            return False
        t = maker.inputs[0]
    return False


def _involution(e: Editor, node: gs.Node):
    maker = e.producer(node.inputs[0], node.op)
    return (maker.inputs[0], f"{node.op} of {node.op}") if maker is not None else None


def _resize(e: Editor, node: gs.Node):
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    i = 1 if node.op == "Upsample" or e.model.opset < 11 else 2
    t = node.inputs[i] if i < len(node.inputs) else None
    scales = t.values if isinstance(t, gs.Constant) else np.asarray(node.attrs.get("scales", ()))
    return (node.inputs[0], "its scales are 1") if scales.size and np.all(scales == 1) else None


def _pool(e: Editor, node: gs.Node):
    a = node.attrs
    plain = all(v == 1 for v in (*a.get("kernel_shape", (0,)), *a.get("strides", (1,)))) and not any(
        a.get("pads", (0,))
    )
    return (node.inputs[0], "a window of one element") if plain else None


def _where(e: Editor, node: gs.Node):
    c = node.inputs[0]
    if not isinstance(c, gs.Constant) or not c.values.size or c.values.min() != c.values.max():
        return None
    x = node.inputs[1 if c.values.all() else 2]
    return (x, "its condition is constant") if e.same_shape(x, node.outputs[0]) else None


RULES = {
    "Identity": _same, "Dropout": _dropout, "Cast": _cast, "CastLike": _cast, "Transpose": _transpose,
    "Reshape": _regroup, "Flatten": _regroup, "Squeeze": _regroup, "Unsqueeze": _regroup, "Pad": _pad, "Slice": _slice,
    "Concat": _concat, "Expand": _expand, "Tile": _tile, "Clip": _clip, "Resize": _resize, "Upsample": _resize,
    "MaxPool": _pool, "AveragePool": _pool, "Where": _where, **dict.fromkeys(("Sum", "Max", "Min", "Mean"), _one_input),
    **dict.fromkeys(NEUTRAL, _neutral), **dict.fromkeys(IDEMPOTENT, _idempotent),
    **dict.fromkeys(INVOLUTIONS, _involution),
}  # fmt: skip
