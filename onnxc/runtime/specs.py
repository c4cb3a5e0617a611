"""What a model wants to be fed: names, shapes and types of its inputs, the check against them, seeded random feeds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnxc.ir.errors import BadData, Unsupported

if TYPE_CHECKING:
    import onnx

Dim = int | str | None


class TensorSpec(NamedTuple):
    """Shape and type of one input. A dimension is an extent, a symbol, or None (unknown); shape None: unknown rank.

    divides: an integer division has it below the line, so that a 0 in it would end the process, or it is a length. below: random values are
    to be less, as they pick from an axis of so many elements or count steps of it; 0 where nothing is known.
    """

    shape: tuple[Dim, ...] | None
    dtype: np.dtype
    divides: bool = False
    below: int = 0

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} [{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


def input_specs(model: onnx.ModelProto) -> dict[str, TensorSpec]:
    """The inputs that must be fed, in the model's order; those with an initialiser have a default and are left out.

    Raises `Unsupported` for inputs that are no tensors of numbers (sequences, optionals, maps, strings).
    """
    import onnx

    defaults = {tensor.name for tensor in model.graph.initializer}
    specs, divisors, bounds = {}, _divisors(model.graph), _bounds(model.graph)
    for value in model.graph.input:
        if value.name in defaults:
            continue
        kind = value.type.WhichOneof("value")
        tensor = value.type.tensor_type
        if kind != "tensor_type" or tensor.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            found = "a tensor of strings or of no type" if kind == "tensor_type" else str(kind)
            raise Unsupported(
                "this input cannot be fed", tensor=value.name, expected="a numeric tensor", found=found,
                remedy="use --check shapes",
            )  # fmt: skip
        shape = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        integer = dtype.kind in "iu"
        below = bounds.get(value.name, 0) if integer else 0
        specs[value.name] = TensorSpec(shape, dtype, value.name in divisors and integer, below)
    return specs


SAME = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile")
"""Operators whose values are those of their first input."""
RECURRENT = ("LSTM", "GRU", "RNN")
PICKS = ("Gather", "GatherElements", "ScatterElements", "Scatter")
"""Operators whose second input picks from an axis of the first."""


def _divisors(graph: onnx.GraphProto) -> set[str]:
    """Names of tensors by whose values a Div or Mod divides, and of lengths of sequences: none may be 0."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in ("Div", "Mod"):
            found.update(node.input[1:2])
        elif node.op_type in RECURRENT:
            found.update(node.input[4:5])
        elif node.op_type in SAME and not found.isdisjoint(node.output):
            found.update(node.input[:1])
    return found


def _bounds(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensors that pick from an axis whose extent is known, or say how many steps of a sequence count: the least such extent."""
    shapes = {value.name: _extents(value) for value in (*graph.value_info, *graph.input)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found: dict[str, int] = {}
    for node in reversed(graph.node):
        name, extent = "", 0
        if node.op_type in PICKS and len(node.input) > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            extents = shapes.get(node.input[0]) or []
            name, extent = node.input[1], extents[axis] if -len(extents) <= axis < len(extents) else 0
        elif node.op_type in RECURRENT and len(node.input) > 4:
            name, extent = node.input[4], (shapes.get(node.input[0]) or [0])[0] + 1
        elif node.op_type in SAME and node.output[0] in found:
            name, extent = node.input[0], found[node.output[0]]
        if name and extent > 0:
            found[name] = min(extent, found.get(name, extent))
    return found


def _extents(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        # Some exporters write an unknown extent as -1; 0 is what ONNX Runtime takes it for, no elements.
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None if kind == "dim_param" else None


def check_array(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    spec: TensorSpec,
    symbols: dict[str, int],
    skip_axis0: bool = False,
) -> None:
    """Raise `BadData` where an array of `shape` and `dtype` does not fit the input `name`.

    `symbols` collects the extents met so far and catches two that disagree. `skip_axis0` leaves the sample axis out.
    """
    if dtype != spec.dtype:
        raise BadData("wrong type", tensor=name, expected=spec.dtype, found=dtype, remedy="convert the array")
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape):
        remedy = "the first axis counts samples: add it with array[None]" if len(shape) == len(spec.shape) - 1 else None
        raise BadData("wrong number of axes", tensor=name, expected=spec, found=list(shape), remedy=remedy)
    for axis, (extent, dim) in enumerate(zip(shape, spec.shape)):
        if (skip_axis0 and axis == 0) or dim is None:
            continue
        expected = symbols.setdefault(dim, extent) if isinstance(dim, str) else dim
        if extent != expected:
            what = "wrong extent" if isinstance(dim, int) else f"extent {dim} differs from another input's"
            raise BadData(what, tensor=name, axis=axis, expected=expected, found=extent)


def check_feeds(feeds: Mapping[str, np.ndarray], inputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """The part of `feeds` that `inputs` ask for; raises `BadData` if one is missing or does not fit."""
    symbols: dict[str, int] = {}
    chosen = {}
    for name, spec in inputs.items():
        if name not in feeds:
            raise BadData("no array for this input", tensor=name, expected=spec, found=listing(feeds))
        chosen[name] = np.asarray(feeds[name])
        check_array(name, chosen[name].shape, chosen[name].dtype, spec, symbols)
    return chosen


def listing(names: Mapping[str, object]) -> str:
    """Names for an error message."""
    return ", ".join(sorted(names)) or "nothing"


def random_feeds(
    inputs: Mapping[str, tuple],
    seed: int = 0,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """Seeded random inputs: name -> array of the input's type. `inputs`: name -> TensorSpec, or its first two fields.

    A symbolic or unknown first axis takes `batch`; another symbol takes `sizes[symbol]`, an unknown axis
    `sizes["name[axis]"]`, else 64 in inputs of rank 4 and more (images) and 16 in others. Floats are standard normal,
    32- and 64-bit integers are 0 or 1 (they are mostly indices, masks and token types), shorter ones in 0..127, booleans are even odds.
    Integers that divide are 1 where they would be 0, and those that pick from an axis are within it.

    Sample i of an input depends on nothing but `seed`, its name, i and its shape, so it is the same in batches of any
    size and beside any other inputs. `first` is the number of the first sample.
    """
    sizes = dict(sizes or {})
    for shape, *_ in inputs.values():
        if shape and isinstance(shape[0], str):
            sizes.setdefault(shape[0], batch)
    feeds = {}
    for name, (shape, dtype, *more) in inputs.items():
        divides, below = (*more, *(False, 0)[len(more) :])
        if shape is None:
            raise BadData("random data need a shape", tensor=name, found="unknown rank", remedy="give --data")
        key = zlib.crc32(name.encode())
        plain = 64 if len(shape) >= 4 else 16
        extents = [
            dim if isinstance(dim, int) else sizes.get(dim or f"{name}[{axis}]", batch if axis == 0 else plain)
            for axis, dim in enumerate(shape)
        ]
        if shape and not isinstance(shape[0], int):
            rows = [
                _draw((seed, key, first + i), tuple(extents[1:]), np.dtype(dtype), name, below)
                for i in range(extents[0])
            ]
            feeds[name] = np.stack(rows)
        else:
            feeds[name] = _draw((seed, key, first), tuple(extents), np.dtype(dtype), name, below)
        if divides:
            feeds[name] = np.maximum(feeds[name], np.ones((), dtype))
    return feeds


def _draw(seed: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype, name: str, below: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        most = min(below, 128) if dtype.itemsize == 1 else below
        return np.asarray(rng.integers(0, most or (2 if dtype.itemsize >= 4 else 128), shape)).astype(dtype)
    if dtype.kind == "c":
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")):
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if dtype.name in ("int2", "uint2", "int4", "uint4"):
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    raise BadData("no random data for this type", tensor=name, found=dtype, remedy="give --data")
