"""A call of a library that is ready to be made again: the same arrays need no second look, results nobody holds are used again.

    call = Call(handle, ...)             what was checked and where it lies, once
    call.same(inputs, out)               the very same arrays: nothing is looked at or allocated again

This file goes into the wheels of libraries as it stands.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Mapping

import numpy as np

ALIGN = 64
SETS = 3
"""Sets of results that are kept for later calls: whoever holds the last ones while the next are made needs two."""

_COUNTS = hasattr(sys, "getrefcount")  # other Pythons than CPython do not count

Tensors = Mapping[str, tuple[tuple[int, ...], np.dtype]]


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts at a multiple of 64 bytes; its `base` owns the memory."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size].view(dtype).reshape(shape)


def pointers(arrays: list[np.ndarray]) -> ctypes.Array:
    """The addresses of `arrays`, as C functions take them."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def lengths_of(manifest: dict) -> dict[str, str]:
    """By the names of outputs whose lengths data decide: the output that holds their extents."""
    return {row["name"]: row["lengths"] for row in manifest["outputs"] if "lengths" in row}


def cut(arrays: Mapping[str, np.ndarray], lengths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Outputs with as much of each as there is: of those in `lengths` the named one has the extents, and what counts comes first. Those
    that hold extents are left out."""
    made = {name: array for name, array in arrays.items() if name not in lengths.values()}
    for name, shape in lengths.items():
        extents = tuple(int(extent) for extent in arrays[shape])
        made[name] = made[name].reshape(-1)[: int(np.prod(extents, dtype=np.int64))].reshape(extents)
    return made


class Results:
    """Arrays for the outputs of a call, used again as long as nobody else holds them or a part of them."""

    def __init__(self, specs: Tensors):
        self.arrays = {name: empty_aligned(shape, dtype) for name, (shape, dtype) in specs.items()}
        self.pointers = pointers(list(self.arrays.values()))
        self._held = [(array, array.base) for array in self.arrays.values()]
        self._unheld = self._counts() if _COUNTS else []

    def _counts(self) -> list[tuple[int, int]]:
        return [(sys.getrefcount(array), sys.getrefcount(owner)) for array, owner in self._held]

    def free(self) -> bool:
        """Whether nobody else holds any of them; views of an array hold its owner."""
        return _COUNTS and self._counts() == self._unheld


class Pool:
    """Sets of results of one shape of a library."""

    def __init__(self, specs: Tensors):
        self.specs = specs
        self.sets: list[Results] = []

    def take(self) -> Results:
        """Results that nobody holds."""
        for made in self.sets:
            if made.free():
                return made
        made = Results(self.specs)
        if len(self.sets) == SETS:
            self.sets.pop(0)
        self.sets.append(made)
        return made


class Call:
    """What one call looked at: `inputs` by name as they were given, which were used where they lie, and `out`, if there was one."""

    def __init__(self, handle: int, number: int, inputs: Mapping[str, np.ndarray], given, out, taken):
        self.handle, self.process, self.number, self.given, self.taken = handle, os.getpid(), number, given, taken
        self.size, self.inputs = len(inputs), _seen(inputs)
        self.out = None if out is None else (len(out), _seen(out))

    def same(self, inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray] | None) -> bool:
        """Whether these are the very same arrays, unchanged in shape and type."""
        if len(inputs) != self.size or not _still(self.inputs, inputs):
            return False
        if out is None:
            return True
        return self.out is not None and len(out) == self.out[0] and _still(self.out[1], out)


def _seen(arrays: Mapping[str, np.ndarray]) -> list[tuple]:
    return [(name, weakref.ref(a), a.shape, a.strides, a.dtype) for name, a in arrays.items()]


def _still(seen: list[tuple], arrays: Mapping[str, np.ndarray]) -> bool:
    for name, reference, shape, strides, dtype in seen:
        array = arrays.get(name)
        if array is None or array is not reference():
            return False
        if array.shape != shape or array.strides != strides or array.dtype is not dtype:
            return False
    return True
