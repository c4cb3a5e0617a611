"""Weights that stay packed: what a Lookup makes of bits and a codebook, unpacked where it is read and as far as it is.

    Lookup(packed, codebook, shape)          ->   Stored(packed, codebook, shape): 0.3 MB in the place of 9.4 MB of floats
    ProductLookup(packed, codebook, shape)   ->   Vectors(packed, codebook, shape)

To NumPy it is the array of floats; kernels for few bits ask for its integers, some channels at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from onnxc.ir.functions import DOMAIN, unpack_bits
from onnxc.ir.qtype import sub_vectors

LEAST = 4096  # weights; fewer are not worth it


class Lazy:
    """An array that is made when NumPy asks for it. Subclasses have `shape`, `dtype` and `channels`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def channels(self, start: int, end: int) -> np.ndarray:
        """Elements [start, end) along the first axis."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array, were it made."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        made = self.channels(0, self.shape[0])
        return made if dtype is None else made.astype(dtype, copy=False)

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, slice):
            start, end, step = key.indices(self.shape[0])
            if step == 1:
                return self.channels(start, max(start, end))
        return np.asarray(self)[key]

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


class Stored(Lazy):
    """codebook[row, number] for numbers packed as uint8 [rows of 8 numbers, bits]; a row of the codebook for each of
    as many runs of weights."""

    def __init__(self, packed: np.ndarray, codebook: np.ndarray, shape: tuple[int, ...]):
        self.packed, self.codebook, self.shape = packed, codebook, shape
        self.dtype = codebook.dtype

    def scaled(self, by: np.ndarray) -> Stored:
        """The same weights times a number."""
        return Stored(self.packed, self.codebook * by.reshape(()), self.shape)

    def numbers(self, start: int, end: int) -> np.ndarray:
        """The numbers of the channels [start, end), uint8."""
        each = prod(self.shape[1:])
        first, last = start * each, end * each
        found = unpack_bits(self.packed[first // 8 : -(-last // 8)], -(-last // 8) * 8 - first // 8 * 8)
        return found[first % 8 : first % 8 + last - first].reshape(-1, *self.shape[1:])

    def channels(self, start: int, end: int) -> np.ndarray:
        return self.looked_up(self.codebook, start, end)

    def looked_up(self, table: np.ndarray, start: int, end: int) -> np.ndarray:
        """table[row, number] for some channels; `table` has the codebook's shape."""
        found, rows = self.numbers(start, end), len(table)
        if rows == 1:
            return table[0][found]
        if rows == self.shape[0]:
            flat = found.reshape(end - start, -1)
            return np.take_along_axis(table[start:end], flat.astype(np.intp), axis=1).reshape(found.shape)
        whole = self.numbers(0, self.shape[0]).reshape(rows, -1).astype(np.intp)
        return np.take_along_axis(table, whole, axis=1).reshape(self.shape)[start:end]


class Levels(Lazy):
    """The integers of a `Stored`, int8: `table` has one for each value of its codebook."""

    def __init__(self, stored: Stored, table: np.ndarray):
        self.stored, self.table, self.shape, self.dtype = stored, table, stored.shape, np.dtype(np.int8)

    def channels(self, start: int, end: int) -> np.ndarray:
        step = max(1, (1 << 18) // max(1, prod(self.shape[1:])))
        parts = [self.stored.looked_up(self.table, i, min(i + step, end)) for i in range(start, end, step)]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), np.int8)


class Vectors(Lazy):
    """Codes packed as those of `Stored`, [shape[0], parts, *shape[2:]], for sub-vectors along the second axis; codebook float32
    [books, centroids, length]. A matrix may be turned: its codes stand as they were."""

    def __init__(self, packed: np.ndarray, codebook: np.ndarray, shape: tuple[int, ...], turned: bool = False):
        self.packed, self.codebook, self.turned = packed, codebook, turned
        self.stored = shape
        self.shape = shape[::-1] if turned else shape
        self.dtype = codebook.dtype

    def codes(self) -> np.ndarray:
        """uint8 [outputs, parts, *kernel]."""
        outputs, inputs, *kernel = self.stored
        shape = (outputs, inputs // self.codebook.shape[2], *kernel)
        return unpack_bits(self.packed, prod(shape)).reshape(shape)

    def channels(self, start: int, end: int) -> np.ndarray:
        made = sub_vectors(self.codes(), self.codebook)
        return np.ascontiguousarray((made.T if self.turned else made)[start:end])

    def transpose(self, *axes) -> np.ndarray | Vectors:
        """A matrix turned stays coded."""
        if self.ndim != 2 or axes not in ((), (None,), ((1, 0),), (1, 0), ([1, 0],)):
            return np.asarray(self).transpose(*axes)
        return Vectors(self.packed, self.codebook, self.stored, not self.turned)

    def kernel(self) -> np.ndarray | Vectors:
        """The weights (columns, rows, 1, 1) that a matrix (rows, columns) is as a convolution."""
        if self.turned:
            return Vectors(self.packed, self.codebook, (*self.stored, 1, 1))
        return np.asarray(self).T[:, :, None, None]

    def reshape(self, *shape) -> np.ndarray | Vectors:
        """The same, where it has that shape."""
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self if tuple(wanted) == self.shape else np.asarray(self).reshape(wanted)


KINDS = {"Lookup": Stored, "ProductLookup": Vectors}


def lookups(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, Lazy]]:
    """The model without the Lookups and ProductLookups of initialisers, and what they make by its name. Codebooks of float16 and of
    int8 have a Cast, and a Mul, behind the Lookup (`quant.vectors`)."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    found: dict[str, Lazy] = {}
    short: dict[str, Lazy] = {}  # what a Cast makes float32 of, and what a Mul scales
    kept = []

    def array(name: str) -> np.ndarray | None:
        if name in tensors and name not in arrays:
            return numpy_helper.to_array(tensors[name])
        return arrays.get(name) if name in tensors else None

    for node in model.graph.node:
        made = None if node.output[0] in outputs else _widened(node, short, array)
        if made is not None:
            short[node.output[0]] = found[node.output[0]] = made
            continue
        given = [array(name) for name in node.input] if node.domain == DOMAIN and node.op_type in KINDS else []
        if len(given) != 3 or any(one is None for one in given) or node.output[0] in outputs:
            kept.append(node)
            continue
        packed, codebook, shape = (one for one in given if one is not None)
        extents = tuple(int(extent) for extent in np.reshape(shape, -1))
        if prod(extents) < LEAST or codebook.dtype not in (np.float32, np.float16, np.int8):
            kept.append(node)
            continue
        lazy = KINDS[node.op_type](packed, codebook.astype(np.float32), extents)
        if codebook.dtype == np.float32:
            found[node.output[0]] = lazy
        else:
            short[node.output[0]] = lazy
            kept.append(node)
    if not found:
        return model, {}
    made_of = onnx.ModelProto()
    made_of.CopyFrom(model)
    del made_of.graph.node[:]
    read = outputs.union(*(node.input for node in kept))
    made_of.graph.node.extend(node for node in kept if node.output[0] in read or node.output[0] not in short)
    return made_of, found


def _widened(node: onnx.NodeProto, short: Mapping[str, Lazy], array: Callable[[str], np.ndarray | None]) -> Lazy | None:
    """What a Cast to float32 of such weights makes, or a Mul of them by one number; None of other nodes."""
    lazy = short.get(node.input[0]) if node.input else None
    if lazy is None or node.domain:
        return None
    if node.op_type == "Cast":
        return lazy if node.attribute[0].i == onnx.TensorProto.FLOAT else None
    scale = array(node.input[1]) if node.op_type == "Mul" else None
    return lazy.scaled(scale) if scale is not None and scale.size == 1 and isinstance(lazy, Stored) else None
