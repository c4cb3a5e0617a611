"""Seeded random inputs.

Sample i of an input depends on nothing but the seed, its name, i and its shape, so it is the same in batches of any size and
beside any other inputs. Floats are standard normal, 32- and 64-bit integers are 0 or 1 (they are mostly indices, masks and
token types), shorter ones in 0..127, booleans are even odds, strings "a"; what the graph says of values goes before (`runtime.values`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.specs import TensorSpec
from onnxc.runtime.values import FULL, Values

Sizes = Mapping[str, int]
"""Extents by symbol, and by "name[axis]" for an axis without a name."""
IMAGE, PLAIN = 64, 16
USUAL_ELEMENTS = 1 << 22
"""Elements of one sample beyond which open axes are drawn shorter, where nobody has said how long they are."""
CHUNK = 1 << 20
"""Elements that are drawn at once, in float64."""


def extents(inputs: Mapping[str, tuple], batch: int = 1, sizes: Sizes | None = None) -> dict[str, tuple[int, ...]]:
    """The shape that each input is drawn in: the sample axis takes `batch`, another symbol `sizes[symbol]`, an axis without a
    name `sizes["name[axis]"]`, else 64 in inputs of rank 4 and more (images) and 16 in others, or less
    where that would be millions of elements. Raises `BadData` for an input of unknown rank."""
    sizes = dict(sizes or {})
    specs = {name: TensorSpec(*fields) for name, fields in inputs.items()}
    for spec in specs.values():
        symbol = spec.shape[spec.sample] if spec.shape and spec.counts and spec.sample is not None else None
        if isinstance(symbol, str):
            sizes.setdefault(symbol, batch)
    found = {}
    for name, spec in specs.items():
        if spec.shape is None:
            raise BadData(
                "random data need a shape", tensor=name, found="unknown rank", remedy="give --data or --shape"
            )
        plain = IMAGE if len(spec.shape) >= 4 else PLAIN
        numbers = [dim for dim in spec.shape if isinstance(dim, int)]
        opened = sum(axis != spec.sample and not isinstance(dim, int) for axis, dim in enumerate(spec.shape))
        while plain > 2 and plain**opened * math.prod(numbers) > USUAL_ELEMENTS:
            plain //= 2
        shape = []
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                shape.append(dim)
            else:
                usual = batch if spec.counts and axis == spec.sample else plain
                shape.append(sizes.setdefault(dim or f"{name}[{axis}]", usual))
        found[name] = tuple(shape)
    return found


WORDS = 4
"""Choices of which each is told."""
MOST, MOST_AXES = 2**30, 31
"""Bytes of an input that are drawn at most, and its axes: NumPy has 32, one of which counts samples."""


def random_feeds(
    inputs: Mapping[str, tuple], seed: int = 0, batch: int = 1, sizes: Sizes | None = None, first: int = 0
) -> dict[str, np.ndarray]:
    """Seeded random inputs: name -> array of the input's type, in the shapes of `extents`. `inputs`: name -> TensorSpec, or its
    first fields. `first` is the number of the first sample."""
    shapes = extents(inputs, batch, sizes)
    specs = {name: TensorSpec(*fields) for name, fields in inputs.items()}
    known = _symbols(specs, shapes)
    feeds = {}
    for name, spec in specs.items():
        shape, dtype, axis = shapes[name], np.dtype(spec.dtype), spec.sample
        taken = math.prod(n or 1 for n in shape) * dtype.itemsize  # NumPy leaves extents of zero out, too
        if taken > MOST or len(shape) > MOST_AXES:
            raise BadData(
                "random data are not drawn for this input", tensor=name, expected=f"at most {MOST} bytes and {MOST_AXES} axes",
                found=f"{taken} bytes, {len(shape)} axes", remedy="give --data",
            )  # fmt: skip
        values, key = _settled(spec, shape, known, specs), zlib.crc32(name.encode())
        if spec.counts and axis is not None:
            rest = (*shape[:axis], *shape[axis + 1 :])
            rows = [_draw((seed, key, first + i), rest, dtype, name, values) for i in range(shape[axis])]
            feeds[name] = np.stack(rows, axis) if rows else np.zeros(shape, dtype)
        else:
            feeds[name] = _draw((seed, key, first), shape, dtype, name, values)
    return feeds


def at(inputs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorSpec]:
    """The inputs in these shapes, and with numbers where their values depend on extents."""
    known = _symbols(inputs, shapes)
    return {
        name: spec._replace(shape=tuple(shapes[name]), values=_settled(spec, shapes[name], known, inputs))
        for name, spec in inputs.items()
    }


def _symbols(specs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {
        dim: extent
        for name, spec in specs.items()
        for dim, extent in zip(spec.shape or (), shapes[name])
        if isinstance(dim, str)
    }


def _settled(spec: TensorSpec, shape: tuple[int, ...], known: Sizes, specs: Mapping[str, TensorSpec]) -> Values:
    """The values with numbers for symbols."""
    values = spec.values
    if values.below == FULL:
        lengths = [
            known[dim]
            for other in specs.values()
            for axis, dim in enumerate(other.shape or ())
            if isinstance(dim, str) and not (other.counts and axis == other.sample)
        ]
        return Values(choices=(lengths[0] if lengths else 1,))
    if isinstance(values.below, str):
        return values._replace(below=known.get(values.below, 0))
    return values


def _draw(seed: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype, name: str, values: Values) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if values.array is not None:
        return values.array
    if values.choices:
        return np.asarray(rng.choice(np.asarray(values.choices), shape)).astype(dtype)
    if dtype.kind == "O":
        return np.full(shape, "a", object)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        usual = 2 if dtype.itemsize >= 4 else 128
        below = values.below if isinstance(values.below, int) else 0  # `_settled` leaves no symbol
        below = min(below, 128) if dtype.itemsize == 1 else below
        low = values.low if not below or values.low < below else 0
        return np.asarray(rng.integers(low, below or max(low + 1, usual), shape)).astype(dtype)
    if dtype.kind == "c":
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")):
        made = np.empty(shape, dtype)
        for part in np.array_split(made.reshape(-1), made.size // CHUNK + 1):
            part[...] = rng.standard_normal(part.size)
        return _corners(made) if values.boxes and shape and shape[-1] == 4 else made
    if dtype.name in ("int2", "uint2", "int4", "uint4"):
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    raise BadData("no random data for this type", tensor=name, found=dtype, remedy="give --data")


def _corners(rows: np.ndarray) -> np.ndarray:
    """Boxes (x1, y1, x2, y2) of which the second corner is the greater one, some elements wide."""
    first, sides = abs(rows[..., :2]), 1 + 4 * abs(rows[..., 2:])
    return np.concatenate([first, first + sides], -1).astype(rows.dtype)


def words(inputs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What was drawn, where that was a choice: extents of open axes, ranges of integers and the readers that demand them."""
    sizes: dict[str, int] = {}
    texts = []
    for name, spec in inputs.items():
        for axis, (dim, extent) in enumerate(zip(spec.shape or (), shapes[name])):
            if not isinstance(dim, int) and not (spec.counts and axis == spec.sample):
                sizes[dim or f"{name}[{axis}]"] = extent
    texts += [f"{symbol} = {extent}" for symbol, extent in sizes.items()]
    known = _symbols(dict(inputs), shapes)
    for name, spec in inputs.items():
        values = _settled(spec, shapes[name], known, inputs) if spec.shape is not None else spec.values
        if values.array is not None:
            given = "as given" if not values.why else f"{values.array.tolist()} ({values.why})"
            texts.append(f"{name} {given}")
            continue
        because = f" ({spec.values.why})" if spec.values.why else ""
        if values.choices:
            some = [c if isinstance(c, str) else f"{c:g}" for c in values.choices[:WORDS]]
            more = " or others" if len(values.choices) > WORDS else ""
            texts.append(f"{name} {' or '.join(some)}{more}{because}")
        elif values.boxes:
            texts.append(f"{name} boxes{because}")
        elif isinstance(values.below, int) and values.below and np.dtype(spec.dtype).kind in "iu":
            texts.append(f"{name} {values.low} to {values.below - 1}{because}")
    return texts
