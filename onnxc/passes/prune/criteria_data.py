"""Criteria that look at activations on calibration data, never at labels: activation, apoz, hessian, obs, reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.axes import Atom, atoms, number
from ...ir.model import Model
from ..layers.capture import Probe, Stream
from ..layers.felt import Felt, even
from ..layers.linear import Linear, linear
from ..layers.moments import MAX_COLUMNS, Moments, moments
from .coupling import blocks, places, project
from .gains import HELD_BYTES, Reader, by_outputs
from .score import Ratings, ScoringContext, criterion

WIDE = "no product with stored weights, of at most 4608 columns, reads its channels"
DAMP = 1e-4
"""Added to the diagonal of a moment matrix ahead of inversion, in parts of its mean diagonal."""


@criterion("activation", needs_data=True)
def activation(scene: ScoringContext) -> Ratings:
    """E|x| of each channel, where a layer reads it."""
    return _statistics(scene, "activation", np.abs)


@criterion("apoz", normalise="none", needs_data=True)
def apoz(scene: ScoringContext) -> Ratings:
    """1 - APoZ: how often a channel is not zero behind its Relu (Hu et al., Network Trimming, 2016, equation 1), or, where none
    is, where a layer reads it."""
    return _statistics(scene, "apoz", lambda x: x != 0, behind=("Relu",))


def _statistics(
    scene: ScoringContext, name: str, f: Callable[[np.ndarray], np.ndarray], behind: tuple[str, ...] = ()
) -> Ratings:
    """The mean of f over samples and positions, for each channel behind each operator of `behind`, or, where there is none, in each
    activation that is summed over."""
    ctx = scene.data(name)
    wanted = {g.atom for g in scene.groups}
    reads: dict[tuple[str, int], None] = {}
    for node in (n for n in scene.model.nodes if n.op in behind and scene.model.is_standard(n)):
        for d, axis in enumerate(scene.analysis.axes.get(node.outputs[0].name) or ()):
            if wanted.intersection(atoms(axis)):
                reads.setdefault((node.outputs[0].name, d))
    missing = wanted.difference(*(atoms((scene.analysis.axes[t] or ())[d]) for t, d in reads))
    for node in scene.model.nodes:
        for i, d in scene.analysis.facts[node.name].contracted:
            axes = scene.analysis.of(node, i)
            if isinstance(node.inputs[i], gs.Variable) and axes and missing.intersection(atoms(axes[d])):
                reads.setdefault((node.inputs[i].name, d))
    names = [t for t, _ in reads]
    totals: dict[tuple[str, int], np.ndarray | float] = dict.fromkeys(reads, 0.0)
    counts = dict.fromkeys(reads, 0)
    probe = Probe(ctx, scene.model, names)
    for feeds in Stream(ctx, scene.analysis, names, scene.samples):
        got = probe(feeds)
        for t, d in reads:
            x = got[t]
            rest = tuple(k for k in range(x.ndim) if k != d)
            totals[t, d] = totals[t, d] + f(x).sum(rest, dtype=np.float64)
            counts[t, d] += x.size // x.shape[d]
    found: dict[Atom, list[np.ndarray]] = {}
    for (t, d), total in totals.items():
        parts: dict[Atom, np.ndarray] = {}
        axes = scene.analysis.axes[t]
        for part in blocks(axes[d]) if axes is not None else ():
            project(part, np.asarray(total) / counts[t, d], parts)
        for a, score in parts.items():
            if a in wanted:
                found.setdefault(a, []).append(score)
    return found


def consumers(scene: ScoringContext) -> list[Linear]:
    """The layers that sum over a channel of some group, in graph order, those too wide for moments left out."""
    wanted = {(m.node.name, m.i) for g in scene.groups for m in g.members if m.role == "contracts"}
    found = [linear(scene.model, n) for n in scene.model.nodes if (n.name, 1) in wanted]
    return [x for x in found if x is not None and x.columns <= MAX_COLUMNS]


def columns(scene: ScoringContext, layer: Linear) -> Iterator[tuple[int, Atom, np.ndarray]]:
    """(block, atom, columns [atom.size, n]) for every group that `layer` sums over."""
    wanted = {g.atom for g in scene.groups}
    axis = scene.analysis.uses[layer.node.name, 1][layer.layout.channel_axis]
    taps = layer.layout.positions
    for j, part in enumerate(blocks(axis)):
        for atom, at in places(part).items():
            if atom in wanted:
                yield j, atom, (at[:, :, None] * taps + np.arange(taps)).reshape(number(atom.size), -1)


def _seen(scene: ScoringContext, name: str) -> Iterator[tuple[Linear, Moments]]:
    """The layers that sum over a channel of some group, with the moments of what they read."""
    ctx, found = scene.data(name), consumers(scene)
    each = moments(scene.model, scene.analysis, [[layer] for layer in found], ctx, scene.samples)
    return zip(found, each, strict=True)


class LayerCriterion(Protocol):
    """A saliency by layer: see `_layerwise`."""

    def prepare(self, seen: Moments) -> np.ndarray: ...

    def __call__(self, w: np.ndarray, h: np.ndarray, at: np.ndarray, /) -> np.ndarray: ...


def _layerwise(scene: ScoringContext, name: str, rate: LayerCriterion) -> Ratings:
    """rate(matrix [O, K], what it prepared, columns [size, n]) -> [size], as a part of the layer's output energy."""
    found: dict[Atom, list[np.ndarray]] = {}
    for layer, seen in _seen(scene, name):
        matrix, covariance, prepared = layer.matrix(), seen.covariance(), rate.prepare(seen)
        for j, atom, at in columns(scene, layer):
            w = matrix[j]
            energy = float(np.einsum("oi,ij,oj->", w, covariance[j], w, optimize=True))
            score = rate(w, prepared[j], at)
            found.setdefault(atom, []).append(score / energy if energy > 0 else score)
    return found


class _Removal:
    """E ||W_c x_c||²: how much an output changes when channel c goes and nothing makes up for it."""

    def prepare(self, seen: Moments) -> np.ndarray:
        return seen.second()

    def __call__(self, w: np.ndarray, h: np.ndarray, at: np.ndarray) -> np.ndarray:
        cut = w.T[at]  # size, n, O
        inner = h[at[:, :, None], at[:, None, :]]  # size, n, n
        return np.einsum("cio,cij,cjo->c", cut, inner, cut, optimize=True)


class _Compensated:
    """tr(W_c [(H^-1)_cc]^-1 W_c'): the same when all other weights, and the bias, make up for it as well as they can."""

    def prepare(self, seen: Moments) -> np.ndarray:
        return inverse(seen.covariance())

    def __call__(self, w: np.ndarray, inv: np.ndarray, at: np.ndarray) -> np.ndarray:
        cut = w.T[at]
        inner = np.linalg.inv(inv[at[:, :, None], at[:, None, :]])
        return np.einsum("cio,cij,cjo->c", cut, inner, cut, optimize=True)


def inverse(h: np.ndarray) -> np.ndarray:
    """The inverse of each damped moment matrix [..., k, k]."""
    level = np.maximum(np.trace(h, axis1=-2, axis2=-1) / h.shape[-1], 1e-12)
    return np.linalg.inv(h + DAMP * level[..., None, None] * np.eye(h.shape[-1]))


@criterion("hessian", normalise="none", needs_data=True, lacks=WIDE)
def hessian(scene: ScoringContext) -> Ratings:
    """E ||W_c x_c||² / Var ||W x||²: the second-order error of removal in each layer that reads channel c.

    The Hessian of a layer's squared output error is the second moment E[x x'] of its input, so this is OBD (LeCun et
    al., Optimal Brain Damage, 1990) for the weights of a channel together; exact for one channel.
    """
    return _layerwise(scene, "hessian", _Removal())


@criterion("obs", normalise="none", needs_data=True, lacks=WIDE)
def obs(scene: ScoringContext) -> Ratings:
    """tr(W_c [(H^-1)_cc]^-1 W_c') / Var ||W x||²: as `hessian`, where the other weights are solved anew.

    Optimal Brain Surgeon (Hassibi and Stork, 1993) for the weights of a channel together; H is the covariance of the
    layer's input, so that the bias makes up for the mean. Goes with recover=lstsq, which does solve them anew.
    """
    return _layerwise(scene, "obs", _Compensated())


@criterion("reconstruction", normalise="none", needs_data=True, lacks=WIDE)
def reconstruction(scene: ScoringContext) -> Ratings:
    """The error of all readers at the moment when greedy removal reaches a channel (Luo et al., ThiNet, 2017).

    Channels go one by one, each time the one whose loss costs the group's readers least; after each, W and H^-1 of every
    reader are brought up to date as least squares would (He et al., Channel Pruning, 2017; Frantar, OBC, 2022). Where a reader
    makes the maps that the model puts out, each channel counts by its own variance: they may stand for unlike things, as places and
    sizes, where scores of classes are alike.
    """
    readers: dict[Atom, list[_Reader]] = {}
    tried: dict[Atom, list[Reader]] = {}
    held, final = 0, last_layers(scene.model)
    for layer, seen in _seen(scene, "reconstruction"):
        matrix, covariance, mean = layer.matrix(), seen.covariance(), seen.mean
        inverses = inverse(covariance)
        held += covariance.nbytes
        for j, atom, at in columns(scene, layer):
            w, cov = matrix[j], covariance[j]
            power = np.einsum("oi,oi->o", w @ cov, w)
            rows = w / np.sqrt(even(power))[:, None] if layer.is_conv and layer.node.name in final else w
            energy = float(len(w) if rows is not w else power.sum()) or 1.0
            readers.setdefault(atom, []).append(_Reader(rows.T, inverses[j], at, energy))
            if scene.outputs and held <= HELD_BYTES:
                tried.setdefault(atom, []).append(Reader(layer, j, cov, mean[j], at))
    found = {a: _greedy(r) for a, r in readers.items()}
    if scene.outputs:
        whole = {a: r for a, r in tried.items() if len(r) == len(readers[a])}
        found = by_outputs(Felt(scene.model, scene.data("reconstruction")), whole, found)
    return {a: [score] for a, score in found.items()}


def last_layers(model: Model) -> set[str]:
    """The names of the layers between which and a graph output no other stands."""
    todo, found, done = list(model.outputs), set(), set()
    while todo:
        t = todo.pop()
        for node in t.inputs if isinstance(t, gs.Variable) else ():
            if linear(model, node) is not None:
                found.add(node.name)
            elif node.name not in done:
                done.add(node.name)
                todo += node.inputs
    return found


class _Reader:
    """One layer of a group that is emptied channel by channel. Only columns of the group are kept up to date: the
    others are free to make up for what goes, which eliminating them beforehand (a Schur complement) amounts to.

    at: columns [size, n]. inv: H^-1; its block over the group's columns is all that removals inside it need.
    """

    def __init__(self, w: np.ndarray, inv: np.ndarray, at: np.ndarray, energy: float):
        size, n = at.shape
        flat = at.ravel()
        self.inv = inv[np.ix_(flat, flat)]
        self.w = w[flat].copy()
        self.n = n
        self.left = np.arange(size)
        self.energy = energy

    def costs(self) -> np.ndarray:
        """The error that the loss of each channel left would cause."""
        k, n = len(self.left), self.n
        grid = self.inv.reshape(k, n, k, n)
        inner = np.linalg.inv(grid[np.arange(k), :, np.arange(k), :])
        cut = self.w.reshape(k, n, -1)
        return np.einsum("cio,cij,cjo->c", cut, inner, cut, optimize=True) / self.energy

    def remove(self, place: int) -> None:
        """Take out the channel at `place` of those left, and let the others make up for it."""
        n = self.n
        gone = np.arange(place * n, (place + 1) * n)
        gain = self.inv[:, gone] @ np.linalg.inv(self.inv[np.ix_(gone, gone)])
        self.w = np.delete(self.w - gain @ self.w[gone], gone, axis=0)
        inv = self.inv - gain @ self.inv[gone]
        self.inv = np.delete(np.delete(inv, gone, axis=0), gone, axis=1)
        self.left = np.delete(self.left, place)


def _greedy(readers: list[_Reader]) -> np.ndarray:
    size = len(readers[0].left)
    score = np.zeros(size)
    total = 0.0
    for step in range(size):
        costs = np.mean([r.costs() for r in readers], axis=0)
        place = int(np.argmin(costs))
        total = max(total, float(costs[place]))
        score[readers[0].left[place]] = total * (1 + 1e-9 * step) + 1e-12 * step
        for r in readers:
            r.remove(place)
    return score
