"""Arrays of samples cut and joined to batches, as a model takes them.

How samples become batches follows from the inputs' sample axes (`runtime.samples`):
- some inputs count samples: a batch holds as many as asked for, along the axis of each; other inputs are fed whole;
- all inputs are fixed to the same first extent: a batch holds just that many, and a last batch with fewer is left out;
- none counts: one sample is one run, and arrays with one axis more than their input, `(samples, *shape)`, hold many.

Samples of different extents (ragged ones), or beside which inputs without a sample axis differ, are batches of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.specs import TensorSpec, check_array, listing

LABELS = "labels"
Chunk = dict[str, np.ndarray]


class Batch(Chunk):
    """Arrays by name, and how many samples they hold; a model that takes no sample axis is fed one at a time."""

    def __init__(self, arrays: Mapping[str, np.ndarray], samples: int):
        super().__init__(arrays)
        self.samples = samples


class Layout:
    """Which arrays are cut along which axis, and to what batch size, given the inputs and the first arrays.

    `fixed` is the size that the model dictates, or None; `counted` the inputs that hold samples, with their axes;
    `stacked` the inputs whose arrays have a first axis that is not their own.
    """

    def __init__(self, inputs: Mapping[str, TensorSpec], chunk: Chunk):
        free = {name: spec.sample for name, spec in inputs.items() if spec.counts and spec.sample is not None}
        more = [
            n for n, s in inputs.items() if s.shape is not None and n in chunk and chunk[n].ndim == len(s.shape) + 1
        ]
        as_they_are = [
            n for n, s in inputs.items() if n not in chunk or s.shape is None or chunk[n].ndim == len(s.shape)
        ]
        self.stacked = more if not free and len(more) + len(as_they_are) == len(inputs) else []
        fixed = {n: 0 for n, spec in inputs.items() if spec.shape and spec.sample == 0}
        self.counted: dict[str, int] = free or dict.fromkeys(self.stacked, 0) or fixed
        self.inputs = {
            n: s._replace(shape=(None, *s.shape)) if n in self.stacked and s.shape is not None else s
            for n, s in inputs.items()
        }
        self.fixed: int | None = None if free else 1
        if not free and not self.stacked and fixed:
            # equal for all of them: else no axis would have been taken for that of samples
            extent = (inputs[next(iter(fixed))].shape or (1,))[0]
            self.fixed = extent if isinstance(extent, int) else None

    def check(self, chunk: Chunk) -> tuple[Chunk, int]:
        """The arrays of a chunk that count, and the number of its samples. Raises `BadData`."""
        arrays: Chunk = {}
        symbols: dict[str, int] = {}
        count = None
        for name, spec in self.inputs.items():
            if name not in chunk:
                raise BadData("no array for this input", tensor=name, expected=spec, found=listing(chunk))
            array = arrays[name] = chunk[name]
            axis = self.counted.get(name)
            check_array(name, array.shape, array.dtype, spec, symbols, skip=axis)
            if axis is None:
                continue
            if array.ndim <= axis or array.shape[axis] == 0:
                raise BadData("there are no samples", tensor=name, found=list(array.shape))
            if count is not None and array.shape[axis] != count:
                what = f"as many samples as in {next(iter(self.counted))} are needed"
                raise BadData(what, tensor=name, axis=axis, expected=count, found=array.shape[axis])
            count = array.shape[axis]
        count = count or 1
        if LABELS in chunk and LABELS not in self.inputs:
            labels = arrays[LABELS] = chunk[LABELS]
            if labels.shape[:1] != (count,) or labels.dtype.kind not in "biufOU":
                found = f"{labels.dtype} {list(labels.shape)}"
                raise BadData("one label per sample is needed", tensor=LABELS, expected=f"[{count}, ...]", found=found)
        return arrays, count

    def axis(self, name: str) -> int | None:
        """The axis of samples of an array: labels and the like have them first."""
        return self.counted.get(name) if name in self.inputs else 0

    def cut(self, chunk: Chunk, start: int, stop: int) -> Chunk:
        """Samples start..stop of a chunk."""
        return {name: _slice(array, self.axis(name), start, stop) for name, array in chunk.items()}

    def fits(self, chunk: Chunk, other: Chunk) -> bool:
        """Whether samples of both can stand in one batch."""
        for name, array in chunk.items():
            axis, second = self.axis(name), other[name]
            if name == LABELS and name not in self.inputs:
                continue
            if axis is None:
                if array is not second and not np.array_equal(array, second):
                    return False
            elif array.shape[:axis] + array.shape[axis + 1 :] != second.shape[:axis] + second.shape[axis + 1 :]:
                return False
        return True

    def join(self, chunks: list[Chunk]) -> Chunk:
        """One chunk from many that fit."""
        if len(chunks) == 1:
            return chunks[0]
        joined = {}
        for name, array in chunks[0].items():
            parts, axis = [chunk[name] for chunk in chunks], self.axis(name)
            if name == LABELS and name not in self.inputs:
                joined[name] = join_labels(parts)
            else:
                joined[name] = array if axis is None else np.concatenate(parts, axis)
        return joined

    def feeds(self, batch: Chunk) -> Chunk:
        """A batch as the model takes it: without the axes that are not its own. Scalars stay arrays, those of texts too."""
        return {name: array[0, ...] if name in self.stacked else array for name, array in batch.items()}


def _slice(array: np.ndarray, axis: int | None, start: int, stop: int) -> np.ndarray:
    return array if axis is None else array[(*[slice(None)] * axis, slice(start, stop))]


def rebatch(
    chunks: Iterable[Chunk], inputs: Mapping[str, TensorSpec], size: int
) -> Iterator[tuple[Layout, Chunk, int]]:
    """Cut and join chunks to batches of `size` samples; holds one batch and one chunk at most.

    A last batch with fewer, and one ahead of samples that do not fit to it, is yielded only if the model takes it.
    """
    layout = None
    pending: list[Chunk] = []
    held = 0
    for raw in chunks:
        layout = layout or Layout(inputs, raw)
        size = layout.fixed or size
        chunk, count = layout.check(raw)
        if pending and chunk.keys() != pending[0].keys():
            raise BadData("labels stand beside some samples only", tensor=LABELS)
        if pending and not layout.fits(pending[0], chunk):
            if layout.fixed is None:
                yield layout, _materialise(layout.join(pending)), held
            pending, held = [], 0
        start = 0
        while held + count - start >= size:
            stop = start + size - held
            yield layout, _materialise(layout.join([*pending, layout.cut(chunk, start, stop)])), size
            pending, held, start = [], 0, stop
        if start < count:
            pending.append(layout.cut(chunk, start, count))
            held += count - start
    if layout is not None and pending and layout.fixed is None:
        yield layout, _materialise(layout.join(pending)), held


def _materialise(batch: Chunk) -> Chunk:
    # A memory-mapped slice becomes an array of its own, so that a batch does not read the file more than once.
    return {name: np.array(array) if isinstance(array, np.memmap) else array for name, array in batch.items()}


def ragged(values: Any) -> np.ndarray:
    """An array of `values`; where they have different extents, an array of objects, one for each."""
    try:
        return np.asarray(values)
    except ValueError:
        made = np.empty(len(values), object)
        for i, value in enumerate(values):
            made[i] = value
        return made


def join_labels(parts: list[np.ndarray]) -> np.ndarray:
    """The labels of all parts, one after the other; of different extents they become objects."""
    alike = len({(part.dtype.kind, part.shape[1:]) for part in parts}) == 1
    return np.concatenate(parts) if alike else ragged([label for part in parts for label in part])
