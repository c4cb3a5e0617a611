"""One thread of BLAS while a pass runs: how many threads add up a product decides its last bits, and so the bytes of a
model that is made from it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np


@cache
def _controls() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """How many threads each OpenBLAS that NumPy and SciPy bring has, and the function that sets it; none where they use
    another library, which then decides by itself."""
    import scipy

    found = []
    for package in (np, scipy):
        root = Path(str(package.__file__)).parent
        for file in sorted((root.parent / f"{package.__name__}.libs").glob("*openblas*")) + sorted(
            (root / ".dylibs").glob("*openblas*")
        ):
            library = ctypes.CDLL(str(file))
            for name in (
                "scipy_openblas_{}_num_threads64_",
                "scipy_openblas_{}_num_threads",
                "openblas_{}_num_threads",
            ):
                get, put = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
                if get is not None and put is not None:
                    found.append((get, put))
                    break
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, NumPy's and SciPy's products of matrices run on one thread."""
    before = [(put, get()) for get, put in _controls()]
    for put, _ in before:
        put(1)
    try:
        yield
    finally:
        for put, threads in before:
            put(threads)
