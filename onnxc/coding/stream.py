"""Streams of what is no tensor: zlib, or raw LZMA where that is smaller, both with bounds on what they open into."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from onnxc.ir.errors import BadData

DEFLATE, LZMA = 0, 1
MOST = 1032
"""No stream shrinks anything further than this many times: deflate cannot, and LZMA that did is not written."""
FILTERS = [
    {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 22, "lc": 3, "lp": 0, "pb": 0}
]
"""Of the raw LZMA stream: literal context 3, position bits 0, a dictionary of 4 MiB, an end marker."""
_TRIED = 1 << 24
"""Up to so many bytes both are tried; above, zlib alone, for its speed."""
_STEP = 1 << 20
_FEED = 1 << 16


def compress(parts: Iterable[bytes | memoryview], size: int) -> tuple[int, Iterator[bytes]]:
    """Kind and bytes of a stream that holds `parts`, `size` bytes in all: the smaller of both kinds."""
    if size > _TRIED:
        return DEFLATE, _deflated(parts)
    data = b"".join(parts)
    deflated = b"".join(_deflated([data]))
    packed = lzma.compress(data, format=lzma.FORMAT_RAW, filters=FILTERS)
    if len(packed) < len(deflated) and size <= MOST * len(packed):
        return LZMA, iter([packed])
    return DEFLATE, iter([deflated])


def _deflated(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    stream = zlib.compressobj(9)
    for part in parts:
        yield stream.compress(part)
    yield stream.flush()


def inflate(stored: memoryview, kind: int, raw: int) -> Iterator[bytes]:
    """What a stream holds, in parts; it must be `raw` bytes, and fill `stored`. Raises BadData."""
    stream: Any = zlib.decompressobj() if kind == DEFLATE else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    at, tail, kept = 0, memoryview(b""), False
    try:
        while not stream.eof and (tail or kept or at < len(stored)):
            if not tail and not kept:
                tail, at = stored[at : at + _FEED], at + _FEED
            part = stream.decompress(tail, _STEP)
            # what a full step leaves unread is given again to zlib; LZMA keeps it
            tail = memoryview(stream.unconsumed_tail if kind == DEFLATE else b"")
            kept = kind == LZMA and not stream.needs_input
            raw -= len(part)
            if raw < 0:
                break
            if part:
                yield part
    except (zlib.error, lzma.LZMAError, EOFError):
        raise BadData("a stream cannot be inflated") from None
    if raw or not stream.eof or stream.unused_data or at < len(stored):
        raise BadData("a stream has a wrong size")
