"""The coder in C that `setup.py` builds as a plain shared library, `_decode`, where it finds a compiler."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


@cache
def library() -> ctypes.CDLL | None:
    """The shared library, or None where there was no compiler, or for another machine."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_decode{suffix}")
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                continue
    return None
