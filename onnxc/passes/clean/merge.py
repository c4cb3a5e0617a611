"""Consecutive operators of one kind become one, and inverse pairs vanish.

    Transpose(Transpose(x))                         ->  Transpose(x), or x
    Reshape(Flatten(Squeeze(x)))                    ->  Reshape(x), or x
    Cast(Cast(x, float64), float16)                 ->  Cast(x, float16)     where the first cast loses nothing
    Pad(Pad(x)), Slice(Slice(x)), Concat(Concat(x)) ->  one of them
    ReduceMax(ReduceMax(x)), ReduceMin(...)         ->  one of them
    Reshape(x, [0, -1])                             ->  Flatten(x)

The inner node stays where something else reads it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..editor import Editor, alike, size
from .identities import ints_of, same_grouping

REGROUP = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def merge(e: Editor, node: gs.Node) -> bool:
    """Merge `node` with the producer of its first input."""
    rule = RULES.get(node.op)
    return rule is not None and rule(e, node)


def _transpose(e: Editor, node: gs.Node) -> bool:
    inner = e.producer(node.inputs[0], "Transpose")
    if inner is None:
        return False
    outer = node.attrs.get("perm")
    first = inner.attrs.get("perm")
    n = e.rank(node.inputs[0])
    if n is None and not (outer and first):
        return False
    outer, first = (list(p) if p else list(range(n or 0))[::-1] for p in (outer, first))
    perm = [first[k] for k in outer]
    if perm == sorted(perm):
        name = node.name
        if not e.bypass(node, inner.inputs[0]):
            return False
        e.edited(name, f"removed: it undoes {inner.name}")
        return True
    node.attrs["perm"] = perm
    e.set_input(node, 0, inner.inputs[0])
    e.edited(node, f"merged with {inner.name}")
    return True


def _regroup(e: Editor, node: gs.Node) -> bool:
    inner = e.producer(node.inputs[0])
    if inner is None or inner.op not in REGROUP:
        return node.op == "Reshape" and _flatten(e, node)
    x = inner.inputs[0]
    if same_grouping(e, x, node.outputs[0]):
        name = node.name
        if e.bypass(node, x):
            e.edited(name, f"removed: it undoes {inner.name}")
            return True
        return False
    if not e.alone(node.inputs[0]):
        return node.op == "Reshape" and _flatten(e, node)
    target = target_of(e, x, node.outputs[0])
    if target is None:
        return node.op == "Reshape" and _flatten(e, node)
    shape = e.constant(f"{node.name}_shape", np.array(target, np.int64))
    e.rewrite(node, "Reshape", [x, shape])
    e.edited(node, f"merged with {inner.name}")
    return True


def target_of(e: Editor, source: Tensor, out: Tensor) -> list[int] | None:
    """A constant Reshape target from `source` to the shape of `out`: numbers, 0 where an axis stays in its place, and
    at most one -1. None where that does not describe it, or where an extent is 0, which a target cannot say; -1 does not
    describe an axis beside one that may be 0 at run time."""
    have, want = e.axes(source), e.axes(out)
    if have is None or want is None or (known := [size(a) for a in want]).count(0):
        return None
    target: list[int] = []
    for k, (a, n) in enumerate(zip(want, known, strict=True)):
        if isinstance(n, int):
            target.append(n)
        else:
            target.append(0 if k < len(have) and alike(have[k], a) else -1)
    return target if target.count(-1) <= (0 not in target) else None


def _flatten(e: Editor, node: gs.Node) -> bool:
    """Reshape to [0, -1], or to [n, -1] and [-1, n] that say the same, is Flatten."""
    target = ints_of(node, "", 1)
    have, want = e.axes(node.inputs[0]), e.axes(node.outputs[0])
    if (
        target is None
        or len(target) != 2
        or have is None
        or want is None
        or len(have) < 3
        or node.attrs.get("allowzero")
    ):
        return False
    if not (target[0] == 0 or alike(have[0], want[0])):
        return False
    if target[1] != -1 and not all(isinstance(size(a), int) for a in have[1:]):
        return False
    e.rewrite(node, "Flatten", [node.inputs[0]], {"axis": 1})
    e.edited(node, "Reshape that flattens becomes Flatten")
    return True


def lossless(a: int, b: int) -> bool:
    """Whether every number of ONNX element type `a` is one of type `b`."""
    x, y = (np.dtype(onnx.helper.tensor_dtype_to_np_dtype(k)) for k in (a, b))
    if x.kind == "b":
        return y.kind in "iuf"
    if x.kind in "iu" and y.kind in "iu":
        return (x.kind == y.kind or y.kind == "i") and y.itemsize >= x.itemsize + (x.kind != y.kind)
    if x.kind in "iu" and y.kind == "f":
        return 8 * x.itemsize <= np.finfo(y).nmant + 1
    return x.kind == y.kind == "f" and y.itemsize >= x.itemsize


def _cast(e: Editor, node: gs.Node) -> bool:
    inner = e.producer(node.inputs[0], "Cast")
    start = e.elem(inner.inputs[0]) if inner is not None else None
    if inner is None or start is None or not lossless(start, inner.attrs["to"]):
        return False
    if start == node.attrs["to"]:
        name = node.name
        if not e.bypass(node, inner.inputs[0]):
            return False
        e.edited(name, f"removed: it undoes {inner.name}, which loses nothing")
        return True
    e.set_input(node, 0, inner.inputs[0])
    e.edited(node, f"cast directly, without {inner.name}")
    return True


def pad_value(node: gs.Node) -> float | None:
    """What a constant Pad writes; None for other modes and for a value computed at run time."""
    if node.attrs.get("mode", "constant") != "constant":
        return None
    if len(node.inputs) > 2 and node.inputs[2].name:
        t = node.inputs[2]
        return float(t.values.reshape(())) if isinstance(t, gs.Constant) else None
    return float(node.attrs.get("value", 0.0))


def full_pads(e: Editor, node: gs.Node) -> list[int] | None:
    """The pads of a Pad for every axis, begins then ends; None where they are not known."""
    pads = ints_of(node, "pads", 1)
    rank = e.rank(node.inputs[0])
    if pads is None or rank is None:
        return None
    if len(node.inputs) > 3 and node.inputs[3].name:
        axes = ints_of(node, "", 3)
        if axes is None:
            return None
        full = [0] * (2 * rank)
        for j, k in enumerate(axes):
            full[k % rank], full[k % rank + rank] = pads[j], pads[j + len(axes)]
        return full
    return pads if len(pads) == 2 * rank else None


def _pad(e: Editor, node: gs.Node) -> bool:
    inner = e.producer(node.inputs[0], "Pad")
    if inner is None or not e.alone(node.inputs[0]):
        return False
    a, b = full_pads(e, inner), full_pads(e, node)
    v, w = pad_value(inner), pad_value(node)
    if a is None or b is None or v is None or v != w or min(*a, *b) < 0:
        return False
    pads = [x + y for x, y in zip(a, b, strict=True)]
    if "pads" in node.attrs:
        node.attrs["pads"] = pads
        e.set_input(node, 0, inner.inputs[0])
    else:
        rest = [node.inputs[2]] if len(node.inputs) > 2 else []
        e.set_inputs(node, [inner.inputs[0], e.constant(f"{node.name}_pads", np.array(pads, np.int64)), *rest])
    e.edited(node, f"merged with {inner.name}")
    return True


Ranges = dict[int, tuple[int, int, int]]
"""axis -> start, end, step."""


def _ranges(e: Editor, node: gs.Node) -> Ranges | None:
    """What a Slice with constant bounds takes; None where something is computed or an axis stands twice."""
    starts, ends = ints_of(node, "starts", 1), ints_of(node, "ends", 2)
    rank = e.rank(node.inputs[0])
    given = [len(node.inputs) > i and bool(node.inputs[i].name) for i in (3, 4)]
    at, steps = ints_of(node, "axes", 3), ints_of(node, "steps", 4)
    if starts is None or ends is None or rank is None or (given[0] and at is None) or (given[1] and steps is None):
        return None
    at = at or list(range(len(starts)))
    found = {k % rank: r for k, *r in zip(at, starts, ends, steps or [1] * len(starts), strict=True)}
    return {k: (a, b, s) for k, (a, b, s) in found.items()} if len(found) == len(at) else None


def _both(first: Ranges | None, second: Ranges | None) -> Ranges | None:
    """x[first][second] as one: bounds on other axes stand side by side; x[a:b][c:d] on one axis is
    x[a+c : min(b, a+d)] for bounds that are not negative and steps of 1."""
    if first is None or second is None:
        return None
    ranges = dict(first)
    for k, (c, d, s) in second.items():
        if k not in first:
            ranges[k] = (c, d, s)
            continue
        a, b, t = first[k]
        if s != 1 or t != 1 or min(a, b, c, d) < 0:
            return None
        ranges[k] = (min(a + c, b), min(b, a + d), 1)
    return ranges


def _slice(e: Editor, node: gs.Node) -> bool:
    """One Slice for two; a head that several read is taken into all of them, or into none."""
    inner = e.producer(node.inputs[0], "Slice")
    if inner is None or e.is_output(node.inputs[0]):
        return False
    first = _ranges(e, inner)
    ranges = _both(first, _ranges(e, node))
    if ranges is None:
        return False
    others = (n for n in node.inputs[0].outputs if n is not node)
    if not all(e.model.is_standard(n, "Slice") and _both(first, _ranges(e, n)) for n in others):
        return False
    starts, ends, steps = ([r[j] for r in ranges.values()] for j in (0, 1, 2))
    x = inner.inputs[0]
    if "starts" in node.attrs:
        node.attrs = {"starts": starts, "ends": ends, "axes": list(ranges)}
        e.set_input(node, 0, x)
    else:
        named = [("starts", starts), ("ends", ends), ("axes", list(ranges))]
        named += [("steps", steps)] if any(s != 1 for s in steps) else []
        parts = [e.constant(f"{node.name}_{n}", np.array(v, np.int64)) for n, v in named]
        e.set_inputs(node, [x, *parts])
    e.edited(node, f"merged with {inner.name}")
    return True


def _concat(e: Editor, node: gs.Node) -> bool:
    rank = e.rank(node.outputs[0])
    parts: list = []
    merged = []
    for t in node.inputs:
        inner = e.producer(t, "Concat")
        if rank and inner is not None and e.alone(t) and inner.attrs["axis"] % rank == node.attrs["axis"] % rank:
            parts += inner.inputs
            merged.append(inner.name)
        else:
            parts.append(t)
    if not merged:
        return False
    e.set_inputs(node, parts)
    e.edited(node, f"merged with {', '.join(merged)}")
    return True


def _reduce(e: Editor, node: gs.Node) -> bool:
    """The largest of the largest is the largest of all; means and sums would be rounded otherwise."""
    inner = e.producer(node.inputs[0], node.op)
    rank = None if inner is None else e.rank(inner.inputs[0])
    if inner is None or rank is None or not e.alone(node.inputs[0]):
        return False
    first, second = ints_of(inner, "axes", 1), ints_of(node, "axes", 1)
    keeps, kept = (n.attrs.get("keepdims", 1) for n in (inner, node))
    if not first or not second or keeps != kept:
        return False
    gone = {k % rank for k in first}
    left = list(range(rank)) if keeps else [k for k in range(rank) if k not in gone]
    axes = sorted(gone | {left[k % len(left)] for k in second})
    if "axes" in node.attrs:
        node.attrs["axes"] = axes
        e.set_input(node, 0, inner.inputs[0])
    else:
        e.set_inputs(node, [inner.inputs[0], e.constant(f"{node.name}_axes", np.array(axes, np.int64))])
    e.edited(node, f"merged with {inner.name}")
    return True


RULES = {
    "Transpose": _transpose, "Cast": _cast, "Pad": _pad, "Slice": _slice, "Concat": _concat,
    **dict.fromkeys(REGROUP, _regroup), "ReduceMax": _reduce, "ReduceMin": _reduce,
}  # fmt: skip
