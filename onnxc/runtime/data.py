"""Data sets as `--data` names them: an .npz, a folder of .npy, `module:function`, or seeded random inputs.

However they are stored, they come out as batches: dicts of arrays named as the model's inputs, sample axis first, with
`labels` (one for each sample: numbers, arrays, or objects of different extents) if there are any. Reading is
deterministic and starts afresh with each `batches`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.code import CODE, failed, import_function
from onnxc.runtime.npy import read_npy, read_npz
from onnxc.runtime.specs import TensorSpec, check_array, listing, random_feeds

LABELS = "labels"
LONGEST = 180
"""Characters of a file's name that are a tensor's."""
FORMS = "give an .npz, a folder of .npy files, or module:function"
Chunk = dict[str, np.ndarray]


class Batch(Chunk):
    """Arrays by name, and how many samples they hold; a model that takes no sample axis is fed one at a time."""

    def __init__(self, arrays: Mapping[str, np.ndarray], samples: int):
        super().__init__(arrays)
        self.samples = samples


class Data:
    """A data set fitted to a model's inputs.

    `name` says where it is from, `synthetic` that it is random, `samples` how many there are (None: not known before
    reading), `labelled` whether batches hold `labels`.

    How samples become batches follows from the first axes of the inputs:
    - some are symbolic: these count samples, and a batch holds as many as asked for; others are fed whole every time;
    - all are fixed to the same extent: a batch holds just that many samples, and a last batch with fewer is left out;
    - all are fixed, and every array has one axis more than its input, `(samples, *shape)`: one sample is one run.
    """

    def __init__(
        self,
        name: str,
        chunks: Callable[[], Iterator[Chunk]],
        inputs: Mapping[str, TensorSpec],
        *,
        samples: int | None = None,
        labelled: bool = False,
        synthetic: bool = False,
    ):
        self.name = name
        self.samples = samples
        self.labelled = labelled
        self.synthetic = synthetic
        self._chunks = chunks
        self._inputs = dict(inputs)

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[Batch]:
        """Yield batches of `size` samples (of the model's own size where that is fixed), about `limit` in all.

        The last batch is cut to meet `limit` only where the model takes a batch of any size.
        """
        layout = None
        left = sys.maxsize if limit is None else limit
        for layout, batch, count in _rebatch(self._chunks(), self._inputs, max(1, min(size, left))):
            if count > left and layout.fixed is None:
                batch, count = layout.cut(batch, 0, left), left
            _refuse_wild(batch, self._inputs)
            alone = layout.stacked
            yield Batch({k: a[0] if alone and k in self._inputs else a for k, a in batch.items()}, count)
            left -= count
            if left <= 0:
                return
        if layout is None:
            raise BadData(f"{self.name} holds too few samples for one batch")


class _Layout:
    """Which arrays are cut along their first axis, and to what batch size, given the inputs and the first arrays.

    `fixed` is the size that the model dictates, or None; `counted` are the inputs whose first axis counts samples.
    """

    def __init__(self, inputs: Mapping[str, TensorSpec], chunk: Chunk):
        free = [name for name, spec in inputs.items() if spec.shape is None or (spec.shape and not _is_fixed(spec))]
        self.stacked = not free and all(
            name in chunk and chunk[name].ndim == len(spec.shape) + 1 for name, spec in inputs.items()
        )
        self.counted = free or [name for name, spec in inputs.items() if spec.shape or self.stacked]
        self.inputs = {
            name: spec._replace(shape=(None, *spec.shape)) if self.stacked else spec for name, spec in inputs.items()
        }
        self.fixed = None if free else 1
        if not free and not self.stacked and self.counted:
            extents = {inputs[name].shape[0] for name in self.counted}
            if len(extents) > 1:
                expected = "arrays (samples, *shape)"
                raise BadData("the inputs fix different first axes", tensor=self.counted[0], expected=expected)
            self.fixed = extents.pop()

    def check(self, chunk: Chunk) -> tuple[Chunk, int]:
        """The arrays of a chunk that count, and the number of its samples. Raises `BadData`."""
        arrays: Chunk = {}
        symbols: dict[str, int] = {}
        count = None
        for name, spec in self.inputs.items():
            if name not in chunk:
                raise BadData("no array for this input", tensor=name, expected=spec, found=listing(chunk))
            array = arrays[name] = chunk[name]
            check_array(name, array.shape, array.dtype, spec, symbols, skip_axis0=name in self.counted)
            if name not in self.counted:
                continue
            if array.ndim == 0 or len(array) == 0:
                raise BadData("there are no samples", tensor=name, found=list(array.shape))
            if count is not None and len(array) != count:
                what = f"as many samples as in {self.counted[0]} are needed"
                raise BadData(what, tensor=name, axis=0, expected=count, found=len(array))
            count = len(array)
        count = count or 1
        if LABELS in chunk and LABELS not in self.inputs:
            labels = arrays[LABELS] = chunk[LABELS]
            if labels.shape[:1] != (count,) or labels.dtype.kind not in "biufOU":
                found = f"{labels.dtype} {list(labels.shape)}"
                raise BadData("one label per sample is needed", tensor=LABELS, expected=f"[{count}, ...]", found=found)
        return arrays, count

    def cut(self, chunk: Chunk, start: int, stop: int) -> Chunk:
        """Samples start..stop of a chunk."""
        return {name: array[start:stop] if self._counts(name) else array for name, array in chunk.items()}

    def join(self, chunks: list[Chunk]) -> Chunk:
        """One chunk from many; inputs that are fed whole must agree."""
        if len(chunks) == 1:
            return chunks[0]
        joined = {}
        for name, array in chunks[0].items():
            parts = [chunk[name] for chunk in chunks]
            if name == LABELS and name not in self.inputs:
                joined[name] = join_labels(parts)
            elif self._counts(name):
                joined[name] = np.concatenate(parts)
            elif all(np.array_equal(array, part) for part in parts):
                joined[name] = array
            else:
                raise BadData("this input has no sample axis, yet differs between samples", tensor=name)
        return joined

    def _counts(self, name: str) -> bool:
        return name in self.counted or name not in self.inputs


def _is_fixed(spec: TensorSpec) -> bool:
    return isinstance(spec.shape[0], int)


def _rebatch(
    chunks: Iterable[Chunk], inputs: Mapping[str, TensorSpec], size: int
) -> Iterator[tuple[_Layout, Chunk, int]]:
    """Cut and join chunks to batches of `size` samples; holds one batch and one chunk at most.

    A last batch with fewer is yielded only if the model takes it.
    """
    layout = None
    pending: list[Chunk] = []
    held = 0
    for raw in chunks:
        layout = layout or _Layout(inputs, raw)
        size = layout.fixed or size
        chunk, count = layout.check(raw)
        if pending and chunk.keys() != pending[0].keys():
            raise BadData("labels stand beside some samples only", tensor=LABELS)
        start = 0
        while held + count - start >= size:
            stop = start + size - held
            yield layout, _materialise(layout.join([*pending, layout.cut(chunk, start, stop)])), size
            pending, held, start = [], 0, stop
        if start < count:
            pending.append(layout.cut(chunk, start, count))
            held += count - start
    if pending and layout.fixed is None:
        yield layout, _materialise(layout.join(pending)), held


def _materialise(batch: Chunk) -> Chunk:
    # A memory-mapped slice becomes an array of its own, so that a batch does not read the file more than once.
    return {name: np.array(array) if isinstance(array, np.memmap) else array for name, array in batch.items()}


def _refuse_wild(batch: Chunk, inputs: Mapping[str, TensorSpec]) -> None:
    """Numbers that stand for none would go through every layer, and make any error of a pass look like one of the data."""
    for name in [*inputs, LABELS]:
        array = batch.get(name)
        if array is None or array.dtype.kind not in "fc" or np.isfinite(array).all():
            continue
        found = "NaN" if np.isnan(array).any() else "Inf"
        raise BadData(f"the data hold {found}", tensor=name, remedy="clean the data")


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


def open_data(source: object, inputs: Mapping[str, TensorSpec], *, seed: int = 0, samples: int = 8) -> Data:
    """The data set that `source` names, checked against `inputs` (see `specs.input_specs`).

    `source`: None (seeded random inputs, `samples` of them), a path to an .npz or a folder with `<input>.npy`,
    "module:function" or a function that yields dicts (each with one sample or more, sample axis first), a dict of
    arrays, or a `Data`. Raises `BadData` if it cannot be read or does not fit. Pickled objects are refused.
    """
    if isinstance(source, Data):
        return source
    if source is None:
        return _random_data(inputs, seed, samples)
    if isinstance(source, Mapping):
        return _array_data("the given arrays", _arrays(source), inputs)
    if callable(source):
        return Data(getattr(source, "__qualname__", "function"), lambda: _yielded(source), inputs)
    if not isinstance(source, str | Path):
        raise BadData("not a data set", found=type(source).__name__, remedy=FORMS)
    path = Path(source)
    if path.is_dir():
        return _array_data(str(source), _read_folder(path, inputs), inputs)
    if path.is_file():
        return _array_data(str(source), read_npz(path, [*inputs, LABELS], list(inputs)), inputs)
    if CODE.fullmatch(str(source)):
        function = import_function(str(source), FORMS)
        return Data(str(source), lambda: _yielded(function), inputs)
    raise BadData(f"no such data: {source}", remedy=FORMS)


def _array_data(name: str, arrays: Chunk, inputs: Mapping[str, TensorSpec]) -> Data:
    layout = _Layout(inputs, arrays)
    chunk, count = layout.check(arrays)
    if layout.fixed and count < layout.fixed:
        what = f"{name} holds too few samples for one batch"
        raise BadData(what, expected=f"at least {layout.fixed}", found=count)
    return Data(name, lambda: iter([chunk]), inputs, samples=count, labelled=LABELS in chunk and LABELS not in inputs)


def _random_data(inputs: Mapping[str, TensorSpec], seed: int, samples: int) -> Data:
    whole = random_feeds(inputs, seed)
    fixed = all(spec.shape is not None and (not spec.shape or _is_fixed(spec)) for spec in inputs.values())

    def chunks() -> Iterator[Chunk]:
        for sample in range(samples):
            feeds = random_feeds(inputs, seed, first=sample)
            # Stacked form where all first axes are fixed; else inputs without a sample axis are the same in each.
            yield {
                name: array[None] if fixed else array if not _is_whole(inputs[name]) else whole[name]
                for name, array in feeds.items()
            }

    return Data(f"seeded random inputs (seed {seed})", chunks, inputs, samples=samples, synthetic=True)


def _is_whole(spec: TensorSpec) -> bool:
    return not spec.shape or _is_fixed(spec)


def file_name(tensor: str) -> str:
    """The file of a tensor in a folder of .npy: its name, with `_` for what file systems or shells do not like.

    A name that is too long ends in a digest.
    """
    name = re.sub(r"[^\w.-]|^[.-]", "_", tensor, flags=re.ASCII)
    if len(name) > LONGEST:
        name = name[:LONGEST] + hashlib.sha256(tensor.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{name}.npy"


def _read_folder(path: Path, inputs: Mapping[str, TensorSpec]) -> Chunk:
    arrays = {}
    for name in [*inputs, LABELS]:
        file = path / file_name(name)
        if file.is_file():
            arrays[name] = read_npy(file)
        elif name in inputs:
            found = ", ".join(sorted(entry.name for entry in path.glob("*.npy"))[:5]) or "no .npy files"
            raise BadData(f"no file {file.name} in {path}", tensor=name, found=found)
    return arrays


def _yielded(function: Callable[[], Iterable[Mapping[str, object]]]) -> Iterator[Chunk]:
    items = iter(_called(function, function))
    while (item := _called(function, next, items, None)) is not None:
        if not isinstance(item, Mapping):
            raise BadData("the data function must yield dicts of arrays", found=type(item).__name__)
        yield _arrays(item)


def _called(function: Callable, call: Callable, *args: object) -> Any:
    """What `call` gives; an error in the user's code is theirs, and said so."""
    try:
        return call(*args)
    except Exception as error:
        raise failed(getattr(function, "__qualname__", "the data function"), error) from error


def _arrays(item: Mapping[str, object]) -> Chunk:
    return {str(name): ragged(a) if name == LABELS else np.asarray(a) for name, a in item.items()}
