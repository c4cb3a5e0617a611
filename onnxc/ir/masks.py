"""Changes: masks on atoms become new weights, attributes and shape operands.

atom c of 8, its mask keeps 5    W [8, 3, 3, 3] -> [5, 3, 3, 3];  Reshape target [-1, 8·49] -> [-1, 5·49]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from .axes import Aligned, Atom, Axis, Prod, Sum, find, kept, mask, touched
from .model import Model
from .table import Analysis, Axes


class Count:
    """A template: how many of these axes keep any index."""

    def __init__(self, parts: Sequence[Axis]):
        self.parts = tuple(parts)


class Minus:
    """A template: the extent of this axis below zero, as a bound that counts from the end."""

    def __init__(self, axis: Axis):
        self.axis = axis


def _render(template, keep: Mapping[Atom, np.ndarray]):
    if isinstance(template, (list, tuple)):
        return [_render(v, keep) for v in template]
    if isinstance(template, Minus):
        return -kept(template.axis, keep)
    if isinstance(template, Count):
        return sum(kept(p, keep) > 0 for p in template.parts)
    return kept(template, keep) if isinstance(template, (Atom, Prod, Sum)) else int(template)


def _follows(template, keep: Mapping[Atom, np.ndarray]) -> bool:
    if isinstance(template, (list, tuple)):
        return any(_follows(v, keep) for v in template)
    if isinstance(template, Count):
        return any(touched(p, keep) for p in template.parts)
    if isinstance(template, Minus):
        return touched(template.axis, keep)
    return isinstance(template, (Atom, Prod, Sum)) and touched(template, keep)


def _render_operand(old: np.ndarray, template: list, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    if not _follows(template, keep):
        return old
    new = np.asarray(_render(template, keep), old.dtype).reshape(old.shape)
    if np.array_equal(new, old):
        return old
    new.flags.writeable = False
    return new


def apply_masks(model: Model, analysis: Analysis, keep: Mapping[Atom, np.ndarray]) -> int:
    """Cut every initialiser, attribute and shape operand of `model` to the indices that `keep` leaves; returns how many
    initialisers changed. `analysis`: of this model, or of the one that it is an unchanged copy of. An initialiser whose
    uses get different masks is split."""
    changed = 0
    plans: dict[str, list[tuple[gs.Node, int, np.ndarray]]] = {}
    made: dict[tuple, np.ndarray] = {}
    for node in model.nodes:
        facts = analysis.facts[node.name]
        for i, t in enumerate(node.inputs):
            if not isinstance(t, gs.Constant):
                continue
            if i in facts.operands:
                new = _render_operand(t.values, facts.operands[i], keep)
            else:
                new = _cut(t, analysis.uses[node.name, i], keep, made)
            plans.setdefault(t.name, []).append((node, i, new))
        for name, template in facts.attrs.items():
            if _follows(template, keep):
                node.attrs[name] = _render(template, keep)
    for uses in plans.values():
        old = uses[0][0].inputs[uses[0][1]]
        first = uses[0][2]
        if all(new is old.values for _, _, new in uses):
            continue
        changed += 1
        if all(new is first or _equal_cut(new, first, old.values) for _, _, new in uses) and not model.is_output(old):
            old.values = first
            continue
        for node, i, new in uses:
            if new is not old.values:
                model.set_weight(node, i, new)
    return changed


def _equal_cut(a: np.ndarray, b: np.ndarray, old: np.ndarray) -> bool:
    return a is not old and b is not old and a.shape == b.shape and a.nbytes <= 1 << 16 and np.array_equal(a, b)


def _cut(t: gs.Constant, axes: Axes, keep: Mapping[Atom, np.ndarray], made: dict) -> np.ndarray:
    values = t.values
    if any(type(find(a)) is Aligned and touched(a, keep) for a in axes):
        return _cut_blocks(values, axes, keep)
    cuts = [(d, mask(a, keep)) for d, a in enumerate(axes) if touched(a, keep)]
    cuts = [(d, m) for d, m in cuts if not m.all()]
    if not cuts:
        return values
    key = (t.name, *((d, m.tobytes()) for d, m in cuts))
    if key not in made:
        for d, m in cuts:
            values = np.compress(m, values, axis=d)
        values = np.ascontiguousarray(values)
        values.flags.writeable = False
        made[key] = values
    return made[key]


def _cut_blocks(values: np.ndarray, axes: Axes, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    """Cut a grouped weight [g·o, c, ...], where every block along the first axis keeps channels of its own."""
    grouped = find(axes[1])
    assert isinstance(grouped, Aligned)
    blocks = grouped.parts
    rows = np.split(mask(axes[0], keep), len(blocks))
    pieces = []
    for block, row, part in zip(np.split(values, len(blocks)), rows, blocks, strict=True):
        column = mask(part, keep)
        if row.any() and column.any():
            pieces.append(np.compress(column, np.compress(row, block, axis=0), axis=1))
    values = np.concatenate(pieces)
    for d, a in enumerate(axes[2:], 2):
        if touched(a, keep):
            values = np.compress(mask(a, keep), values, axis=d)
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values
