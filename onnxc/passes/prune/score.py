"""How much each channel of a group matters. A criterion maps the weights that a group cuts to one score per channel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.analysis import Analysis
from ...ir.axes import Aligned, Atom, Axis, find
from .coupling import Group, project

Criterion = Callable[[np.ndarray, int], np.ndarray]
"""(weight, axis) -> importance of each index along that axis, shape [weight.shape[axis]]."""


def l1(weight: np.ndarray, axis: int) -> np.ndarray:
    """Sum of magnitudes of each slice (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    rest = tuple(d for d in range(weight.ndim) if d != axis)
    return np.abs(weight).sum(rest, dtype=np.float64)


CRITERIA: dict[str, Criterion] = {"l1": l1}


def scores(groups: list[Group], analysis: Analysis, criterion: str) -> dict[Atom, np.ndarray]:
    """One score per channel of each group: the mean over the matrices and kernels that the group cuts, each divided by
    its own mean so that layers of different scale and width compare. Vectors (biases, batch norm) do not count."""
    rate = CRITERIA[criterion]
    sums: dict[Atom, np.ndarray] = {g.atom: np.zeros(g.size) for g in groups}
    counts = dict.fromkeys(sums, 0)
    cache: dict[tuple, dict[Atom, np.ndarray]] = {}
    for group in groups:
        for m in group.members:
            weight = m.node.inputs[m.i].values
            if m.role == "follows" or weight.dtype.kind != "f":
                continue
            key = (m.node.name, m.i, m.d)
            if key not in cache:
                cache[key] = by_atom(rate, weight, m.d, analysis.uses[m.node.name, m.i][m.d])
            mine = cache[key][group.atom]
            mean = mine.mean()
            sums[group.atom] += mine / mean if mean > 0 else mine
            counts[group.atom] += 1
    return {a: s / max(counts[a], 1) for a, s in sums.items()}


def by_atom(rate: Criterion, weight: np.ndarray, d: int, axis: Axis) -> dict[Atom, np.ndarray]:
    """The scores of axis `d` of `weight`, added up for every atom of `axis`."""
    parts: dict[Atom, np.ndarray] = {}
    axis = find(axis)
    if isinstance(axis, Aligned):
        for block, part in zip(np.split(weight, len(axis.parts)), axis.parts, strict=True):
            project(part, rate(block, d), parts)
    else:
        project(axis, rate(weight, d), parts)
    return parts
