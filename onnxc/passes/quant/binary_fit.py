"""One layer after the other: what it reads in both models, its new weights, its new bias.

The float model gives what a layer should put out, the model as binarised so far what it reads. For the methods that look
at outputs the moments are those of x (float) and x' (quantised): U = W C H^-1 takes back what it can of the errors of the
layers ahead; the others see W alone. The mean error of each output, E[W x] - E[V x'], goes into the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context, Feeds
from ..layers.capture import HELD_BYTES, Probe, Stream
from ..layers.linear import Linear, add_to_bias
from ..layers.moments import ROWS_PER_COLUMN, Moments, damped, picked
from ..layers.spill import Spilled
from . import binary_weights, rounding

SAMPLES = 256
VALUES = 1 << 15
"""Values of a tensor that its quantiser is calibrated on, about."""


class Twins:
    """The float model and the one in work, run on the same samples.

    What has been seen of the model in work is kept, and later tensors are made from there: layers are done in order, so
    what stands ahead of one does not change any more. `forget` says that it does.
    """

    def __init__(self, real: Model, work: Model, analysis: Analysis, layers: list[Linear], ctx: Context):
        self.real, self.work, self.analysis, self.ctx = real, work, analysis, ctx
        names = [t for x in layers for t in (x.reads, x.makes)]
        self.names = list(dict.fromkeys(names))
        self.held: dict[str, Spilled] = {}
        self.feeds: list[Feeds] = list(Stream(ctx, analysis, self.names, SAMPLES))
        self.seen: dict[str, Spilled] = {}

    def hold(self) -> None:
        """Keep the float model's tensors, if they are few enough; else they are made again for each layer."""
        probe, held = Probe(self.ctx, self.real, self.names), {n: Spilled() for n in self.names}
        for feeds in self.feeds:
            got = probe(feeds)
            for name, kept in held.items():
                kept.append(got[name])
            if sum(kept.nbytes for kept in held.values()) > HELD_BYTES:
                return
        self.held = held

    def floats(self, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Tensors of the float model, batch by batch."""
        probe = None if self.held else Probe(self.ctx, self.real, names)
        for j, feeds in enumerate(self.feeds):
            yield {n: self.held[n][j] for n in names} if probe is None else probe(feeds)

    def made(self, name: str, keep: bool = False) -> Iterator[np.ndarray]:
        """A tensor of the model in work, batch by batch; keep: others will be made from it."""
        if name in self.seen:
            yield from iter(self.seen[name])
            return
        probe, fresh = Probe(self.ctx, self.work, [name], {n: kept[0] for n, kept in self.seen.items()}), Spilled()
        for j, feeds in enumerate(self.feeds):
            got = probe({**feeds, **{n: self.seen[n][j] for n in probe.given}})[name]
            if keep:
                fresh.append(got)
            yield got
        if keep and sum(kept.nbytes for kept in (*self.seen.values(), fresh)) <= HELD_BYTES:
            self.seen[name] = fresh

    def forget(self) -> None:
        """What has been seen of the model in work holds no more."""
        self.seen.clear()

    def values(self, name: str) -> np.ndarray:
        """Values seen of a tensor of the model in work, evenly spread, with its least and largest."""
        found = []
        for a in self.made(name, keep=True):
            flat = a.ravel()
            found.append(flat[:: max(1, flat.size * len(self.feeds) // VALUES)])
            found.append(np.array([flat.min(), flat.max()], flat.dtype))
        return np.concatenate(found)

    def moments(self, layer: Linear, done: Linear) -> Moments:
        """Second moments of what the layer reads in the model in work (x'), with the float model's x."""
        found = Moments(layer.groups, layer.columns, layer.columns)
        made = self.made(done.reads, keep=done.reads in self.names)
        for j, (x_hat, got) in enumerate(zip(made, self.floats([layer.reads]), strict=True)):
            out = layer.extents(got[layer.reads])
            at = picked(self.ctx, layer, out, SAMPLES, (j,))
            found.add(done.rows(x_hat, out, at), layer.rows(got[layer.reads], out, at))
        return found

    def shift(self, node: gs.Node, name: str) -> np.ndarray:
        """The mean error of tensor `name` by channel, for `node`, whose output axis is meant."""
        total, count = np.zeros(()), 0
        axis = 1 if node.op == "Conv" else -1
        for made, got in zip(self.made(name), self.floats([name]), strict=True):
            error = np.moveaxis(got[name] - made, axis, -1)
            total = total + error.reshape(-1, error.shape[-1]).sum(0, dtype=np.float64)
            count += error.size // error.shape[-1]
        return total / max(count, 1)


def weights(w: np.ndarray, method: str, bits: int, gain: float, found: Moments | None, free: bool) -> np.ndarray:
    """New weights [g, o, k] for w. found: moments, None where there are none to look at; free: a bias takes means.

    Where rows are few for so many columns (a fully connected layer sees one for each sample) what they say is chance in
    part: the ridge that draws towards w grows with columns per row.
    """
    if found is None or method in ("bwn", "ternary"):
        plain: dict[str, Callable[[np.ndarray], np.ndarray]]
        plain = {"none": np.array, "bwn": binary_weights.bwn, "ternary": binary_weights.ternary}
        return plain[method](w) * gain
    h, c, _, _ = found.around(centred=free)
    damp = rounding.DAMP + max(0.0, w.shape[2] / max(found.count, 1) - 1 / ROWS_PER_COLUMN)
    u, h = rounding.target(w, h, c, damp), damped(h, damp)
    if method == "none":
        return u
    if method in ("hashing", "proximal"):
        return {"hashing": binary_weights.hashing, "proximal": binary_weights.proximal}[method](u, h)
    return binary_weights.sketched(u, h, bits) if method == "residual" else binary_weights.admm(u, h, bits)


def add_shift(work: Model, node: gs.Node, home: tuple[gs.Node, int], shift: np.ndarray) -> None:
    """Add `shift`, [outputs], to the bias at `home`."""
    at, i = home
    if at is node or at.op == "MatMul":
        add_to_bias(work, node, shift)
        return
    old = at.inputs[i].values
    work.set_weight(at, i, (old.astype(np.float64) + shift.reshape(old.shape)).astype(old.dtype))


def mean_error(w: np.ndarray, made: np.ndarray, found: Moments) -> np.ndarray:
    """E[W x] - E[V x'], [outputs], of the rows seen."""
    return (np.einsum("gok,gk->go", w, found.target) - np.einsum("gok,gk->go", made, found.mean)).reshape(-1)
