"""What a model is fed: the user's data, or random inputs that the model accepts, found by trying.

    passes, compare, sensitivity, bench, run, compile  ->  feed(proto, data, wishes)  ->  Data

Random inputs are drawn at the usual extents (`runtime.draw`). Where ONNX Runtime refuses them, other extents are tried before the
user is asked: those that stand in the model's own shapes, powers of two, usual image and audio lengths; for all open axes at
once, then for one after the other; and zeros instead of integers. A model that runs with one sample and not with two gets one
at a time. All of it is told in `Data.remarks`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir.errors import BadData, BadOption, NotTaken, OnnxcError, Unsupported, VerificationError
from onnxc.runtime.data import Data, open_data
from onnxc.runtime.draw import extents, random_feeds
from onnxc.runtime.reference import Runner
from onnxc.runtime.samples import NONE
from onnxc.runtime.settled import settled
from onnxc.runtime.specs import TensorSpec, check_array, input_specs
from onnxc.runtime.values import Values, places

if TYPE_CHECKING:
    import onnx

USUAL = (1, 2, 32, 128, 64, 256, 8, 512, 1024, 224, 16000, 4096, 640, 320, 48, 100, 1280, 400, 80, 48000)
TRIALS = 240
"""Runs at most before the user is asked."""
LARGEST = 1 << 22
"""Elements of all inputs together that are tried."""
Inputs = dict[str, TensorSpec]
Attempt = Callable[[Mapping[str, np.ndarray]], "OnnxcError | None"]


class Numbers(tuple[float, ...]):
    """An input that is given as numbers: all of its elements, or the one that all of them are."""

    def array(self, name: str, spec: TensorSpec) -> np.ndarray | None:
        """The array; None where it is one number and the input has open axes. Raises `BadOption`."""
        dims = spec.shape
        if dims is None or (len(self) == 1 and any(not isinstance(d, int) for d in dims)):
            return None
        shape = tuple(d if isinstance(d, int) else len(self) for d in dims)
        made = np.asarray(self, np.float64).astype(spec.dtype)
        if not np.array_equal(made.astype(np.float64), np.asarray(self)):
            raise BadOption(
                "--input does not fit the type", tensor=name, expected=spec, found=",".join(f"{n:g}" for n in self)
            )
        if len(self) == 1:
            return np.full(shape, made[0])
        if math.prod(shape) != len(self):
            raise BadOption("--input gives another number of elements", tensor=name, expected=spec, found=len(self))
        return made.reshape(shape)


@dataclass(frozen=True)
class Wishes:
    """What a user says of the inputs. shapes: extents of an input by its name, or the one of a symbol; samples: the symbol that
    counts samples, or "none"; arrays: whole inputs by name, fed as they are."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: str | None = None
    arrays: Mapping[str, np.ndarray | Numbers] = field(default_factory=dict)


def feed(
    proto: onnx.ModelProto,
    source: object = None,
    wishes: Wishes | None = None,
    *,
    seed: int = 0,
    samples: int = 8,
    runner: Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], object] | None = None,
) -> Data:
    """The data that `source` names (see `open_data`), or random inputs that `proto` accepts.

    Raises `BadOption` where a wish names nothing or does not fit, `VerificationError` where nothing that was tried runs,
    `BadData` and `Unsupported` as `open_data` and `input_specs`.
    """
    wishes = wishes or Wishes()
    if isinstance(source, Data):
        return source
    runner = runner or Runner(optimise=False)
    inputs = input_specs(proto, wishes.samples)
    sizes = wished_sizes(inputs, wishes)
    inputs = {
        n: s._replace(shape=tuple(wishes.shapes[n])) if s.shape is None and n in wishes.shapes else s
        for n, s in inputs.items()
    }

    def attempt(feeds: Mapping[str, np.ndarray]) -> OnnxcError | None:
        try:
            runner(proto, feeds)
        except (VerificationError, Unsupported) as error:
            return error
        return None

    if source is not None:
        if wishes.arrays:
            raise BadOption("--input stands in for data, and there are data", found=", ".join(wishes.arrays),
                            remedy="put the array into them")  # fmt: skip
        data = open_data(source, inputs)
        _one_or_many(data, attempt)
        return data
    counted = {s.shape[s.sample] for s in inputs.values() if s.shape and s.counts and s.sample is not None}
    sizes = {k: n for k, n in settled(proto, inputs).items() if k not in counted} | sizes
    arrays, inputs = arrays_of(inputs, wishes)
    inputs = _given(inputs, arrays)
    if any(spec.shape is None for spec in inputs.values()):
        inputs = _ranked(inputs, attempt, seed, sizes)
    several = any(spec.counts for spec in inputs.values()) and samples > 1
    many = several and attempt(random_feeds(inputs, seed, 2, sizes)) is None
    if not many:
        inputs, sizes = _accepted(inputs, sizes, attempt, seed, proto)
    flags = _flags(inputs, sizes, seed, attempt) if several else ()
    data = open_data(None, inputs, seed=seed, samples=samples, sizes=sizes, flags=flags)
    if wishes.arrays:
        data.name = (
            f"{', '.join(wishes.arrays)} as given, and {data.name}"
            if len(wishes.arrays) < len(inputs)
            else "the given inputs"
        )
    if several and not many:
        _one_or_many(data, attempt)
    return data


def usual_shapes(proto: onnx.ModelProto, wishes: Wishes | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of one sample of each input, as wished for or usual; nothing is run. Empty where a rank or type is unknown.

    Raises `BadOption`."""
    wishes = wishes or Wishes()
    try:
        inputs = input_specs(proto, wishes.samples, values=False)
    except Unsupported:
        return {}
    sizes = wished_sizes(inputs, wishes)
    return {} if any(spec.shape is None for spec in inputs.values()) else extents(inputs, 1, sizes)


def wished_sizes(inputs: Mapping[str, TensorSpec], wishes: Wishes) -> dict[str, int]:
    """The extents that are wished for, by symbol or "name[axis]". Raises `BadOption`."""
    symbols = {dim for spec in inputs.values() for dim in spec.shape or () if isinstance(dim, str)}
    sizes: dict[str, int] = {}
    for name, shape in wishes.shapes.items():
        if name not in inputs:
            if name not in symbols or len(shape) != 1:
                known = ", ".join([*inputs, *sorted(symbols)]) or "none"
                raise BadOption("--shape names no input and no symbol", found=name, expected=known)
            _settle(sizes, name, shape[0])
            continue
        spec = inputs[name]
        if spec.shape is None:
            continue
        if len(spec.shape) != len(shape):
            raise BadOption(
                "the model does not take this shape", tensor=name, expected=spec, found="x".join(map(str, shape))
            )
        for axis, (dim, extent) in enumerate(zip(spec.shape, shape)):
            if isinstance(dim, int) and dim != extent:
                raise BadOption(
                    "the model does not take this shape", tensor=name, axis=axis, expected=dim, found=extent
                )
            if not isinstance(dim, int):
                _settle(sizes, dim or f"{name}[{axis}]", extent)
    return sizes


def _settle(sizes: dict[str, int], symbol: str, extent: int) -> None:
    if sizes.setdefault(symbol, extent) != extent:
        raise BadOption(f"--shape gives {symbol} two extents", expected=sizes[symbol], found=extent)


def arrays_of(inputs: Inputs, wishes: Wishes) -> tuple[dict[str, np.ndarray], Inputs]:
    """The inputs that are given as arrays, and all inputs, where one that is one number for all elements is drawn so.

    Raises `BadOption`."""
    strange = sorted(set(wishes.arrays) - set(inputs))
    if strange:
        raise BadOption("there is no such input", tensor=strange[0], expected=", ".join(inputs) or "none")
    arrays, drawn = {}, dict(inputs)
    for name, given in wishes.arrays.items():
        found = given.array(name, inputs[name]) if isinstance(given, Numbers) else given
        if found is not None:
            arrays[name] = found
        else:
            drawn[name] = inputs[name]._replace(values=Values(choices=tuple(given), why="as given"))
    return arrays, drawn


def _given(inputs: Inputs, arrays: Mapping[str, np.ndarray]) -> Inputs:
    """Inputs that are given stand as they are, and fix the symbols in them for all."""
    symbols: dict[str, int] = {}
    for name, array in arrays.items():
        check_array(name, array.shape, array.dtype, inputs[name], symbols)
    if not arrays:
        return inputs
    return {
        name: spec._replace(
            shape=arrays[name].shape if name in arrays else tuple(symbols.get(d, d) if isinstance(d, str) else d for d in spec.shape or ()),
            sample=None,
            values=Values(array=arrays[name]) if name in arrays else spec.values,
        )
        for name, spec in inputs.items()
    }  # fmt: skip


def _ranked(inputs: Inputs, attempt: Attempt, seed: int, sizes: Mapping[str, int]) -> Inputs:
    """Inputs of unknown rank with the first ranks that run."""
    unknown = [name for name, spec in inputs.items() if spec.shape is None]
    for rank in (4, 2, 3, 1, 0, 5):
        shape = (None, *([3] if rank >= 4 else []), *[None] * (rank - 1 - (rank >= 4))) if rank else ()
        tried = {n: s._replace(shape=shape) if n in unknown else s for n, s in inputs.items()}
        if attempt(random_feeds(tried, seed, sizes=sizes)) is None:
            return tried
    raise BadData("random data need a shape", tensor=unknown[0], found="unknown rank", remedy="give --data or --shape")


def _accepted(
    inputs: Inputs, sizes: dict[str, int], attempt: Attempt, seed: int, proto: onnx.ModelProto
) -> tuple[Inputs, dict[str, int]]:
    """Extents and values that the model runs with. Raises the first error where none are found."""
    first = attempt(random_feeds(inputs, seed, sizes=sizes))
    if first is None:
        return inputs, sizes
    if isinstance(first, Unsupported | NotTaken):  # which no other numbers change
        first.exit_status = BadData.exit_status if isinstance(first, NotTaken) else first.exit_status
        raise first
    for tried, values in itertools.islice(_others(inputs, sizes, proto), TRIALS):
        if attempt(random_feeds(values, seed, sizes=tried)) is None:
            return values, tried
    first.exit_status = BadData.exit_status
    opened = [name for name, spec in inputs.items() if spec.shape and any(not isinstance(d, int) for d in spec.shape)]
    hint = f"--shape {opened[0]}=..., " if opened else ""
    first.remedy = f"random inputs of several sizes were tried: give --data that it takes, or {hint}--input NAME=F.npy"
    raise first


def _others(inputs: Inputs, sizes: dict[str, int], proto: onnx.ModelProto) -> Iterator[tuple[dict[str, int], Inputs]]:
    """Other extents for the open axes, and zeros or ones instead of drawn integers, the likeliest first."""
    symbols = dict.fromkeys(
        dim or f"{name}[{axis}]"
        for name, spec in inputs.items()
        for axis, dim in enumerate(spec.shape or ())
        if not isinstance(dim, int) and not (spec.counts and axis == spec.sample)
    )
    free = [s for s in symbols if s not in sizes]
    usual = {}
    for name, shape in extents(inputs, 1, sizes).items():
        for axis, (dim, extent) in enumerate(zip(inputs[name].shape or (), shape)):
            usual[dim or f"{name}[{axis}]"] = extent
    most = max(LARGEST, sum(int(np.prod(shape)) for shape in extents(inputs, 1, sizes).values()))
    integers = {n for n, s in inputs.items() if np.dtype(s.dtype).kind in "iub" and s.values.array is None}
    fixed = [
        {n: s._replace(values=_only(s.values, number)) if n in integers else s for n, s in inputs.items()}
        for number in (1, 0)
    ]
    ways = [inputs, *(fixed if integers else [])]
    numbers = list(dict.fromkeys([*places(proto), *USUAL]))
    some = [dict.fromkeys(free, number) for number in numbers if free]
    if len(free) > 1:
        some += [{symbol: number} for symbol in free for number in numbers[:12]]
        firsts = places(proto)[:4] or numbers[:2]
        pairs = itertools.product(itertools.permutations(free, 2), firsts, numbers)
        some += [dict(zip(pair, both)) for pair, *both in pairs]
    yield from ((sizes, way) for way in ways[1:])
    for n, chosen in enumerate(some):
        tried = sizes | chosen
        if sum(int(np.prod(shape)) for shape in extents(inputs, 1, tried).values()) <= most:
            yield from ((tried, way) for way in (ways if n < len(numbers) else ways[:1]))


def _only(values: Values, number: int) -> Values:
    """All of them one number, which is never 0 where that would divide; what is known to be chosen stays."""
    return values if values.choices else Values(choices=(max(values.low, number),))


def _flags(inputs: Inputs, sizes: dict[str, int], seed: int, attempt: Attempt) -> list[str]:
    """Inputs of one boolean beside samples, which the model takes the other way round too: both branches see data."""
    found = [
        name
        for name, spec in inputs.items()
        if np.dtype(spec.dtype).kind == "b" and spec.values == Values() and not spec.counts
        and spec.shape is not None and all(d == 1 for d in spec.shape)
    ]  # fmt: skip
    if found:
        feeds = random_feeds(inputs, seed, sizes=sizes)
        if attempt(feeds | {name: ~feeds[name] for name in found}) is not None:
            return []
    return found


def _one_or_many(data: Data, attempt: Attempt) -> None:
    """Let the data come one at a time where the model runs with one sample and not with two."""
    batch = next(data.batches(2))
    if batch.samples < 2 or attempt(batch) is None:
        return
    data.single = True
    if attempt(next(data.batches(1))) is None:
        data.remarks.append("one sample at a time: the model does not take two")
    else:
        data.single = False


__all__ = ["NONE", "Wishes", "feed", "usual_shapes", "wished_sizes"]
