"""Activations batch by batch in bounded memory: of the part of a model that makes them, and at sampled positions; and
how far the outputs of two models are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..base import Context, Feeds

BATCH_BYTES = 128 * 2**20
"""What the captured tensors of one batch may hold; batches are made smaller to fit."""
MAX_BATCH = 64


class Stream:
    """The calibration samples, at most `samples` of them, in batches that stay under BATCH_BYTES for the tensors `names`.

    The same tensors of two models can be asked for by the same feeds. Labels among the data are dropped unread.
    """

    def __init__(self, ctx: Context, analysis: Analysis, names: Sequence[str], samples: int):
        self.ctx = ctx
        floats = sum(prod(n if isinstance(n, int) else 1 for n in analysis.shape(name) or ()) for name in names)
        self.size = max(1, min(MAX_BATCH, samples, BATCH_BYTES // max(1, 4 * floats)))
        self.samples = samples

    def __iter__(self) -> Iterator[Feeds]:
        left = self.samples
        for batch in self.ctx.batches(self.size):
            yield {name: a for name, a in batch.items() if name != "labels"}
            left -= max((len(a) for a in batch.values() if a.ndim), default=1)
            if left <= 0:
                return


class Probe:
    """Runs only what `names` need of a model. Tensors may be graph inputs too."""

    def __init__(self, ctx: Context, model: Model, names: Sequence[str]):
        self.ctx = ctx
        self.names = list(dict.fromkeys(names))
        part = model.copy()
        made = part.tensors()
        inputs = {t.name for t in part.inputs}
        part.graph.outputs = [made[n] for n in self.names if n not in inputs]
        for t in part.graph.outputs:
            if isinstance(t, gs.Variable):
                t.dtype, t.shape = None, None
        part.drop_dead()
        self.proto = part.to_proto() if part.graph.outputs else None

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The tensors for one batch."""
        if self.proto is None:
            return {n: feeds[n] for n in self.names}
        made = [t.name for t in self.proto.graph.output]
        found = self.ctx.runner(self.proto, feeds, made)
        return {n: found[n] if n in found else feeds[n] for n in self.names}


def output_snr(ctx: Context, analysis: Analysis, real: Model, other: Model, samples: int) -> float:
    """Signal to noise of the outputs of `other`, those of `real` being the signal, on the calibration samples, in dB.

    Squares are summed over all outputs of numbers. `analysis`: of either.
    """
    names = [t.name for t in real.outputs]
    a, b = Probe(ctx, real, names), Probe(ctx, other, names)
    power = error = 0.0
    for feeds in Stream(ctx, analysis, names, samples):
        x, y = a(feeds), b(feeds)
        numbers = [n for n in names if x[n].dtype.kind in "fiub"]
        power += sum(float((x[n].astype(np.float64) ** 2).sum()) for n in numbers)
        error += sum(float(((x[n].astype(np.float64) - y[n]) ** 2).sum()) for n in numbers)
    return 10 * float(np.log10(max(power, 1e-300) / max(error, 1e-300)))


def pick(rng: np.random.Generator, positions: int, wanted: int) -> np.ndarray:
    """At most `wanted` of so many positions, in ascending order."""
    if positions <= wanted:
        return np.arange(positions)
    return np.sort(rng.choice(positions, wanted, replace=False))
