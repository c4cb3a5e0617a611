"""Criterion redundancy: channels that are made alike are merged, and the readers' weights add up; no data needed.

    y = a_i x_i + a_j x_j,   x_j = x_i    ->    y = (a_i + a_j) x_i        (Srinivas and Babu, 2015)

For channels made by weights v_i and v_j the error is at most E[a_j²] ||v_i - v_j||², which is what a merge costs. It is
exact where two channels are made alike: equal rows in every weight that makes them and equal entries in every vector
(bias, batch normalisation) that follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Aligned, Atom, atoms, find
from ...ir.graph import read_only
from ...ir.model import Model
from ..layers.layout import layout
from .coupling import Group, Member, blocks, places
from .criteria_weights import squares
from .score import Ratings, ScoringContext, criterion
from .select import masks

WHY = "a merge needs all its readers to be stored weights, and channels that are made by stored weights"


@criterion("redundancy", normalise="none", merges=True, lacks=WHY)
def redundancy(scene: ScoringContext) -> Ratings:
    """E[a_j²] ||v_i - v_j||² of the cheapest merge left when greedy merging reaches channel j (Srinivas, Babu, 2015)."""
    found = {}
    for group in scene.groups:
        gaps = _gaps(scene.model, scene.analysis, group)
        if gaps is not None:
            found[group.atom] = [_order(gaps, _read(scene.model, scene.analysis, group))[0]]
    return found


def _gaps(model: Model, analysis: Analysis, group: Group) -> np.ndarray | None:
    """||v_i - v_j||², float64 [size, size], infinite on the diagonal; None where the channels cannot be merged."""
    if not _mergeable(model, analysis, group):
        return None
    parts = [
        rows / level
        for rows in _functions(model, analysis, group)
        if (level := np.sqrt(np.square(rows).sum(1).mean())) > 0
    ]
    if not parts:
        parts = [np.zeros((group.size, 1))]
    v = np.concatenate(parts, axis=1)
    norms = np.square(v).sum(1)
    gaps = np.maximum(norms[:, None] + norms[None, :] - 2 * (v @ v.T), 0)
    gaps[gaps < 1e-13 * max(float(norms.max()), 1e-300)] = 0.0
    np.fill_diagonal(gaps, np.inf)
    return gaps


def _functions(model: Model, analysis: Analysis, group: Group) -> list[np.ndarray]:
    """What makes each channel, float64 [size, n]: the numbers of one function of it in each array.

    The weights that make it and the shift behind them are one function, a w x + b with a and b of the bias and the batch
    normalisation that follow; inputs count as of mean 0 and variance 1. A normalisation elsewhere is one of its own.
    """
    of = {(m.node.name, m.i): m for m in group.members if m.role != "contracts"}
    vectors = {key: rows for key, m in of.items() if (rows := _rows(analysis, group, m)).shape[1] == 1}
    made, done = [], set()
    for key, m in of.items():
        if m.role != "makes":
            continue
        w, shift = _rows(analysis, group, m), np.zeros((group.size, 1))
        done.add(key)
        if m.node.op in ("Conv", "ConvTranspose", "Gemm") and (m.node.name, 2) in vectors:
            shift = vectors[m.node.name, 2]
            done.add((m.node.name, 2))
        reader = _next(model, m.node)
        if reader is not None and (affine := _normalisation(model, reader, vectors)) is not None:
            a, b = affine
            w, shift = w * a, shift * a + b
            done.update((reader.name, i) for i in (1, 2, 3, 4))
        made.append(np.concatenate([w, shift], 1))
    for node in {m.node.name: m.node for m in of.values()}.values():
        if (node.name, 1) not in done and (affine := _normalisation(model, node, vectors)) is not None:
            made.append(np.concatenate(affine, 1))
            done.update((node.name, i) for i in (1, 2, 3, 4))
    return made + [_rows(analysis, group, m) for key, m in of.items() if key not in done]


def _rows(analysis: Analysis, group: Group, m: Member) -> np.ndarray:
    return _slices(m.node.inputs[m.i].values, m.d, analysis.uses[m.node.name, m.i][m.d], group.atom)


def _next(model: Model, node: gs.Node) -> gs.Node | None:
    """The one node that reads what `node` puts out."""
    out = node.outputs[0]
    return out.outputs[0] if len(out.outputs) == 1 and not model.is_output(out) else None


def _behind(model: Model, node: gs.Node) -> np.ndarray | None:
    """The factor of each output, float64, in the batch normalisation that alone reads a product, or None."""
    reader = _next(model, node)
    if reader is None or not model.is_standard(reader, "BatchNormalization"):
        return None
    if not all(isinstance(t, gs.Constant) for t in reader.inputs[1:5]):
        return None
    vectors = {(reader.name, i): reader.inputs[i].values.astype(np.float64) for i in (1, 2, 3, 4)}
    affine = _normalisation(model, reader, vectors)
    return None if affine is None else affine[0]


def _normalisation(model: Model, node: gs.Node, vectors: Mapping) -> tuple[np.ndarray, np.ndarray] | None:
    """(a, b) float64, of the shape of `vectors`, of a batch normalisation a x + b of the group's channels; None if the node is none."""
    if not model.is_standard(node, "BatchNormalization") or any((node.name, i) not in vectors for i in (1, 2, 3, 4)):
        return None
    scale, shift, mean, variance = (vectors[node.name, i] for i in (1, 2, 3, 4))
    a = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return a, shift - a * mean


def _mergeable(model: Model, analysis: Analysis, group: Group) -> bool:
    """Whether some stored weight makes the channels and nothing but stored weights sums over them."""
    if group.atom.soft is not None or all(m.role != "makes" for m in group.members):
        return False
    if any(m.layer is not m.node for m in group.members):  # codes cannot be added up
        return False
    readers = [m for m in group.members if m.role == "contracts"]
    for node, i in (use for m in readers for use in _otherwise(group, m)):  # a table that is looked up too, say
        if any(group.atom in atoms(a) for a in analysis.uses.get((node.name, i), ())):
            return False
    stored = {m.node.name for m in readers}
    for node in model.nodes:
        for i, d in analysis.facts[node.name].contracted:
            axes = analysis.of(node, i)
            held = axes is not None and isinstance(node.inputs[i], gs.Variable) and group.atom in atoms(axes[d])
            if held and node.name not in stored and not _by_channel(analysis, node, group.atom):
                return False
    return True


def _by_channel(analysis: Analysis, node: gs.Node, atom: Atom) -> bool:
    """Whether the node only seems to sum over the channels: a depthwise convolution makes each from itself."""
    axes = analysis.axes.get(node.outputs[0].name) or ()
    return any(atom in atoms(a) for a in axes)


def _slices(weight: np.ndarray, d: int, axis, atom: Atom) -> np.ndarray:
    """The weights of each index of `atom`, float64 [size, n]."""
    found = []
    axis = find(axis)
    pieces = np.split(weight, len(axis.parts)) if isinstance(axis, Aligned) else [weight]
    for piece, part in zip(pieces, blocks(axis)):
        at = places(part).get(atom)
        if at is not None:
            found.append(np.moveaxis(piece, d, 0)[at].reshape(atom.size, -1).astype(np.float64))
    return np.concatenate(found, axis=1)


def _read(model: Model, analysis: Analysis, group: Group) -> np.ndarray:
    """The weights that read each channel, times a batch normalisation behind them, float64 [size, n]; each reader's of mean
    square 1 over columns."""
    found = []
    for m in group.members:
        if m.role == "contracts":
            weight = m.node.inputs[m.i].values
            if m.node.op in ("Conv", "Gemm") and (behind := _behind(model, m.node)) is not None:
                weight = weight * layout(m.node).factor(behind, inward=False)
            rows = _slices(weight, m.d, analysis.uses[m.node.name, m.i][m.d], group.atom)
            level = np.sqrt(squares(rows, 0).mean())
            found.append(rows / (level or 1.0))
    read = np.concatenate(found, 1) if found else np.zeros((group.size, 1))
    return read if read.any() else np.ones((group.size, 1))


def _order(gaps: np.ndarray, read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge one channel after another, each time the cheapest into another that is left, which is then read by the sum of both's
    weights; (score, the channel that each went into): the score is the cost, rising."""
    gaps, read = gaps.copy(), read.copy()
    size = len(read)
    saliency = np.square(read).sum(1)
    score, into = np.full(size, np.inf), np.arange(size)
    total = 0.0
    for step in range(size - 1):
        nearest = gaps.argmin(1)
        costs = saliency * gaps[np.arange(size), nearest]
        costs[score < np.inf] = np.inf
        j = int(np.argmin(costs))
        into[j] = nearest[j]
        total = max(total, float(costs[j]))
        score[j] = total * (1 + 1e-9 * step) + 1e-12 * step
        read[into[j]] += read[j]
        saliency[into[j]] = np.square(read[into[j]]).sum()
        gaps[:, j] = np.inf
    last = score == np.inf
    score[last] = np.nextafter(score[~last].max(initial=0.0) * (1 + 1e-6) + 1e-9, np.inf)
    return score, into


def merge(
    model: Model, analysis: Analysis, found: list[Group], keep: Mapping[Atom, np.ndarray]
) -> dict[Atom, np.ndarray]:
    """Let the readers of each channel that goes read the one that it is merged into: add its weights to theirs. The masks by which.

    As many channels stay as `keep` says. Which, is decided group after group in graph order, as in the paper: where two
    inputs of a layer have become one, channels behind it are alike whose weights of the two have equal sums.
    """
    chosen = {}
    for group in found:
        if group.atom not in keep:
            continue
        chosen[group.atom] = mask = keep[group.atom]
        gaps = None if mask.all() else _gaps(model, analysis, group)
        if gaps is None:
            continue
        score, into = _order(gaps, _read(model, analysis, group))
        chosen |= masks([group], {group.atom: score}, {group.atom: int(mask.sum())})
        gone = sorted(np.flatnonzero(~chosen[group.atom]).tolist(), key=lambda j: score[j])
        done: set[tuple[int, int]] = set()
        for m in group.members:
            stored = m.node.inputs[m.i]
            if m.role != "contracts" or (id(stored), m.d) in done:
                continue
            axis = find(analysis.uses[m.node.name, m.i][m.d])
            new = stored.values.astype(np.float64)
            pieces = np.split(new, len(axis.parts)) if isinstance(axis, Aligned) else [new]
            for piece, part in zip(pieces, blocks(axis)):
                at = places(part).get(group.atom)
                if at is not None:
                    _pour(np.moveaxis(piece, m.d, 0), at, gone, into)
            new = new.astype(stored.values.dtype)
            if model.is_output(stored) or _otherwise(group, m):
                model.set_weight(m.node, m.i, new)
            else:  # all layers that read it are to read the sums, and it stays one
                stored.values = read_only(new)
                done.add((id(stored), m.d))
    return chosen


def _otherwise(group: Group, m: Member) -> list[tuple[gs.Node, int]]:
    """(node, input) of the uses of a weight that do not sum over the group's channels where member `m` does."""
    stored = m.node.inputs[m.i]
    alike = {(id(o.node), o.i) for o in group.members if o.role == "contracts" and o.d == m.d}
    uses = {(id(n), i): (n, i) for n in stored.outputs for i, t in enumerate(n.inputs) if t is stored}
    return [use for key, use in uses.items() if key not in alike]


def _pour(rows: np.ndarray, at: np.ndarray, gone: list[int], into: np.ndarray) -> None:
    """Move the rows of the channels `gone`, one after another, to those that they go `into`; `rows` is a private copy."""
    for j in gone:
        rows[at[into[j]]] += rows[at[j]]
        rows[at[j]] = 0
