"""Packed weights of large layers in a file without a name, mapped: a model's weights are held in memory once, not twice.

The file is gone with the last array on it, also where the process is killed.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import IO

import numpy as np

LEAST = 1 << 20  # bytes; less is held in memory


def gathered(parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`parts`, one after the other, as an array of `shape`: a read-only one in a file if it is large and the system has room."""
    size, rest = math.prod(shape) * dtype.itemsize, (_bytes(part) for part in parts)
    held: list[np.ndarray] = []
    file = _scratch() if size >= LEAST else None
    if file is not None:
        with file:
            for part in rest:
                at = file.tell()
                if not _written(file, part):
                    file.seek(0)
                    held = [np.frombuffer(file.read(at), np.uint8), part]
                    break
            else:
                return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), dtype).reshape(shape)
    return np.concatenate([*held, *rest]).view(dtype).reshape(shape)


def _bytes(part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def _scratch() -> IO[bytes] | None:
    try:
        return tempfile.TemporaryFile(prefix="onnxc-", buffering=0)
    except OSError:
        return None


def _written(file: IO[bytes], part: np.ndarray) -> bool:
    try:
        return file.write(part.data) == part.nbytes
    except OSError:
        return False


def release(array: np.ndarray) -> None:
    """Gives back the memory of a spilled array that has been read; it is read from its file again where needed."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    held = base.obj if isinstance(base, memoryview) else base
    if isinstance(held, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
    """Gives back what the C library holds of memory that was freed: a linker that is started next needs it."""
    with suppress(OSError, AttributeError):  # other libraries than glibc
        ctypes.CDLL(None).malloc_trim(0)
