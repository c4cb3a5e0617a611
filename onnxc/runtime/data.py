"""Data sets as `--data` names them: an .npz, a folder of .npy, `module:function`, or seeded random inputs.

However they are stored, they come out as batches: dicts of arrays named as the model's inputs, sample axis first, with
`labels` (integers, one per sample) if there are any. Reading is deterministic and starts afresh with each call of `batches`.
"""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.specs import TensorSpec, check_array, random_feeds

LABELS = "labels"
FORMS = "give an .npz, a folder of .npy files, or module:function"
_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip

Chunk = dict[str, np.ndarray]


class Data:
    """A data set fitted to a model's inputs.

    `name` says where it is from, `synthetic` that it is random, `samples` how many rows there are (None: not known before
    reading), `labelled` whether batches hold `labels`.

    How rows become batches follows from the first axes of the inputs:
    - some are symbolic: these count samples, and a batch holds as many as asked for; the others are fed whole every time;
    - all are fixed: a batch holds just the rows that the model takes in one run, and a last batch with fewer is left out. An
      array with one axis more than the input, `(samples, *shape)`, is taken to hold one run's input per sample.
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

    @property
    def fixed_batch(self) -> int | None:
        """Rows per run where the model fixes them, else None."""
        layout = _Layout(self._inputs)
        return layout.rows[layout.counted[0]] if layout.fixed and layout.counted else None

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[Chunk]:
        """Yield batches of `size` samples (of the model's own size where that is fixed), of `limit` samples in all."""
        layout = _Layout(self._inputs)
        size = 1 if layout.fixed else max(1, size)
        left = limit
        empty = True
        for batch in _rebatch(self._chunks(), layout, size):
            if left is not None and not layout.fixed and layout.counted:
                batch = layout.take(batch, 0, min(left, size))
            _refuse_nan(batch, self._inputs)
            yield batch
            empty = False
            if left is not None:
                left -= len(batch[layout.counted[0]]) if layout.counted else 1
                if left <= 0:
                    return
        if empty:
            raise BadData(f"{self.name} holds no full batch", expected=f"at least {self.fixed_batch or 1} samples")


class _Layout:
    """Which inputs are cut along their first axis, and how many rows of each make one unit."""

    def __init__(self, inputs: Mapping[str, TensorSpec]):
        self.inputs = inputs
        free = [name for name, spec in inputs.items() if spec.shape is None or (spec.shape and not _is_fixed(spec))]
        self.fixed = not free
        self.counted = free or [name for name, spec in inputs.items() if spec.shape]
        self.rows = {name: inputs[name].shape[0] if self.fixed else 1 for name in self.counted}

    def normalise(self, chunk: Mapping[str, np.ndarray]) -> tuple[Chunk, int]:
        """Check a chunk; return it with stacked samples unstacked, and the number of its units. Raises `BadData`."""
        arrays: Chunk = {}
        symbols: dict[str, int] = {}
        units = None
        for name, spec in self.inputs.items():
            if name not in chunk:
                found = ", ".join(sorted(chunk)) or "no arrays"
                raise BadData("no array for this input", tensor=name, expected=spec, found=found)
            array = chunk[name]
            if self.fixed and name in self.rows and array.ndim == len(spec.shape) + 1:
                array = array.reshape(-1, *array.shape[2:]) if array.shape[1] == spec.shape[0] else array
            check_array(name, array.shape, array.dtype, spec, symbols, skip_axis0=name in self.rows)
            arrays[name] = array
            if name in self.rows:
                units = self._count(name, array, units)
        if LABELS in chunk and LABELS not in self.inputs:
            arrays[LABELS] = self._labels(np.asarray(chunk[LABELS]), units or 1)
        return arrays, units or 1

    def _count(self, name: str, array: np.ndarray, units: int | None) -> int:
        if array.ndim == 0 or len(array) == 0:
            raise BadData("there are no samples", tensor=name, found=list(array.shape))
        found = len(array) // self.rows[name]
        if units is not None and found != units:
            first = self.counted[0]
            raise BadData(f"as many samples as {first} are needed", tensor=name, axis=0, expected=units, found=found)
        return found

    def _labels(self, labels: np.ndarray, units: int) -> np.ndarray:
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            found = f"{labels.dtype} {list(labels.shape)}"
            raise BadData("wrong form", tensor=LABELS, expected="integers, one per sample", found=found)
        per_unit = self.rows[self.counted[0]] if self.counted else 1
        whole = len(labels) // per_unit == units and len(labels) >= units * per_unit
        if not whole and len(labels) != units:
            raise BadData("one label per sample is needed", tensor=LABELS, expected=units * per_unit, found=len(labels))
        return labels

    def take(self, chunk: Chunk, start: int, stop: int) -> Chunk:
        """Units start..stop of a normalised chunk; whole inputs are taken as they are."""
        return {name: array[start * step : stop * step] if step else array for name, array, step in self._steps(chunk)}

    def join(self, chunks: list[Chunk]) -> Chunk:
        """One chunk from many; whole inputs must agree."""
        if len(chunks) == 1:
            return chunks[0]
        joined = {}
        for name, array, step in self._steps(chunks[0]):
            parts = [chunk[name] for chunk in chunks]
            if step:
                joined[name] = np.concatenate(parts)
            elif all(np.array_equal(array, part) for part in parts[1:]):
                joined[name] = array
            else:
                raise BadData("this input has no sample axis, yet differs between samples", tensor=name)
        return joined

    def _steps(self, chunk: Chunk) -> Iterator[tuple[str, np.ndarray, int]]:
        units = self._units(chunk)
        for name, array in chunk.items():
            if name == LABELS and name not in self.inputs:
                yield name, array, len(array) // units
            else:
                yield name, array, self.rows.get(name, 0)

    def _units(self, chunk: Chunk) -> int:
        return len(chunk[self.counted[0]]) // self.rows[self.counted[0]] if self.counted else 1


def _is_fixed(spec: TensorSpec) -> bool:
    return isinstance(spec.shape[0], int)


def _rebatch(chunks: Iterable[Mapping[str, np.ndarray]], layout: _Layout, size: int) -> Iterator[Chunk]:
    """Cut and join chunks to batches of `size` units, the last of them shorter; holds one batch and one chunk at most."""
    pending: list[Chunk] = []
    held = 0
    keys = None
    for raw in chunks:
        chunk, units = layout.normalise(raw)
        if keys is not None and chunk.keys() != keys:
            raise BadData("labels stand beside some samples only", tensor=LABELS)
        keys = chunk.keys()
        start = 0
        while held + units - start >= size:
            stop = start + size - held
            yield _materialise(layout.join([*pending, layout.take(chunk, start, stop)]))
            pending, held, start = [], 0, stop
        if start < units:
            pending.append(layout.take(chunk, start, units))
            held += units - start
    if pending:
        yield _materialise(layout.join(pending))


def _materialise(batch: Chunk) -> Chunk:
    # A memory-mapped slice becomes an array of its own, so that a batch does not read the file more than once.
    return {name: np.array(array) if isinstance(array, np.memmap) else array for name, array in batch.items()}


def _refuse_nan(batch: Chunk, inputs: Mapping[str, TensorSpec]) -> None:
    for name in inputs:
        if batch[name].dtype.kind in "fc" and np.isnan(batch[name]).any():
            raise BadData("the data hold NaN", tensor=name, remedy="clean the data")


def open_data(source: object, inputs: Mapping[str, TensorSpec], *, seed: int = 0, samples: int = 8) -> Data:
    """The data set that `source` names, checked against `inputs` (see `specs.input_specs`).

    `source`: None (seeded random inputs, `samples` of them), a path to an .npz or a folder with `<input>.npy`,
    "module:function" or a function that yields dicts (each with one sample or more, sample axis first), a dict of arrays, or a
    `Data`. Raises `BadData` if it cannot be read or does not fit. Pickled objects are refused, never loaded.
    """
    if isinstance(source, Data):
        return source
    if source is None:
        return _random_data(inputs, seed, samples)
    if isinstance(source, Mapping):
        return _array_data("the given arrays", {name: np.asarray(array) for name, array in source.items()}, inputs)
    if callable(source):
        return Data(getattr(source, "__qualname__", "function"), lambda: _yielded(source), inputs)
    if not isinstance(source, str | Path):
        raise BadData("not a data set", found=type(source).__name__, remedy=FORMS)
    path = Path(source)
    if path.is_dir():
        return _array_data(str(source), _read_folder(path, inputs), inputs)
    if path.is_file():
        return _array_data(str(source), _read_npz(path, inputs), inputs)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(source)):
        function = _import_function(str(source))
        return Data(str(source), lambda: _yielded(function), inputs)
    raise BadData(f"no such data: {source}", remedy=FORMS)


def _array_data(name: str, arrays: Chunk, inputs: Mapping[str, TensorSpec]) -> Data:
    layout = _Layout(inputs)
    chunk, units = layout.normalise(arrays)
    samples = units * (layout.rows[layout.counted[0]] if layout.counted else 1)
    return Data(name, lambda: iter([arrays]), inputs, samples=samples, labelled=LABELS in chunk and LABELS not in inputs)


def _random_data(inputs: Mapping[str, TensorSpec], seed: int, samples: int) -> Data:
    def chunks() -> Iterator[Chunk]:
        for sample in range(samples):
            feeds = random_feeds(inputs, seed, 1, first=sample)
            # Inputs without a sample axis are the same in every batch.
            yield feeds if layout.fixed else {**feeds, **{name: whole[name] for name in inputs if name not in layout.rows}}

    layout = _Layout(inputs)
    whole = random_feeds(inputs, seed, 1)
    count = samples * (layout.rows[layout.counted[0]] if layout.counted else 1)
    return Data(f"seeded random inputs (seed {seed})", chunks, inputs, samples=count, synthetic=True)


def file_name(tensor: str) -> str:
    """The file of a tensor in a folder of .npy: its name, with `_` for what file systems or shells do not like."""
    return re.sub(r"[^\w.-]", "_", tensor, flags=re.ASCII) + ".npy"


def read_npy(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped. Raises `BadData`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise BadData(f"{path} is not a readable .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise BadData(f"{path} is an archive, not an .npy file")
    return array


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


def _read_npz(path: Path, inputs: Mapping[str, TensorSpec]) -> Chunk:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise BadData(f"{path} is one array, not an .npz", remedy="save it with numpy.savez, named as the model's input")
        with archive:
            missing = [name for name in inputs if name not in archive]
            if missing:
                found = ", ".join(archive.files) or "no arrays"
                raise BadData(f"{path} has no array for this input", tensor=missing[0], found=found)
            return {name: archive[name] for name in [*inputs, LABELS] if name in archive}
    except _UNREADABLE as error:
        raise BadData(f"{path} is not a readable .npz: {error}", remedy=FORMS) from error


def _import_function(source: str) -> Callable[[], Iterable[Mapping[str, object]]]:
    module_name, _, name = source.partition(":")
    # The command's own folder stands in sys.path, the user's does not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadData(f"cannot import {module_name}: {error}", remedy=FORMS) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadData(f"module {module_name} has no function {name}")
    return function


def _yielded(function: Callable[[], Iterable[Mapping[str, object]]]) -> Iterator[Chunk]:
    for item in function():
        if not isinstance(item, Mapping):
            raise BadData("the data function must yield dicts of arrays", found=type(item).__name__)
        yield {str(name): np.asarray(array) for name, array in item.items()}
