"""Element types of a library's tensors: how NumPy holds them, and the bytes that C sees.

    bfloat16 (2, 3)   ->   uint16 (2, 3), the bits of each number
    int4 [1, 2, 3]    ->   uint8 [0x21, 0x03]: several in a byte, the first in the lowest bits, as ONNX packs them

Types that NumPy has not by itself come from ml_dtypes, which is imported for these alone. This file goes into the wheels of
libraries.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.errors import BadModel

PACKED = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}
"""Bits of the types of which a byte holds several."""
BYTES = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
BORROWED = ("bfloat16", *BYTES, *PACKED)
"""The types that NumPy has not by itself."""


def dtype_of(name: str) -> np.dtype:
    """The NumPy type of a name in a manifest. Raises BadModel where a package for it is missing."""
    if name not in BORROWED:
        return np.dtype(name)
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError):
        raise BadModel(f"NumPy has no type {name} here", remedy="pip install ml_dtypes") from None


def is_float(dtype: np.dtype) -> bool:
    """Whether a type is one of the floats that NumPy has not by itself and that ONNX Runtime computes."""
    return dtype.name == "bfloat16" or dtype.name in BYTES[:4]


def step(array: np.ndarray) -> np.ndarray:
    """float64, one step of an array's own `is_float` type at each of its numbers: what rounds next to a tie falls to either side."""
    import ml_dtypes

    info = ml_dtypes.finfo(array.dtype)
    size = np.abs(array.astype(np.float64))
    return np.maximum(float(info.eps) * np.where(np.isfinite(size), size, 0), float(info.smallest_subnormal))


def stored(shape: tuple[int, ...], name: str) -> tuple[tuple[int, ...], str]:
    """The shape and the plain type of a tensor's bytes."""
    if name in PACKED:
        return (-(-math.prod(shape) * PACKED[name] // 8),), "uint8"
    return tuple(shape), "uint16" if name == "bfloat16" else "uint8" if name in BYTES else name


def stored_bytes(shape: tuple[int, ...], name: str) -> int:
    """Bytes of a dense tensor."""
    extents, plain = stored(shape, name)
    return math.prod(extents) * np.dtype(plain).itemsize


def packed(array: np.ndarray) -> np.ndarray:
    """The bytes of an array whose type has several elements in a byte; any other array as it is."""
    bits = PACKED.get(array.dtype.name)
    if bits is None:
        return array
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & (1 << bits) - 1
    each = 8 // bits
    rows = np.zeros((-(-codes.size // each), each), np.uint8)
    rows.reshape(-1)[: codes.size] = codes
    made = rows[:, 0].copy()
    for i in range(1, each):
        made |= rows[:, i] << np.uint8(bits * i)
    return made


def unpacked(data: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array whose `packed` bytes are `data`."""
    bits = PACKED[dtype.name]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((data[:, None] >> shifts) & (1 << bits) - 1).reshape(-1)[: math.prod(shape)].reshape(shape)
    if dtype.name.startswith("int"):
        codes = ((codes ^ (1 << bits - 1)).astype(np.int8) - (1 << bits - 1)).astype(np.int8)
    return codes.view(dtype) if dtype.name.startswith("float") else codes.astype(dtype)
