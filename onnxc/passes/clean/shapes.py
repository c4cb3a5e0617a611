"""Shape chains: what is computed from extents that are known becomes a constant.

    Shape -> Gather -> Concat -> Reshape      ->  Reshape(x, [0, 64, -1])
    Squeeze(x), x of 1 x 64 x 1               ->  Squeeze(x, [0, 2])

Elements that are numbers stand as numbers. An extent that is not known when the model is written stands as 0 where it
is the very axis of the input at that place, and as -1 once. -1 needs the other extents to be positive: with an empty
batch the element count says nothing. So -1 stands beside a 0 only where the target has a -1 itself.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.axes import numbers
from ..editor import AXIS, Editor, alike, size
from .fold import become_constant

INT = (int, np.integer)


def known_values(e: Editor, node: gs.Node) -> bool:
    """Replace a node whose only output is a tensor of known integers."""
    if len(node.outputs) != 1 or node.op == "Constant":
        return False
    t = node.outputs[0]
    values = e.analysis.values.get(t.name)
    if values is None or not t.name:
        if (
            node.op == "Size"
            and (given := e.axes(node.inputs[0])) is not None
            and (sizes := numbers([size(a) for a in given])) is not None
            and prod(sizes) < 1 << 63
        ):
            return become_constant(e, node, [np.array(prod(sizes), np.int64)], "its value is known")
        return False
    found = [size(v) if isinstance(v, AXIS) else v for v in values.ravel()]
    shape, dtype = e.analysis.shape(t.name), e.dtype(t)
    if not all(isinstance(n, INT) for n in found) or shape != values.shape or dtype is None or dtype.kind not in "iub":
        return False
    return become_constant(e, node, [np.array(found, dtype).reshape(values.shape)], "its value is known")


def computed_target(e: Editor, node: gs.Node) -> bool:
    """Give Reshape and Expand constant targets."""
    if node.op not in ("Reshape", "Expand") or len(node.inputs) < 2 or isinstance(node.inputs[1], gs.Constant):
        return False
    values = e.analysis.values.get(node.inputs[1].name)
    have, want = e.axes(node.inputs[0]), e.axes(node.outputs[0])
    if have is None or want is None:
        return False
    if values is None or values.ndim != 1:
        values = np.full(len(want), None, object)
    if len(values) > len(want):
        return False
    target = _reshape_target(node, have, want, values) if node.op == "Reshape" else _expand_target(have, want, values)
    if target is None and node.op == "Reshape" and len(want) == 2 and len(have) > 2 and alike(have[0], want[0]):
        e.rewrite(node, "Flatten", [node.inputs[0]], {"axis": 1})
        e.edited(node, "Reshape that flattens becomes Flatten")
        return True
    if target is None:
        return e.refuse(
            node, "more than one extent of its target is known only at run time, and the batch may be empty"
        )
    attrs = {k: v for k, v in node.attrs.items() if k != "allowzero"}
    shape = e.constant(f"{node.name}_shape", np.array(target, np.int64))
    e.rewrite(node, node.op, [node.inputs[0], shape], attrs)
    e.edited(node, f"its target becomes the constant {target}".replace(" ", ""))
    return True


def named_axes(e: Editor, node: gs.Node) -> bool:
    """Write down which axes a Squeeze removes that names none: one that shrinks to 1 later, as pruning may make it, stays."""
    if node.op != "Squeeze" or "axes" in node.attrs or (len(node.inputs) > 1 and node.inputs[1].name):
        return False
    shape = e.axes(node.inputs[0])
    if shape is None or not all(isinstance(size(a), int) for a in shape):
        return False
    axes = [k for k, a in enumerate(shape) if size(a) == 1]
    if not axes:
        return False  # it passes its input on: see `identities`
    if e.model.opset < 13:
        e.rewrite(node, "Squeeze", [node.inputs[0]], {"axes": axes})
    else:
        e.rewrite(node, "Squeeze", [node.inputs[0], e.constant(f"{node.name}_axes", np.array(axes, np.int64))])
    e.edited(node, f"it names the axes that it removes: {axes}")
    return True


def _reshape_target(node: gs.Node, have, want, values) -> list[int] | None:
    if len(values) != len(want):
        return None
    target = []
    for k, (v, a) in enumerate(zip(values, want, strict=True)):
        n = size(v) if isinstance(v, AXIS) else v
        if isinstance(n, INT):
            if n == 0 and node.attrs.get("allowzero"):
                return None
            target.append(int(n))
        elif isinstance(m := size(a), int) and m > 0:
            target.append(m)
        elif k < len(have) and (alike(have[k], v if isinstance(v, AXIS) else None) or alike(have[k], a)):
            target.append(0)
        else:
            target.append(-1)
    inferred = any(isinstance(v, INT) and v == -1 for v in values)
    return target if target.count(-1) <= (inferred or 0 not in target) else None


def _expand_target(have, want, values) -> list[int] | None:
    """Expand broadcasts both ways: 1 keeps an axis. The target is written at full rank."""
    lead = len(want) - len(have)
    full = [1] * (len(want) - len(values)) + list(values)
    target = []
    for k, (v, a) in enumerate(zip(full, want, strict=True)):
        own = have[k - lead] if k >= lead else None
        if own is not None and (alike(own, a) or (isinstance(m := size(own), int) and m > 1)):
            target.append(1)
        elif isinstance(n := size(v) if isinstance(v, AXIS) else v, INT):
            target.append(int(n))
        elif isinstance(m := size(a), int):
            target.append(m)
        else:
            return None
    return target
