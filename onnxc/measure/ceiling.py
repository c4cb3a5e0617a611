"""What this machine can do at most, measured in short bursts on one core: multiply-adds in a second, and bytes by where they lie.

The best of many bursts of about a millisecond counts: what else runs on the machine takes from most of them, and not from all. The
roofline (Williams, Waterman, Patterson: Roofline, CACM 2009) of a layer is the longer of its multiply-adds at the peak and its bytes at
the bandwidth.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..ir import temporary
from ..ir.errors import MissingTool
from ..runtime.program import run_tool
from ..runtime.toolchain import TOOLCHAINS

SOURCE = Path(__file__).parents[1] / "runtime" / "c" / "ceiling.c"
EXTENTS = (16 << 10, 256 << 10, 2 << 20, 8 << 20, 64 << 20)
BURSTS = 25
KINDS = ("float32", "int8", "bits")
BURST_SECONDS = 1e-3


@dataclass(frozen=True)
class Ceiling:
    """`float32`, `int8` and `bits`: multiply-adds in a second, the last of single bits (0 where they were not measured);
    `bandwidth`: (bytes, bytes in a second that are read of as many), by size."""

    float32: float
    int8: float
    bits: float
    bandwidth: tuple[tuple[int, float], ...]

    def macs(self, bits: tuple[int, int]) -> float | None:
        """Multiply-adds in a second for activations and weights of so many bits; None where none were measured."""
        if max(bits) < 8:
            return self.bits / (bits[0] * bits[1]) or None
        return self.int8 if max(bits) == 8 else self.float32

    def read(self, extent: int) -> float:
        """Bytes in a second where `extent` bytes lie that are read again and again."""
        return next((speed for size, speed in self.bandwidth if extent <= size), self.bandwidth[-1][1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@cache
def ceiling() -> Ceiling:
    """That of this machine, measured at the first call: half a second. Raises MissingTool where there is no C compiler."""
    native = next((chain for chain in TOOLCHAINS.values() if chain.native), None)
    if native is None:
        raise MissingTool(
            "no C compiler for this machine", remedy="profile on a machine that onnxc compile has a target for"
        )
    with temporary.folder(Path(tempfile.gettempdir()), "ceiling") as folder:
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-std=c99", "-shared", "-fPIC"]
        run_tool([*native.linker().command(), *flags, str(SOURCE), "-o", "ceiling.so"], folder)
        library = ctypes.CDLL(str(folder / "ceiling.so"))
    for name in KINDS:
        getattr(library, f"ceiling_{name}").restype = ctypes.c_double
    library.ceiling_read.restype = ctypes.c_double
    library.ceiling_read.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    floats, integers, bits = (
        getattr(library, f"ceiling_{name}_macs")() / _best(getattr(library, f"ceiling_{name}")) for name in KINDS
    )
    room = np.ones(EXTENTS[-1] + 64, np.uint8)
    start = room.ctypes.data + -room.ctypes.data % 64
    speeds = [extent / _best(partial(library.ceiling_read, start, extent)) for extent in EXTENTS]
    return Ceiling(floats, integers, bits, tuple(zip(EXTENTS, speeds)))


def _best(seconds: Callable[[int], float]) -> float:
    """Seconds of one turn, in the best burst."""
    turns = 1
    while turns < 1 << 24 and seconds(turns) < BURST_SECONDS:
        turns *= 2
    return min(seconds(turns) for _ in range(BURSTS)) / turns
