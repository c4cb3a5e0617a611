"""Data sets as `--data` names them: an .npz, a folder of .npy, `module:function`, or seeded random inputs.

However they are stored, they come out as batches (`runtime.batches`): dicts of arrays named as the model's inputs, with
`labels` (one for each sample: numbers, arrays, or objects of different extents) if there are any. Samples of different extents
stand as `x[0]`, `x[1]`, ... in an .npz or a folder. Reading is deterministic and starts afresh with each `batches`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.ir.escape import line
from onnxc.runtime.batches import LABELS, Batch, Chunk, Layout, ragged, rebatch
from onnxc.runtime.code import CODE, failed, import_function
from onnxc.runtime.draw import Sizes, random_feeds, words
from onnxc.runtime.npy import npz_names, read_npy, read_npz
from onnxc.runtime.specs import TensorSpec

LONGEST = 180
"""Characters of a file's name that are a tensor's."""
FORMS = "give an .npz, a folder of .npy files, or module:function"


class Data:
    """A data set fitted to a model's inputs.

    `name` says where it is from, `synthetic` that it is random, `samples` how many there are (None: not known before
    reading), `labelled` whether batches hold `labels`, `remarks` what was chosen for the user.
    `single`: one sample at a time, as the model takes no more.
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
        remarks: Iterable[str] = (),
    ):
        self.name = name
        self.samples = samples
        self.labelled = labelled
        self.synthetic = synthetic
        self.remarks = list(remarks)
        self.single = False
        self._chunks = chunks
        self._inputs = dict(inputs)

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[Batch]:
        """Yield batches of `size` samples (of the model's own size where that is fixed), about `limit` in all.

        The last batch is cut to meet `limit` only where the model takes a batch of any size.
        """
        layout = None
        left = sys.maxsize if limit is None else limit
        size = 1 if self.single else max(1, min(size, left))
        for layout, batch, count in rebatch(self._chunks(), self._inputs, size):
            if count > left and layout.fixed is None:
                batch, count = layout.cut(batch, 0, left), left
            _refuse_wild(batch, self._inputs)
            yield Batch(layout.feeds(batch), count)
            left -= count
            if left <= 0:
                return
        if layout is None:
            raise BadData(f"{self.name} holds too few samples for one batch")

    @property
    def counted(self) -> dict[str, int]:
        """The axis that counts samples, as many as a batch is asked for, of the inputs that have one; empty where a batch is one run."""
        return {name: spec.sample for name, spec in self._inputs.items() if spec.counts and spec.sample is not None}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input with one sample."""
        first = next(self.batches(1))
        return {name: first[name].shape for name in self._inputs}


def _refuse_wild(batch: Chunk, inputs: Mapping[str, TensorSpec]) -> None:
    """Numbers that stand for none would go through every layer, and make any error of a pass look like one of the data."""
    for name in [*inputs, LABELS]:
        array = batch.get(name)
        if array is None or array.dtype.kind not in "fc" or np.isfinite(array).all():
            continue
        found = "NaN" if np.isnan(array).any() else "Inf"
        raise BadData(f"the data hold {found}", tensor=name, remedy="clean the data")


def open_data(
    source: object,
    inputs: Mapping[str, TensorSpec],
    *,
    seed: int = 0,
    samples: int = 8,
    sizes: Sizes | None = None,
    flags: Collection[str] = (),
) -> Data:
    """The data set that `source` names, checked against `inputs` (see `specs.input_specs`).

    `source`: None (seeded random inputs, `samples` of them, open axes as `sizes` says), a path to an .npz or a folder with
    `<input>.npy`, "module:function" or a function that yields dicts (each with one sample or more) or returns a Dataset as
    torch has them, whose items are tuples of the model's inputs, with a label behind them or none; a dict of arrays, or a
    `Data`. flags: inputs of one boolean, which half of the random samples have the other way round.

    Raises `BadData` if it cannot be read or does not fit. Pickled objects are refused.
    """
    if isinstance(source, Data):
        return source
    if source is None:
        return _random_data(inputs, seed, samples, sizes, flags)
    if isinstance(source, Mapping):
        return _unread(source, _array_data("the given arrays", _arrays(source), inputs))
    if callable(source):
        return _function_data(getattr(source, "__qualname__", "function"), source, inputs)
    if not isinstance(source, str | Path):
        raise BadData("not a data set", found=type(source).__name__, remedy=FORMS)
    path = Path(source)
    if path.is_dir():
        there = [entry.stem for entry in path.glob("*.npy")]
        return _unread(there, _array_data(str(source), _read_folder(path, inputs), inputs))
    if path.is_file():
        read = _array_data(str(source), read_npz(path, [*inputs, LABELS], list(inputs)), inputs)
        return _unread(npz_names(path), read)
    if CODE.fullmatch(str(source)):
        return _function_data(str(source), import_function(str(source), FORMS), inputs)
    raise BadData(f"no such data: {source}", remedy=FORMS)


def _array_data(name: str, arrays: Chunk, inputs: Mapping[str, TensorSpec]) -> Data:
    labelled = LABELS in arrays and LABELS not in inputs
    if any(f"{n}[0]" in arrays and n not in arrays for n in inputs):
        chunks = _ragged(arrays, inputs)
        layout = Layout(inputs, chunks[0])
        counts = [layout.check(chunk)[1] for chunk in chunks]
        return Data(name, lambda: iter(chunks), inputs, samples=sum(counts), labelled=labelled)
    layout = Layout(inputs, arrays)
    chunk, count = layout.check(arrays)
    if layout.fixed and count < layout.fixed:
        what = f"{name} holds too few samples for one batch"
        raise BadData(what, expected=f"at least {layout.fixed}", found=count)
    return Data(name, lambda: iter([chunk]), inputs, samples=count, labelled=labelled)


def _unread(there: Iterable[str], data: Data) -> Data:
    """`data`, with a remark on names among those that are there which are no input: labels that are spelt otherwise, say."""
    read = {LABELS, *data._inputs, *(file_name(name).removesuffix(".npy") for name in data._inputs)}
    left = [line(n) for n in there if n not in read and re.sub(r"\[\d+\]$|_\d+_$", "", n) not in read]
    if left:
        names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        hint = "" if data.labelled else f": labels are named {LABELS}"
        data.remarks.append(f"the data hold {names}, which nothing reads{hint}")
    return data


def _ragged(arrays: Chunk, inputs: Mapping[str, TensorSpec]) -> list[Chunk]:
    """A chunk for each sample of `x[0]`, `x[1]`, ...; an input that stands whole beside them is cut along its samples, or fed
    with each. Samples may lack the axis that counts them."""
    numbered = [n for n in inputs if n not in arrays and f"{n}[0]" in arrays]
    count = 0
    while f"{numbered[0]}[{count}]" in arrays:
        count += 1
    chunks = []
    for i in range(count):
        chunk: Chunk = {}
        for name, spec in inputs.items():
            key = f"{name}[{i}]" if name in numbered else name
            if key not in arrays:
                raise BadData("no array for this sample", tensor=key, expected=f"{count} samples, as in {numbered[0]}")
            array, rank = arrays[key], None if spec.shape is None else len(spec.shape)
            if name in numbered:
                short = spec.counts and rank is not None and array.ndim == rank - 1
                chunk[name] = np.expand_dims(array, spec.sample or 0) if short else array
            elif spec.counts and array.ndim == rank:
                chunk[name] = np.take(array, [i], spec.sample)
            else:
                chunk[name] = array[i, ...] if rank is not None and array.ndim == rank + 1 and i < len(array) else array
        if LABELS in arrays and LABELS not in inputs:
            chunk[LABELS] = arrays[LABELS][i : i + 1]
        chunks.append(chunk)
    return chunks


def _random_data(
    inputs: Mapping[str, TensorSpec], seed: int, samples: int, sizes: Sizes | None, flags: Collection[str] = ()
) -> Data:
    free = any(spec.counts for spec in inputs.values())
    fixed = all(spec.shape is not None and all(isinstance(dim, int) for dim in spec.shape) for spec in inputs.values())
    whole = random_feeds(inputs, seed, sizes=sizes)
    other = {name: ~array if name in flags else array for name, array in whole.items()}

    def chunks() -> Iterator[Chunk]:
        for sample in range(samples):
            feeds = random_feeds(inputs, seed, sizes=sizes, first=sample)
            beside = whole if 2 * sample < samples else other
            # Stacked form where all is fixed; beside inputs that count samples, the others are the same with each.
            yield {
                name: array[None] if fixed else beside[name] if free and not inputs[name].counts else array
                for name, array in feeds.items()
            }

    said = words(inputs, {name: array.shape for name, array in whole.items()})
    said += [f"{name} either way, a half of the samples each" for name in flags]
    return Data(f"seeded random inputs (seed {seed})", chunks, inputs, samples=samples, synthetic=True, remarks=said)


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
        numbered = [path / f"{file.stem}[0].npy", path / file_name(f"{name}[0]")]
        if file.is_file():
            arrays[name] = read_npy(file)
        elif first := next((f for f in numbered if f.is_file()), None):
            for i in itertools.count():
                each = path / f"{file.stem}[{i}].npy" if "[0]" in first.name else path / file_name(f"{name}[{i}]")
                if not each.is_file():
                    break
                arrays[f"{name}[{i}]"] = read_npy(each)
        elif name in inputs:
            found = ", ".join(sorted(entry.name for entry in path.glob("*.npy"))[:5]) or "no .npy files"
            raise BadData(f"no file {file.name} in {path}", tensor=name, found=found)
    return arrays


def _function_data(name: str, function: Callable, inputs: Mapping[str, TensorSpec]) -> Data:
    """The data of a function, which is asked for its first item: whether there are labels."""
    first = next(_yielded(function, inputs), {})
    labelled = LABELS in first and LABELS not in inputs
    return _unread(first, Data(name, lambda: _yielded(function, inputs), inputs, labelled=labelled))


def _yielded(function: Callable[[], Iterable], inputs: Mapping[str, TensorSpec]) -> Iterator[Chunk]:
    """Dicts of arrays as they come; of a Dataset (`len` and items by number) one sample each, as dicts or as tuples; of a DataLoader
    tuples or lists of batches."""
    made = _called(function, function)
    if not isinstance(made, Iterable) and not hasattr(made, "__getitem__"):
        raise BadData("the data function must yield dicts of arrays", found=type(made).__name__)
    numbered = hasattr(made, "__getitem__") and hasattr(made, "__len__") and not isinstance(made, Mapping)
    items = (made[i] for i in range(len(made))) if numbered else iter(made)
    while (item := _called(function, next, items, None)) is not None:
        if isinstance(item, tuple | list) and len(item) - len(inputs) in (0, 1):
            item = _named(item, inputs)
        if not isinstance(item, Mapping):
            raise BadData("the data function must yield dicts of arrays", found=type(item).__name__)
        yield _arrays(item)


def _named(item: Sequence[object], inputs: Mapping[str, TensorSpec]) -> Chunk:
    """The inputs, and a label, of one sample, or of a batch where each input has its axis of samples."""
    arrays = [np.asarray(a) for a in item]
    pairs = list(zip(arrays, inputs.values(), strict=False))
    many = all(spec.sample is not None and a.ndim == len(spec.shape or ()) for a, spec in pairs)
    return dict(zip([*inputs, LABELS], (a if many and a.ndim else a[None] for a in arrays), strict=False))


def _called(function: Callable, call: Callable, *args: object) -> Any:
    """What `call` gives; an error in the user's code is theirs, and said so."""
    try:
        return call(*args)
    except Exception as error:
        raise failed(getattr(function, "__qualname__", "the data function"), error) from error


def _arrays(item: Mapping[str, object]) -> Chunk:
    return {str(name): ragged(a) if name == LABELS else np.asarray(a) for name, a in item.items()}
