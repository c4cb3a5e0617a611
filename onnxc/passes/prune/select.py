"""Which channels stay: counts per group, made to satisfy the balance of grouped convolutions, then the best by score."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from ...ir.axes import Aligned, Atom, Axis, Prod, find, number
from .coupling import Group

ROUNDS = 64


def masks(found: list[Group], rated: Mapping[Atom, np.ndarray], counts: Mapping[Atom, int]) -> dict[Atom, np.ndarray]:
    """The mask of each group that loses channels: the `counts` highest scores stay; of equal scores the lower index."""
    keep = {}
    for g in found:
        if counts[g.atom] < g.size:
            order = np.argsort(-rated[g.atom], kind="stable")
            chosen = np.zeros(g.size, bool)
            chosen[order[: counts[g.atom]]] = True
            keep[g.atom] = chosen
    return keep


def balance(counts: Mapping[Atom, int], sets: list[tuple[Axis, ...]], minimum: int = 1) -> dict[Atom, int]:
    """Change `counts` as little as needed so that all axes of each set keep equally many indices.

    Sets share atoms, so this iterates; what has not settled after a bounded number of rounds is left whole, which
    always balances.
    """
    counts = dict(counts)
    open_sets = [s for s in sets if len({id(find(p)) for p in s}) > 1]
    for _ in range(ROUNDS):
        uneven = [s for s in open_sets if len({count(p, counts) for p in s}) > 1]
        if not uneven:
            return counts
        for parts in uneven:
            _level(parts, counts, minimum)
    while uneven := [s for s in open_sets if len({count(p, counts) for p in s}) > 1]:
        for parts in uneven:
            _restore(parts, counts)
    return counts


def count(axis: Axis, counts: Mapping[Atom, int]) -> int:
    """How many indices of an axis stay where its atoms keep `counts`; all of an atom that is not named."""
    axis = find(axis)
    if isinstance(axis, Atom):
        return counts[axis] if axis in counts else number(axis.size)
    if isinstance(axis, Aligned):
        return count(axis.parts[0], counts)
    sizes = [count(p, counts) for p in axis.parts]
    return prod(sizes) if isinstance(axis, Prod) else sum(sizes)


def _level(parts: tuple[Axis, ...], counts: dict[Atom, int], minimum: int) -> None:
    """Bring all parts to one count: the nearest to their mean that each can reach, smaller ones first."""
    have = [count(p, counts) for p in parts]
    mean = sum(have) / len(have)
    full = count(parts[0], {})
    for target in sorted(range(1, full + 1), key=lambda t: (abs(t - mean), t)):
        trial = dict(counts)
        if all(_reach(p, target, trial, minimum) for p in parts) and len({count(p, trial) for p in parts}) == 1:
            counts.update(trial)
            return
    _restore(parts, counts)


def _reach(axis: Axis, target: int, counts: dict[Atom, int], minimum: int) -> bool:
    weights: dict[Atom, int] = {}
    _weights(axis, 1, counts, weights)
    missing = target - count(axis, counts)
    for atom, weight in sorted(weights.items(), key=lambda item: -item[1]):
        if missing == 0:
            break
        step, size = int(missing / weight), number(atom.size)
        new = min(max(counts[atom] + step, min(minimum, size)), size)
        missing -= (new - counts[atom]) * weight
        counts[atom] = new
    return missing == 0


def _weights(axis: Axis, factor: int, counts: Mapping[Atom, int], into: dict[Atom, int]) -> None:
    """How many indices of `axis` one index of each atom stands for."""
    axis = find(axis)
    if isinstance(axis, Atom):
        if axis in counts:
            into[axis] = into.get(axis, 0) + factor
    elif isinstance(axis, Prod):
        sizes = [count(p, counts) for p in axis.parts]
        for k, p in enumerate(axis.parts):
            _weights(p, factor * prod(s for j, s in enumerate(sizes) if j != k), counts, into)
    else:
        for p in axis.parts:
            _weights(p, factor, counts, into)


def _restore(parts: tuple[Axis, ...], counts: dict[Atom, int]) -> None:
    weights: dict[Atom, int] = {}
    for p in parts:
        _weights(p, 1, counts, weights)
    for atom in weights:
        counts[atom] = number(atom.size)
