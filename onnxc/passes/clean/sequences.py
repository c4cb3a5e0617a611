"""Sequences whose tensors are known: what is taken out of them is read where it was made.

SequenceAt(SplitToSequence(x, 1, axis 1), 2)     ->   the third result of Split(x)
ConcatFromSequence(SequenceInsert(s, x))         ->   Concat(..., x)
SequenceLength(SequenceConstruct(a, b))          ->   2
OptionalGetElement(Optional(x))                  ->   x

Positions and numbers of pieces have to be constant. A sequence that a Loop fills is known once the loop is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..editor import Editor, size

DEPTH = 256
PIECES = 1024
"""Tensors that a sequence is followed for, and that a Split may make."""


def sequence(e: Editor, node: gs.Node) -> bool:
    """Let `node` do without a sequence or an optional value, where its tensors are known."""
    rule = RULES.get(node.op)
    return rule is not None and rule(e, node)


def _items(e: Editor, t: Tensor, depth: int = DEPTH) -> list[Tensor] | None:
    """The tensors of a sequence, or None where they are not known."""
    maker = e.producer(t)
    if maker is None or not depth:
        return None
    if maker.op in ("SequenceConstruct", "SequenceEmpty"):
        return list(maker.inputs)
    if maker.op not in ("Identity", "SequenceInsert", "SequenceErase"):
        return None
    found = _items(e, maker.inputs[0], depth - 1)
    if found is None or maker.op == "Identity":
        return found
    inserts = maker.op == "SequenceInsert"
    at = _position(maker, 2 if inserts else 1, len(found), inserts)
    if at is None:
        return None
    return [*found[:at], maker.inputs[1], *found[at:]] if inserts else [*found[:at], *found[at + 1 :]]


def _position(node: gs.Node, i: int, count: int, inserts: bool) -> int | None:
    """Where in a sequence of `count` tensors input `i` points to, the end where it is left out."""
    if i >= len(node.inputs) or not node.inputs[i].name:
        return count if inserts else count - 1 if count else None
    if not isinstance(node.inputs[i], gs.Constant):
        return None
    at = int(node.inputs[i].values.reshape(-1)[0])
    at += count if at < 0 else 0
    return at if 0 <= at < count + inserts else None


def _stands(e: Editor, node: gs.Node, source: Tensor, what: str) -> bool:
    e.rewrite(node, "Identity", [source])
    e.edited(node, what)
    return True


def _at(e: Editor, node: gs.Node) -> bool:
    found = _items(e, node.inputs[0])
    at = _position(node, 1, len(found or []), False)
    if found is None or at is None:
        return False
    return _stands(e, node, found[at], f"tensor {at} of a sequence, read where it is made")


def _length(e: Editor, node: gs.Node) -> bool:
    found = _items(e, node.inputs[0])
    if found is None:
        return False
    return _stands(e, node, e.constant(node.name, np.array(len(found), np.int64)), "the length of a known sequence")


def _concat(e: Editor, node: gs.Node) -> bool:
    found, axis = _items(e, node.inputs[0]), int(node.attrs["axis"])
    if not found:
        return False
    if node.attrs.get("new_axis", 0):
        found = [_reshaped(e, node, "Unsqueeze", t, axis) for t in found]
    e.rewrite(node, "Concat", found, {"axis": axis})
    e.edited(node, "the tensors of a known sequence are concatenated")
    return True


def _reshaped(e: Editor, node: gs.Node, op: str, t: Tensor, axis: int) -> Tensor:
    if e.model.opset < 13:
        return e.model.node(op, [t], attrs={"axes": [axis]}, name=f"{node.name}_part", before=node).outputs[0]
    axes = e.constant(f"{node.name}_axis", np.array([axis], np.int64))
    return e.model.node(op, [t, axes], name=f"{node.name}_part", before=node).outputs[0]


def _split(e: Editor, node: gs.Node) -> bool:
    """SplitToSequence becomes a Split and the sequence of its results."""
    axis, sizes = int(node.attrs.get("axis", 0)), None
    given = node.inputs[1] if len(node.inputs) > 1 and node.inputs[1].name else None
    axes = e.axes(node.inputs[0])
    whole = None if axes is None or not -len(axes) <= axis < len(axes) else size(axes[axis])
    if given is not None and not isinstance(given, gs.Constant):
        return e.refuse(node, "into how many tensors it splits is computed")
    if given is not None and given.values.ndim:
        sizes = [int(v) for v in given.values]
    elif isinstance(whole, int):
        each = 1 if given is None else int(given.values)
        sizes = [each] * (whole // each) + [whole % each] * (whole % each > 0) if each > 0 else None
    if not sizes or len(sizes) > PIECES:
        return e.refuse(node, "into how many tensors it splits is known only at run time")
    outputs = [e.model.variable(f"{node.name}_{i}") for i in range(len(sizes))]
    parts: list[Tensor] = [node.inputs[0]]
    if len(sizes) > 1 and e.model.opset < 13:
        attrs = {"axis": axis, "split": sizes}
        parts = list(e.model.node("Split", parts, outputs, name=f"{node.name}_split", attrs=attrs, before=node).outputs)
    elif len(sizes) > 1:
        at = e.constant(f"{node.name}_sizes", np.array(sizes, np.int64))
        made = e.model.node(
            "Split", [*parts, at], outputs, name=f"{node.name}_split", attrs={"axis": axis}, before=node
        )
        parts = list(made.outputs)
    if given is None and not node.attrs.get("keepdims", 1):
        parts = [_reshaped(e, node, "Squeeze", t, axis) for t in parts]
    e.rewrite(node, "SequenceConstruct", parts)
    e.edited(node, f"a Split into {len(parts)}")
    return True


def _get(e: Editor, node: gs.Node) -> bool:
    maker = e.producer(node.inputs[0], "Optional")
    if maker is None:
        return False
    return bool(maker.inputs) and _stands(e, node, maker.inputs[0], "the value that an Optional holds")


def _has(e: Editor, node: gs.Node) -> bool:
    given = node.inputs[0] if node.inputs and node.inputs[0].name else None
    maker = None if given is None else e.producer(given, "Optional")
    if given is not None and maker is None:
        return False
    held = maker is not None and bool(maker.inputs)
    return _stands(e, node, e.constant(node.name, np.array(held)), "whether there is a value is known")


RULES: dict[str, Callable[[Editor, gs.Node], bool]] = {
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
    "OptionalGetElement": _get,
    "OptionalHasElement": _has,
}
