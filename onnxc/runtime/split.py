"""Data held in memory, and cut into parts of different samples: what a search chooses by is not what it is judged by.

    1,000 samples, shares (0.25, 0.375, 0.375)  ->  250, 375 and 375 of them, dealt out by a seed in every run of eight

Held data are the same wherever they are read, and travel to other processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.batches import LABELS, Chunk, rebatch
from onnxc.runtime.data import Data
from onnxc.runtime.specs import TensorSpec

RUN = 8
"""Of so many samples in a row each part gets its share."""
MOST = 4096
"""Samples that are held at most, where they are large."""
MORE, SMALL = 16384, 1 << 26
"""Samples that are held at most, and the bytes that those beyond MOST may bring all to."""


class Held(Data):
    """A data set whose arrays are in memory, as a list of chunks."""

    def __init__(
        self, name: str, held: Sequence[Chunk], inputs: Mapping[str, TensorSpec], samples: int, single: bool = False
    ):
        labelled = all(LABELS in chunk for chunk in held) and LABELS not in inputs
        super().__init__(name, self._again, inputs, samples=samples, labelled=labelled)
        self.held, self.single = list(held), single

    def _again(self) -> Iterator[Chunk]:
        return iter(self.held)

    def first(self, samples: int) -> Held:
        """The first `samples` of them, where they can be told apart."""
        if len(self.held) > 1:
            return Held(self.name, self.held[:samples], self._inputs, min(samples, len(self.held)), self.single)
        chunk = {}
        for name, array in self.held[0].items():
            axis = self._axis(name, array)
            chunk[name] = array if axis is None else array[(*[slice(None)] * axis, slice(samples))]
        return Held(self.name, [chunk], self._inputs, min(samples, self.samples or samples), self.single)

    def _axis(self, name: str, array: np.ndarray) -> int | None:
        """The axis of an array that counts samples; None where the model has a fixed number of what stands there."""
        spec = self._inputs.get(name)
        if spec is not None and spec.counts:
            return spec.sample
        counts = array.ndim and len(array) == self.samples
        return 0 if counts and (spec is None or not spec.shape or spec.shape[0] != len(array)) else None

    def digest(self) -> str:
        """SHA-256 of all arrays, in hexadecimal."""
        found = hashlib.sha256()
        for chunk in self.held:
            for name, array in sorted(chunk.items()):
                found.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogatepass"))
                found.update(
                    repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
                )
        return found.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays as an .npz holds them: whole where all samples stand in one chunk, else `x[0]`, `x[1]`, ... and labels."""
        if len(self.held) == 1:
            return dict(self.held[0])
        found: dict[str, np.ndarray] = {}
        for i, chunk in enumerate(self.held):
            found |= {name if name == LABELS else f"{name}[{i}]": a for name, a in chunk.items() if name != LABELS}
        if all(LABELS in chunk for chunk in self.held):
            from onnxc.runtime.batches import join_labels

            found[LABELS] = join_labels([chunk[LABELS] for chunk in self.held])
        return found


def split(data: Data, shares: Sequence[int], seed: int = 0, beyond: Sequence[int] | None = None) -> list[Held]:
    """`data` in as many parts as there are shares, which are eighths of the samples; of those behind the first MOST, which are taken
    where samples are small, the parts get `beyond` (None: the same). Raises BadData where a part gets none."""
    beyond = shares if beyond is None else beyond
    if sum(shares) != RUN or sum(beyond) != RUN:
        raise ValueError(f"shares must add up to {RUN}")
    parts: list[list[Chunk]] = [[] for _ in shares]
    layout, held = None, 0
    for k, (used, chunk, _) in enumerate(rebatch(data._chunks(), data._inputs, 1)):
        held += sum(a.nbytes for a in chunk.values())
        if k >= MORE or (k >= MOST and held > SMALL):
            break
        layout = used
        if k % RUN == 0:
            order = np.repeat(np.arange(len(shares)), shares if k < MOST else beyond)
            dealt = np.random.default_rng([seed, k // RUN]).permutation(order)
        parts[int(dealt[k % RUN])].append(chunk)
    made = []
    for number, part in enumerate(parts, 1):
        if layout is None or not part:
            raise BadData(f"{data.name} holds too few samples to choose by some and report on others", expected=f"at least {4 * RUN}",
                          found=sum(map(len, parts)))  # fmt: skip
        alike = all(layout.fits(part[0], chunk) and chunk.keys() == part[0].keys() for chunk in part[1:])
        joined = [layout.join(part)] if alike else part
        count = len(part) * (layout.fixed or 1)
        made.append(Held(f"{data.name} (part {number} of {len(parts)})", joined, data._inputs, count, data.single))
    return made
