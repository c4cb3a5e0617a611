"""The decoder in C (runtime/c/decode.c) by ctypes, where setup.py found a compiler; else the one in NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from onnxc.ir.errors import BadData

from .clib import library
from .slab import read_slab

SCRATCH = 2 * 2 * 8192 * 4 + 2 * 66048
"""ONNXC_DECODE_SCRATCH of decode.h, in bytes."""
_WRONG = {
    1: "a slab is truncated",
    2: "a slab has an unknown form",
    3: "code lengths are no complete prefix code",
    4: "a stream holds more or fewer bits than its symbols take, or a symbol out of range",
    5: "the sizes in a slab do not agree",
}

Decoder = Callable[[memoryview, np.ndarray], None]


def numpy_decoder(slab: memoryview, out: np.ndarray) -> None:
    """Decode one slab into `out`, contiguous words u1 to u8, with NumPy. Raises BadData."""
    out[:] = read_slab(slab, out.itemsize, len(out))


def load(path: Path) -> Decoder:
    """The decoder of the shared library at `path`. Raises OSError if there is none."""
    return _decoder(ctypes.CDLL(str(path)))


def _decoder(there: ctypes.CDLL) -> Decoder:
    function = there.onnxc_decode_slab
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    function.restype = ctypes.c_int

    def decode(slab: memoryview, out: np.ndarray) -> None:
        """Decode one slab into `out`, contiguous words u1 to u8, through C. Raises BadData."""
        data = np.frombuffer(slab, np.uint8)
        scratch = np.empty(SCRATCH // 4, np.uint32)
        status = function(data.ctypes.data, len(data), out.itemsize, len(out), out.ctypes.data, scratch.ctypes.data)
        if status:
            raise BadData(_WRONG.get(status, f"the decoder says {status}"))

    return decode


@cache
def decoder() -> Decoder:
    """The fastest decoder that is there."""
    there = library()
    return numpy_decoder if there is None else _decoder(there)
