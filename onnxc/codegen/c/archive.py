"""A large member of a static library, written once, where an archiver would copy it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MAGIC = b"!<arch>\n"
HEAD, NAME, SIZE = 60, slice(0, 16), slice(48, 58)
"""Bytes of a member's header (GNU, System V), and where its name and its size stand in it, as text."""


def put_last(archive: Path, name: str, size: int, parts: Iterable[bytes | memoryview]) -> bool:
    """Puts a file of `size` bytes, `parts`, in place of the last member of an archive, which bears its name and has its symbols. False,
    with nothing changed, where the last member is another one or the archive of another kind.

    The symbols of an archive say where members begin, which stays; the size of the last one stands in its header alone.
    """
    with open(archive, "r+b") as out:
        end, at = out.seek(0, os.SEEK_END), len(MAGIC)
        out.seek(0)
        if out.read(at) != MAGIC:
            return False
        while True:
            out.seek(at)
            head = out.read(HEAD)
            if len(head) != HEAD or not head.endswith(b"`\n"):
                return False
            after = at + HEAD + -(-int(head[SIZE]) // 2) * 2
            if after >= end:
                break
            at = after
        if head[NAME].split(b"/")[0] != name.encode():
            return False
        out.seek(at)
        out.truncate()
        out.write(head[: SIZE.start] + b"%-10d" % size + head[SIZE.stop :])
        out.writelines(parts)
        out.write(b"\n" * (size % 2))
    return True
