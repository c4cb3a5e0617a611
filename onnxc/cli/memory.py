"""Memory of a command: what large arrays took goes back to the system at once, not to a heap that falls into pieces."""

from __future__ import annotations

import ctypes

LARGE = 4 * 2**20
"""Bytes; smaller blocks come from the heap, where pages need not be cleared anew. Pages cost 3 % of a quant's time at this size."""
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def give_back() -> None:
    """From here on glibc maps blocks of LARGE bytes on their own; by itself it stops doing so once the first is freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)
