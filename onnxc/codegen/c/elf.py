"""A section of an ELF file grows by weights that neither assembler nor linker has to read and to write.

    short.o: MARK, a zero byte, other sections    ->    weights.o: the weights, a zero byte, the other sections behind them

The new file has the bytes that the tools would write. A shared library can grow where the section ends its last segment, behind
which nothing has an address. The format: System V ABI, chapter 4, with 64 bits and little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

HEADER, SECTION, SEGMENT, SYMBOL = "<16sHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IIQQQQQQ", "<IBBHQQ"
RELOCATABLE, SHARED = 1, 3
NOBITS = 8  # of sections
TABLES = (2, 11)  # of symbols, SYMTAB and DYNSYM
LOAD = 1  # of segments


@dataclass
class Section:
    """A row of the table of sections; `at` in the file, `size` bytes."""

    name: int
    kind: int
    flags: int
    address: int
    at: int
    size: int
    link: int
    info: int
    align: int
    entry: int


def grown(short: Path, made: Path, mark: bytes, size: int, chunks: Iterable[bytes | memoryview]) -> bool:
    """Writes `made`, which is `short` with the `size` bytes of `chunks` in the place of `mark`; the same path may be given.

    `mark` and a zero byte end a section. False, with nothing written, where the file is another one.
    """
    ends = growth(short.read_bytes(), mark, size)
    if ends is None:
        return False
    with open(made, "wb") as out:
        for part in (ends[:1], chunks, ends[1:]):
            out.writelines(part)
    return True


def growth(old: bytes, mark: bytes, size: int) -> tuple[bytes, bytes] | None:
    """What stands ahead of the `size` bytes in the place of `mark`, and behind them; None where the file is another one."""
    if old[:6] != b"\x7fELF\x02\x01" or old.count(mark) != 1:
        return None
    head = list(struct.unpack_from(HEADER, old))
    kind, segments_at, sections_at = head[1], head[5], head[6]
    sections = [Section(*struct.unpack_from(SECTION, old, sections_at + i * head[11])) for i in range(head[12])]
    start = old.find(mark)
    stop = start + len(mark) + 1
    found = [i for i, s in enumerate(sections) if s.kind != NOBITS and s.at <= start and s.at + s.size == stop]
    if kind not in (RELOCATABLE, SHARED) or len(found) != 1:
        return None
    one, more = sections[found[0]], size - len(mark)
    new = bytearray(old)
    if kind == SHARED:
        rows = [
            (segments_at + i * head[9], struct.unpack_from(SEGMENT, old, segments_at + i * head[9]))
            for i in range(head[10])
        ]
        last = max((row for row in rows if row[1][0] == LOAD), key=lambda row: row[1][3], default=None)
        if last is None or not _ends(last[1], one):
            return None
        place, (*first, in_file, in_memory, align) = last
        struct.pack_into(SEGMENT, new, place, *first, in_file + more, in_memory + more, align)
    for table in (s for s in sections if s.kind in TABLES):
        for place in range(table.at, table.at + table.size, table.entry):
            *symbol, length = struct.unpack_from(SYMBOL, old, place)
            if symbol[3] == found[0] and length == stop - start:
                struct.pack_into(SYMBOL, new, place, *symbol, length + more)
    behind = sorted((s for s in sections if s is not one and s.at > one.at), key=lambda s: s.at)
    tail = [(s, bytes(new[s.at : s.at + s.size]) if s.kind != NOBITS else b"") for s in behind]
    one.size += more
    end = one.at + one.size
    for section, data in tail:
        section.at = -(-end // max(section.align, 1)) * max(section.align, 1)
        end = section.at + len(data)
    head[6] = -(-end // 8) * 8
    struct.pack_into(HEADER, new, 0, *head)
    behind_them, at = bytearray(b"\0"), start + size
    for section, data in tail:
        if data:
            behind_them += b"\0" * (section.at - at - len(behind_them)) + data
    behind_them += b"\0" * (head[6] - at - len(behind_them))
    behind_them += b"".join(struct.pack(SECTION, *astuple(section)) for section in sections)
    return bytes(new[:start]), bytes(behind_them)


def _ends(segment: tuple, section: Section) -> bool:
    """Whether a segment ends, in the file and in memory, with a section."""
    _, _, at, address, _, in_file, in_memory, _ = segment
    return at + in_file == section.at + section.size and address + in_memory == section.address + section.size
