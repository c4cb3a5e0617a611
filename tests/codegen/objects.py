"""What a static library needs from outside: the symbols of ELF objects in an `ar` archive, read without binutils."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path


def members(archive: Path) -> Iterator[bytes]:
    """The files in an archive, without its tables."""
    data = archive.read_bytes()
    assert data[:8] == b"!<arch>\n"
    at = 8
    while at < len(data):
        name, size = data[at : at + 16].strip(), int(data[at + 48 : at + 58])
        if name not in (b"/", b"//", b"/SYM64/"):
            yield data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def symbols(elf: bytes) -> Iterator[tuple[str, bool]]:
    """(name, whether it is defined here) of each global symbol of a little-endian ELF object."""
    assert elf[:4] == b"\x7fELF" and elf[5] == 1
    wide = elf[4] == 2
    start, count = (struct.unpack_from("<Q", elf, 40)[0], struct.unpack_from("<H", elf, 60)[0]) if wide else (
        struct.unpack_from("<I", elf, 32)[0], struct.unpack_from("<H", elf, 48)[0])  # fmt: skip
    header = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
    sections = [struct.unpack_from(header, elf, start + i * struct.calcsize(header)) for i in range(count)]
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind != 2:
            continue
        names = sections[link][4]
        for at in range(offset, offset + size, entry):
            name, info, section = (
                (struct.unpack_from("<I", elf, at)[0], elf[at + 4], struct.unpack_from("<H", elf, at + 6)[0])
                if wide
                else (struct.unpack_from("<I", elf, at)[0], elf[at + 12], struct.unpack_from("<H", elf, at + 14)[0])
            )
            if info >> 4 in (1, 2):
                text = elf[names + name : elf.index(0, names + name)].decode()
                yield text, section != 0


def needed(archive: Path) -> set[str]:
    """The names that the objects of an archive use and none defines."""
    found = [symbol for elf in members(archive) for symbol in symbols(elf)]
    return {name for name, _ in found} - {name for name, here in found if here}
