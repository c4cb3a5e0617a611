"""Samples for training: a seeded order for each epoch, a share held out, and what augmentation makes of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.code import failed, import_function

from .steps import tensor

HELD_BYTES = 2**30
"""Samples up to this size are held in memory; of larger sets as many are mixed at a time as fit."""
HELD_SAMPLES = 2000
"""At most so many samples are held out for judging."""
LABELS = "labels"

Chunk = dict[str, np.ndarray]


class Samples:
    """The samples of a data set, a share `held` of them for judging, the rest in batches of `size` in a new order each epoch.

    The order follows from `seed` and the epoch alone. `counted` has the axis that counts samples, of the inputs that follow the batch
    size that is asked for; labels have it first. Where none does, each batch of the data is one run of a model of fixed extents:
    `stacked`, the runs stand along a new first axis.
    """

    def __init__(self, data, size: int, held: float, seed: int):
        self.data, self.size, self.seed = data, size, seed
        self.counted: dict[str, int] = data.counted
        self.stacked = not self.counted
        self._first, whole = self._fill(self._source())
        self._all = self._first if whole else None
        count = self.size_of(self._first)
        kept = min(round(count * held), HELD_SAMPLES, count - 1) if held else 0
        self._hidden = np.sort(np.random.default_rng([seed, 1]).permutation(count)[:kept])
        self.count = count if whole or data.samples is None else data.samples
        if count - kept < 1:
            raise BadData("there are too few samples to train on", found=count)

    def digest(self) -> str:
        """What the samples that are held hash to: names, types, extents and values."""
        h = hashlib.sha256(str(self.count).encode())
        for name, a in sorted(self._first.items()):
            h.update(f"{name} {a.dtype} {a.shape}".encode() + np.ascontiguousarray(a).data)
        return h.hexdigest()

    def _source(self) -> Iterator[Chunk]:
        for chunk in self.data.batches(self.size):
            yield {n: np.asarray(a)[None] for n, a in chunk.items()} if self.stacked else chunk

    def _fill(self, source: Iterator[Chunk]) -> tuple[Chunk, bool]:
        """As many samples as may be held, and whether these are all."""
        chunks, size = [], 0
        for chunk in source:
            chunks.append(chunk)
            size += sum(a.nbytes for a in chunk.values())
            if size >= HELD_BYTES:
                return self._joined(chunks), False
        if not chunks:
            raise BadData("there are no samples to train on")
        return self._joined(chunks), True

    def _joined(self, chunks: list[Chunk]) -> Chunk:
        if len(chunks) == 1:
            return dict(chunks[0])
        try:
            return {
                n: a if (axis := self._axis(n)) is None else np.concatenate([c[n] for c in chunks], axis)
                for n, a in chunks[0].items()
            }
        except ValueError as error:
            raise BadData(
                "samples of different extents cannot be mixed in batches", remedy="pad them to one size"
            ) from error

    def _axis(self, name: str) -> int | None:
        """The axis of an array that counts samples, if one does."""
        return 0 if self.stacked or name == LABELS else self.counted.get(name)

    def size_of(self, chunk: Chunk) -> int:
        """How many samples a chunk holds."""
        return max(a.shape[axis] for n, a in chunk.items() if (axis := self._axis(n)) is not None)

    def of(self, chunk: Chunk, index) -> Chunk:
        """The samples of a chunk that `index` names."""
        return {
            n: a if (axis := self._axis(n)) is None else a[(*[slice(None)] * axis, index)] for n, a in chunk.items()
        }

    def epoch(self, number: int) -> Iterator[Chunk]:
        """The batches of epoch `number`; a last one with fewer samples is left out."""
        rng = np.random.default_rng([self.seed, 2, number])
        source, hidden = self._source(), self._hidden
        while True:
            held, done = (self._all, True) if self._all is not None else self._fill(source)
            order = rng.permutation(self.size_of(held))
            order, hidden = order[~np.isin(order, hidden)], hidden[:0]  # what is held out stands among the first
            size = min(self.size, len(order))
            for i in range(0, len(order) - size + 1, size) if size else ():
                yield self.of(held, order[i : i + size])
            if done:
                return

    def batches(self) -> int:
        """Batches an epoch, where all samples are held; else about so many."""
        left = self.count - len(self._hidden)
        return max(left // min(self.size, left), 1)

    def judged(self) -> Iterator[Chunk]:
        """The samples held out, in batches; where none are, the first of all."""
        count = self.size_of(self._first)
        which = self._hidden if len(self._hidden) else np.arange(min(count, HELD_SAMPLES))
        for i in range(0, len(which), self.size):
            yield self.of(self._first, which[i : i + self.size])


Changes = Mapping[str, Callable]
"""Functions that a user wrote, by `module:function`."""


def functions(kinds: Sequence[str]) -> Changes:
    """The functions among what changes batches. Raises BadData where one cannot be imported."""
    return {kind: import_function(kind) for kind in kinds if ":" in kind}


def augmented(
    feeds: dict[str, torch.Tensor], kinds: Sequence[str], rng: np.random.Generator, own: Changes | None = None
) -> dict[str, torch.Tensor]:
    """A batch changed at random, by functions `own` first, then as images."""
    for kind in kinds:
        if own and kind in own:
            feeds = _by(own[kind], kind, feeds, rng)
    return _images(feeds, [kind for kind in kinds if ":" not in kind], rng)


def _by(
    function: Callable, name: str, feeds: dict[str, torch.Tensor], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """What a user's function makes of a batch: arrays by the same names, of the same types and shapes."""
    arrays = {n: t.cpu().numpy().copy() for n, t in feeds.items()}
    try:
        made = {n: np.asarray(a) for n, a in function(dict(arrays), rng).items()}
    except Exception as e:
        raise failed(name, e) from e
    for n in {*arrays, *made}:
        a, b = (f"{x[n].dtype} {list(x[n].shape)}" if n in x else "nothing" for x in (arrays, made))
        if a != b:
            raise BadData(f"{name} changes the form of a batch", tensor=n, expected=a, found=b)
    return {n: tensor(a, n) for n, a in made.items()}


def _images(feeds: dict[str, torch.Tensor], kinds: Sequence[str], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A batch of images [n, c, h, w] changed at random: flipped left to right, shifted by up to an eighth, mixed in pairs.

    mix: x = a x1 + (1 - a) x2, a uniform in [0.5, 1] (Zhang 2018, for what needs no labels). Raises BadOption where an
    input is no image.
    """
    changed = dict(feeds)
    for name, x in feeds.items():
        if name == LABELS or not kinds:
            continue
        if x.ndim != 4 or not x.is_floating_point():
            raise BadOption(
                "augmentation changes images", tensor=name, expected="float [n, c, h, w]", found=list(x.shape)
            )
        if "flip" in kinds:
            turned = tensor(rng.random(len(x)) < 0.5)
            x = torch.where(turned[:, None, None, None], x.flip(3), x)
        if "shift" in kinds:
            x = _shifted(x, rng)
        if "mix" in kinds:
            a = tensor(rng.uniform(0.5, 1, len(x)).astype(np.float32))[:, None, None, None]
            x = a * x + (1 - a) * x[tensor(rng.permutation(len(x)))]
        changed[name] = x
    return changed


def _shifted(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each image moved by up to an eighth of its extents; the border is repeated."""
    n, _, h, w = x.shape
    dy, dx = rng.integers(-(h // 8), h // 8 + 1, n), rng.integers(-(w // 8), w // 8 + 1, n)
    rows = tensor((np.arange(h) + dy[:, None]).clip(0, h - 1))
    columns = tensor((np.arange(w) + dx[:, None]).clip(0, w - 1))
    x = x.gather(2, rows[:, None, :, None].expand(x.shape))
    return x.gather(3, columns[:, None, None, :].expand(x.shape))
