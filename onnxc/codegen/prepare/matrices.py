"""Matrices whose numbers are narrow, as kernels read them: integers of 2, 4 and 8 bits with scales by block, and 16-bit floats.

    DequantizeLinear(int4 w, scales)   ->   Blocks(levels, scales)        Cast(bfloat16 w)   ->   Halves(w)

To NumPy each is the matrix of float32, made where somebody asks for it.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from onnxc.codegen.prepare.stored import LEAST, Lazy

BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
HALVES = ("bfloat16", "float16")


class Matrix(Lazy):
    """A matrix (rows, columns) of float32 that is held in another way."""

    dtype = np.dtype(np.float32)

    def transpose(self, *axes) -> np.ndarray | Matrix:
        """The same turned, held as it was."""
        flat = tuple(axes[0]) if len(axes) == 1 and axes[0] is not None else tuple(a for a in axes if a is not None)
        if flat not in ((), (1, 0)):
            return np.asarray(self).transpose(*axes)
        return self.turned()

    def turned(self) -> Matrix:
        """(columns, rows)."""
        raise NotImplementedError

    def reshape(self, *shape) -> np.ndarray | Matrix:
        """The same, where it has that shape."""
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self if tuple(wanted) == self.shape else np.asarray(self).reshape(wanted)

    @cached_property
    def _kernel(self) -> Kernel:
        return Kernel(self.turned())

    def kernel(self) -> Kernel:
        """The weights (columns, rows, 1, 1) that it is as a convolution."""
        return self._kernel


class Kernel(Lazy):
    """The weights (outputs, inputs, 1, 1) of a product whose matrix (outputs, inputs) is narrow."""

    def __init__(self, matrix: Matrix):
        self.matrix, self.shape, self.dtype = matrix, (*matrix.shape, 1, 1), matrix.dtype

    def channels(self, start: int, end: int) -> np.ndarray:
        return self.matrix.channels(start, end)[:, :, None, None]


class Halves(Matrix):
    """float16 or bfloat16 `values` [rows, columns]."""

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, values.shape

    def channels(self, start: int, end: int) -> np.ndarray:
        return self.values[start:end].astype(np.float32)

    def turned(self) -> Halves:
        return Halves(self.values.T)


class Blocks(Matrix):
    """(levels - zero) scale: `levels` uint8 [rows, columns] below 2^bits, `scale` float32 and `zero` uint8 with one number for each
    `block` of them along `axis`; or the middle as the zero of all, with `zero` None."""

    def __init__(
        self, levels: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int, bits: int
    ):
        self.levels, self.scale, self.zero = levels, scale, zero
        self.axis, self.block, self.bits, self.shape = axis, block, bits, levels.shape

    def channels(self, start: int, end: int) -> np.ndarray:
        levels = self.levels[start:end].astype(np.float32)
        middle = np.float32(1 << self.bits - 1) if self.zero is None else self._spread(self.zero, start, end)
        levels -= middle
        levels *= self._spread(self.scale, start, end)
        return levels

    def _spread(self, part: np.ndarray, start: int, end: int) -> np.ndarray:
        """A scale or zero point of each number of some rows."""
        places = np.arange(self.shape[self.axis]) // self.block
        if self.axis == 0:
            return part[places[start:end]]
        return part[start:end, places]

    def turned(self) -> Blocks:
        zero = None if self.zero is None else self.zero.T
        return Blocks(self.levels.T, self.scale.T, zero, 1 - self.axis, self.block, self.bits)


def halves(values: np.ndarray) -> np.ndarray | Halves:
    """A matrix of 16-bit floats large enough to be worth it, as such; anything else as float32."""
    if values.dtype.name in HALVES and values.ndim == 2 and values.size >= LEAST:
        return Halves(values)
    return values.astype(np.float32)


def blocks(values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int) -> Blocks | None:
    """What DequantizeLinear makes of a constant, for a matrix of integers with float32 scales; None for others.

    `block` 0: a scale for each place of `axis`, or one in all.
    """
    bits, kind = BITS.get(values.dtype.name), values.dtype.name
    if bits is None or values.ndim != 2 or values.size < LEAST or scale.dtype != np.float32:
        return None
    if not block:
        if scale.size not in (1, values.shape[axis]):
            return None
        other = 1 - axis
        lead = (scale.size, 1) if axis == 0 else (1, scale.size)
        if scale.size == 1:
            lead = (values.shape[axis], 1) if axis == 0 else (1, values.shape[axis])
        scale = np.broadcast_to(scale.reshape(-1, 1) if axis == 0 else scale.reshape(1, -1), lead)
        zero = None if zero is None else np.broadcast_to(zero.reshape(scale.shape if zero.size > 1 else (1, 1)), lead)
        axis, block = other, values.shape[other]
    elif scale.shape != tuple(-(-e // block) if d == axis else e for d, e in enumerate(values.shape)):
        return None
    middle = 0 if kind.startswith("u") else 1 << bits - 1
    levels = _above(values, middle)
    codes = np.full(scale.shape, middle, np.uint8) if zero is None else _above(zero, middle)
    plain = (codes == 1 << bits - 1).all()
    return Blocks(levels, np.ascontiguousarray(scale), None if plain else codes, axis, block, bits)


def _above(values: np.ndarray, middle: int) -> np.ndarray:
    """Integers plus `middle`, as uint8."""
    return (values.astype(np.int16) + np.int16(middle)).astype(np.uint8)
