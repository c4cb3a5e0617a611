"""Activations batch by batch in bounded memory: of the part of a model that makes them, and at sampled positions.

Whatever a pass looks at comes through a `Stream`. A batch holds at most BATCH_BYTES of the tensors that are looked at, and of
activations that are alive at once within the model (`room`); what is kept from one step to the next has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.errors import BadOption
from ...ir.live import number
from ...ir.model import Model
from .spill import Spilled

if TYPE_CHECKING:
    from ..base import Context, Feeds

BATCH_BYTES = 32 * 2**20
"""What the tensors of one batch may hold; batches are made smaller to fit."""
MAX_BATCH = 64
HELD_BYTES = 512 * 2**20
"""What a walk keeps of earlier steps in temporary files."""


def room(live: int) -> int:
    """How many samples run at once, at the most, where one has `live` bytes of activations alive at once."""
    return max(1, min(MAX_BATCH, BATCH_BYTES // max(1, live)))


class Stream:
    """The calibration samples, at most `samples` of them, in batches that stay under BATCH_BYTES for the tensors `names`.

    The same tensors of two models can be asked for by the same feeds. Labels among the data are dropped unread.
    """

    def __init__(self, ctx: Context, analysis: Analysis, names: Sequence[str], samples: int | None = None):
        self.ctx = ctx
        self.size = min(ctx.room, room(sum(4 * elements(analysis, name) for name in names)))
        if samples is not None:
            self.size = max(1, min(self.size, samples))
        self.samples = samples

    @classmethod
    def of_steps(cls, ctx: Context, analysis: Analysis, steps: Iterable[Sequence[str]], samples: int) -> Stream:
        """One for several steps, each of which captures other tensors: its batches fit them all."""
        streams = [cls(ctx, analysis, names, samples) for names in steps]
        return min(streams, key=lambda s: s.size) if streams else cls(ctx, analysis, [], samples)

    def __iter__(self) -> Iterator[Feeds]:
        left, done = self.samples, 0
        whole = getattr(self.ctx.data, "samples", None)
        if whole is not None and left is not None:
            whole = min(whole, left)
        for batch in self.ctx.batches(self.size):
            yield {name: a for name, a in batch.items() if name != "labels"}
            done += getattr(batch, "samples", 1)  # what a body is fed is one
            self.ctx.seen(done, whole)
            if left is not None and done >= left:
                return


def elements(analysis: Analysis, name: str) -> int:
    """How many elements a tensor has at the sizes of the data, for one sample."""
    return prod(number(a, analysis.sizes) for a in analysis.axes.get(name) or ())


class Probe:
    """Runs only what `names` need of a model. Tensors may be graph inputs too.

    known: tensors that need not be made, name -> an array such as it is fed; what depends on them starts from there.
    given: those of them that a feed must hold beside the graph's inputs.
    """

    def __init__(self, ctx: Context, model: Model, names: Sequence[str], known: Mapping[str, np.ndarray] | None = None):
        self.names, known = list(dict.fromkeys(names)), known or {}
        part = model.copy()
        made = part.tensors()
        outside = {t.name for t in part.inputs} | set(known)
        wanted = [made[n] for n in self.names if n not in outside]
        cut = _reached(wanted, known)
        self.given = sorted({t.name for t in cut} | (set(self.names) & set(known)))
        part.graph.outputs = wanted
        for t in wanted:
            if isinstance(t, gs.Variable):
                t.dtype, t.shape = None, None
        for t in cut:
            _make_input(part, t, known[t.name])
        part.drop_dead()
        self.made = [t.name for t in wanted]
        self.run: Callable[[Feeds], dict[str, np.ndarray]] | None = None
        if wanted:
            if ctx.runner is None:
                raise BadOption("this pass looks at activations, and was given no runner")
            self.run = ctx.runner.prepare(part.lean(), self.made)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The tensors for one batch."""
        found = self.run(feeds) if self.run is not None else {}
        return {n: found[n] if n in found else feeds[n] for n in self.names}


def _reached(wanted: Iterable[gs.Variable], known: Container[str]) -> list[gs.Variable]:
    """The tensors of `known` that lie on the way back from `wanted`; what is ahead of them is not looked at."""
    found, todo, done = [], list(wanted), set()
    while todo:
        t = todo.pop()
        if id(t) in done or not t.inputs:
            continue
        done.add(id(t))
        if t.name in known:
            found.append(t)
        else:
            todo += t.inputs[0].inputs
    return found


def _make_input(part: Model, t: gs.Variable, like: np.ndarray) -> None:
    maker = t.inputs[0]
    maker.outputs[next(i for i, out in enumerate(maker.outputs) if out is t)] = part.variable(f"{t.name}_unused")
    # samples may stand on any axis, and have other extents in the next batch
    t.dtype, t.shape = like.dtype, [f"{t.name}_{axis}" for axis in range(like.ndim)]
    part.graph.inputs.append(t)


class ActivationCache:
    """Tensors of a model whose nodes are changed in graph order, on the samples of one stream.

    What stands ahead of a node does not change any more when its turn comes. So the tensors of each step are kept, and
    those of later steps are made from there: all steps together cost about one run of the model, not one each. They stand
    in temporary files of at most HELD_BYTES; the oldest go first, and what needs them starts further ahead again.
    """

    def __init__(self, ctx: Context, stream: Stream):
        self.ctx, self.stream = ctx, stream
        self.kept: dict[str, Spilled] = {}

    def look(
        self, model: Model, names: Sequence[str], later: Iterable[str], changing: Container[str] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Tensors `names` of each batch, to the last. later: all that will be asked for in further steps; changing: those
        of `names` that will not stay as they are."""
        probe = Probe(self.ctx, model, names, {n: arrays[0] for n, arrays in self.kept.items()})
        inputs = {t.name for t in model.inputs}
        fresh = {n: Spilled() for n in probe.names if n not in inputs and n not in self.kept and n not in changing}
        for j, feeds in enumerate(self.stream):
            got = probe({**feeds, **{n: self.kept[n][j] for n in probe.given}})
            yield got
            for n, kept in fresh.items():
                kept.append(got[n])
        tensors = model.tensors()
        self.kept |= fresh
        needed = {t.name for t in _reached((tensors[n] for n in later if n in tensors), self.kept)}
        self.kept = {n: arrays for n, arrays in self.kept.items() if n in needed}
        while self.kept and sum(kept.nbytes for kept in self.kept.values()) > HELD_BYTES:
            del self.kept[next(iter(self.kept))]


def pick(rng: np.random.Generator, positions: int, wanted: int) -> np.ndarray:
    """At most `wanted` of so many positions, in ascending order."""
    if positions <= wanted:
        return np.arange(positions)
    return np.sort(rng.choice(positions, wanted, replace=False))
