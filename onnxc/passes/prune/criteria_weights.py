"""Criteria that read weights alone: l1, l2, fpgm, lamp, bn_scale, random."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...ir.axes import Aligned, Atom, Axis, find
from ...ir.errors import Unsupported
from .coupling import Group, Member, project
from .score import Ratings, ScoringContext, criterion

Rate = Callable[[np.ndarray, int], np.ndarray]
"""(weight, axis) -> a number for each index along that axis, shape [weight.shape[axis]], that adds up over indices."""


def magnitudes(weight: np.ndarray, axis: int) -> np.ndarray:
    """Sum of magnitudes of each slice."""
    return _sums(np.abs(weight), axis)


def squares(weight: np.ndarray, axis: int) -> np.ndarray:
    """Sum of squares of each slice."""
    return _sums(np.square(weight, dtype=np.float32 if weight.dtype == np.float16 else None), axis)


def _sums(values: np.ndarray, axis: int) -> np.ndarray:
    """Sums over all axes but one; float32 pairwise within a row, float64 between, so that it stays fast and exact enough."""
    flat = values.reshape(*values.shape[: axis + 1], -1).sum(-1)
    return flat.sum(tuple(range(axis)), dtype=np.float64) if axis else flat.astype(np.float64)


def distances(weight: np.ndarray, axis: int) -> np.ndarray:
    """Sum of Euclidean distances from each slice to all others."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    norms = np.square(rows).sum(1)
    gaps = norms[:, None] + norms[None, :] - 2 * (rows @ rows.T)
    return np.sqrt(np.maximum(gaps, 0)).sum(1)


def members(
    scene: ScoringContext, group: Group, wanted: Callable[[Member, np.ndarray], bool]
) -> Iterator[tuple[Member, np.ndarray]]:
    """(member, its weight) of those of `group` that are floating and `wanted`."""
    for m in group.members:
        weight = m.values
        if weight.dtype.kind == "f" and wanted(m, weight):
            yield m, weight


def _matrices(m: Member, weight: np.ndarray) -> bool:
    return m.role != "follows"


def rate_members(
    scene: ScoringContext, rate: Rate, wanted: Callable[[Member, np.ndarray], bool] = _matrices
) -> dict[Atom, list[np.ndarray]]:
    """The rate of every wanted weight of every group. A weight axis that holds many atoms is rated once."""
    cache: dict[tuple, dict[Atom, np.ndarray]] = {}
    found: dict[Atom, list[np.ndarray]] = {}
    for group in scene.groups:
        for m, weight in members(scene, group, wanted):
            key = (m.node.name, m.i, m.d)
            if key not in cache:
                axis = scene.analysis.uses[m.node.name, m.i][m.d]
                cache[key] = by_atom(rate, weight, m.d, axis)
            found.setdefault(group.atom, []).append(cache[key][group.atom])
    return found


def rate_filters(scene: ScoringContext, rate: Rate) -> dict[Atom, list[np.ndarray]]:
    """The rates of the weights that make a group's channels; of those that read them where asked, or where no weight
    makes them (an Add with a constant, say)."""
    if scene.readers:
        return rate_members(scene, rate)
    made = rate_members(scene, rate, lambda m, weight: m.role == "makes")
    return made if len(made) == len(scene.groups) else rate_members(scene, rate) | made


def by_atom(rate: Rate, weight: np.ndarray, d: int, axis: Axis) -> dict[Atom, np.ndarray]:
    """The rates of axis `d` of `weight`, added up for every atom of `axis`."""
    parts: dict[Atom, np.ndarray] = {}
    axis = find(axis)
    if isinstance(axis, Aligned):
        for block, part in zip(np.split(weight, len(axis.parts)), axis.parts, strict=True):
            project(part, rate(block, d), parts)
    else:
        project(axis, rate(weight, d), parts)
    return parts


@criterion("l1", filters=True)
def l1(scene: ScoringContext) -> Ratings:
    """sum |w| over all weights of a channel; with readers=false over the filter that makes it (Li et al., Pruning Filters for
    Efficient ConvNets, 2017, section 3.1)."""
    return rate_filters(scene, magnitudes) if scene.readers is False else rate_members(scene, magnitudes)


@criterion("l2", filters=True)
def l2(scene: ScoringContext) -> Ratings:
    """sqrt(sum w²) over the filter that makes a channel (He et al., Soft Filter Pruning, 2018, equation 2)."""
    return {a: [np.sqrt(w) for w in ws] for a, ws in rate_filters(scene, squares).items()}


@criterion("fpgm", filters=True)
def fpgm(scene: ScoringContext) -> Ratings:
    """sum_j ||w_i - w_j|| over a layer's filters: what lies near their geometric median can be replaced by others (He
    et al., FPGM, 2019, equation 4)."""
    return rate_filters(scene, distances)


@criterion("lamp", normalise="none", filters=True)
def lamp(scene: ScoringContext) -> Ratings:
    """w_i² / sum of w_j² over all j with w_j² >= w_i², for whole filters (Lee et al., LAMP, 2021, equation 4).

    The largest channel of every weight scores 1, so that no layer is ever emptied by a global threshold.
    """
    return {a: [_lamp(w) for w in ws] for a, ws in rate_filters(scene, squares).items()}


def _lamp(energy: np.ndarray) -> np.ndarray:
    order = np.argsort(energy, kind="stable")
    rising = energy[order]
    rest = np.cumsum(rising[::-1])[::-1]
    result = np.empty_like(energy)
    result[order] = np.divide(rising, rest, out=np.zeros_like(rising), where=rest > 0)
    return result


@criterion("bn_scale", normalise="none", lacks="no BatchNormalization scales its channels")
def bn_scale(scene: ScoringContext) -> Ratings:
    """|gamma| of the batch normalisations of a channel (Liu et al., Network Slimming, 2017).

    Raises Unsupported where the model has none, as after fusing.
    """

    def gammas(m: Member, weight: np.ndarray) -> bool:
        return scene.model.is_standard(m.node, "BatchNormalization") and m.i == 1

    found = rate_members(scene, magnitudes, gammas)
    if scene.groups and not found:
        raise Unsupported(
            "criterion bn_scale reads the scales of BatchNormalization, and no prunable channel has one",
            remedy="prune before fuse, or take another criterion",
        )
    return found


@criterion("random", normalise="none")
def random(scene: ScoringContext) -> Ratings:
    """Uniform numbers from the seed: the base line of every comparison."""
    rng = np.random.default_rng(scene.seed)
    return {g.atom: [rng.random(g.size)] for g in scene.groups}
