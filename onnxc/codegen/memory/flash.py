"""What a library takes of a processor's read-only memory: the sections of its objects that are loaded."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

_ALLOC, _NOBITS = 2, 8  # of ELF: SHF_ALLOC, SHT_NOBITS


def flash_bytes(objects: Iterable[Path]) -> int | None:
    """Bytes of code and constants in ELF objects, without what the C library adds; None where an object is no ELF."""
    total = 0
    for path in objects:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):  # it may hold all weights
            if data[:4] != b"\x7fELF":
                return None
            total += _loaded(data)
    return total


def _loaded(data: mmap.mmap) -> int:
    wide = data[4] == 2
    form = "<IIQQQQ" if wide else "<IIIIII"
    start = struct.unpack_from("<Q", data, 40)[0] if wide else struct.unpack_from("<I", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    rows = [struct.unpack_from(form, data, start + i * size) for i in range(count)]
    return sum(row[5] for row in rows if row[2] & _ALLOC and row[1] != _NOBITS)


def extent(text: str) -> int | None:
    """Bytes of a memory as data sheets write it, 256k being 256 x 1024: digits, and k or M. None for anything else."""
    number, unit = text.strip(), 1
    for letters, factor in (("kK", 1 << 10), ("mM", 1 << 20)):
        if number[-1:] and number[-1] in letters:
            number, unit = number[:-1], factor
            break
    return int(number) * unit if number.isascii() and number.isdigit() else None
