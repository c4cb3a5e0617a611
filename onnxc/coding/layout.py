"""The frame of an archive: header, directory, and how both are written and read. docs/archive.md gives every byte.

Reading trusts nothing: whatever the bytes hold, a BadModel says what is wrong, and no size that they claim
is believed before the bytes that it needs are there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from onnxc.ir.errors import BadModel

MAGIC = b"\x89ONNXZ\r\n"
VERSION = 1
HEADER = struct.Struct("<8sHHIQQQQ")
"""Magic, version, zero; CRC, offset, size and inflated size of the directory; size of the archive. A CRC follows."""
HEADER_SIZE = HEADER.size + 4
DEFLATED, CODED = 0, 1
FRAME = 0xFFFFFFFF
"""A piece that comes from the file's frame, not from a chunk."""
FIELDS = (4, 5, 7, 9, 10, 11)
"""Of a TensorProto, those that hold numbers: float, int32, int64, raw, double and uint64 data."""
_MOST_DEFLATE = 1032
"""Deflate shrinks nothing further than this many times."""
_DIRECTORY_SHARE, _DIRECTORY_FREE = 32, 1 << 20
"""A directory has at most so many times the bytes of its archive, and so many more: what it takes to read one follows from
the size of the file. Of thousands of equal tensors it has 7 times."""
_CHUNK = struct.Struct("<QQQIB")
_PIECE = struct.Struct("<IQ")


@dataclass(frozen=True)
class Chunk:
    """`size` stored bytes at `offset` of the archive, `raw` bytes when decoded; `crc` is of the stored bytes."""

    offset: int
    size: int
    raw: int
    crc: int
    kind: int


@dataclass
class File:
    """A file that was packed: its name beside the model (the model's own is empty), size and CRC, its frame (a chunk:
    all that is no tensor, in order), and pieces (chunk or FRAME, bytes) that follow one another."""

    name: str
    size: int
    crc: int
    frame: int
    pieces: list[tuple[int, int]]


@dataclass(frozen=True)
class Tensor:
    """A tensor that can be read alone: `field` of a TensorProto holds the bytes that chunk `chunk` decodes to."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    field: int
    chunk: int


@dataclass
class Directory:
    """All that an archive says of its contents."""

    chunks: list[Chunk] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Serialised and deflated."""
        parts = [struct.pack("<I", len(self.chunks))]
        parts += [_CHUNK.pack(c.offset, c.size, c.raw, c.crc, c.kind) for c in self.chunks]
        parts.append(struct.pack("<I", len(self.files)))
        for f in self.files:
            parts += [_name(f.name), struct.pack("<QIII", f.size, f.crc, f.frame, len(f.pieces))]
            parts += [_PIECE.pack(*piece) for piece in f.pieces]
        parts.append(struct.pack("<I", len(self.tensors)))
        for t in self.tensors:
            form = f"<iBIB{len(t.dims)}q"
            parts += [_name(t.name), struct.pack(form, t.data_type, t.field, t.chunk, len(t.dims), *t.dims)]
        return b"".join(parts)


def _name(text: str) -> bytes:
    data = text.encode(errors="replace")[:65535]
    return struct.pack("<H", len(data)) + data


def header(directory: bytes, raw: int, offset: int) -> bytes:
    """The header of an archive whose deflated directory, `raw` bytes when inflated, ends it at `offset`."""
    size = len(directory)
    head = HEADER.pack(MAGIC, VERSION, 0, zlib.crc32(directory), offset, size, raw, offset + size)
    return head + struct.pack("<I", zlib.crc32(head))


def read_directory(data: memoryview) -> Directory:
    """Check the header and read the directory of an archive. Raises BadModel."""
    if len(data) < HEADER_SIZE or data[:8] != MAGIC:
        raise BadModel("this is no archive", expected="a file that onnxc pack wrote")
    _, version, zero, crc, offset, size, raw, total = HEADER.unpack(data[: HEADER.size])
    if zlib.crc32(data[: HEADER.size]) != int.from_bytes(data[HEADER.size : HEADER_SIZE], "little"):
        raise BadModel("the archive is damaged: its header has a wrong checksum")
    if version != VERSION or zero:
        raise BadModel("the archive has another version", expected=VERSION, found=version, remedy="use a newer onnxc")
    if total != len(data):
        raise BadModel("the archive is truncated", expected=f"{total} bytes", found=f"{len(data)} bytes")
    if offset < HEADER_SIZE or offset + size != total:
        raise BadModel("the archive is damaged: its directory stands outside it")
    stored = data[offset : offset + size]
    if zlib.crc32(stored) != crc:
        raise BadModel("the archive is damaged: its directory has a wrong checksum")
    if raw > min(size * _MOST_DEFLATE, total * _DIRECTORY_SHARE + _DIRECTORY_FREE):
        raise BadModel("the archive is damaged: its directory claims too many bytes")
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(stored, raw + 1)
    except zlib.error:
        raise BadModel("the archive is damaged: its directory cannot be inflated") from None
    if len(content) != raw or not stream.eof or stream.unused_data:
        raise BadModel("the archive is damaged: its directory has a wrong size")
    directory = _Reader(content).directory()
    _check(directory, offset)
    return directory


class _Reader:
    """Takes fields off the front of a directory."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, form: str | struct.Struct) -> tuple:
        form = struct.Struct(form) if isinstance(form, str) else form
        if self.at + form.size > len(self.data):
            raise BadModel("the archive is damaged: its directory is truncated")
        fields = form.unpack_from(self.data, self.at)
        self.at += form.size
        return fields

    def count(self, least: int) -> int:
        """A number of entries that take at least `least` bytes each."""
        (count,) = self.take("<I")
        if count * least > len(self.data) - self.at:
            raise BadModel("the archive is damaged: its directory is truncated")
        return count

    def name(self) -> str:
        (size,) = self.take("<H")
        try:
            return self.take(f"{size}s")[0].decode()
        except UnicodeDecodeError:
            raise BadModel("the archive is damaged: a name is not UTF-8") from None

    def directory(self) -> Directory:
        made = Directory()
        made.chunks = [Chunk(*self.take(_CHUNK)) for _ in range(self.count(_CHUNK.size))]
        for _ in range(self.count(22)):
            name = self.name()
            size, crc, frame = self.take("<QII")
            pieces = [self.take(_PIECE) for _ in range(self.count(_PIECE.size))]
            made.files.append(File(name, size, crc, frame, pieces))
        for _ in range(self.count(12)):
            name = self.name()
            data_type, number, chunk, rank = self.take("<iBIB")
            made.tensors.append(Tensor(name, data_type, self.take(f"<{rank}q"), number, chunk))
        if self.at != len(self.data):
            raise BadModel("the archive is damaged: its directory has a wrong size")
        return made


def _check(directory: Directory, end: int) -> None:
    chunks = directory.chunks
    if sum(c.size for c in chunks) > end or not all(c.size for c in chunks):
        raise BadModel("the archive is damaged: its chunks are more than it holds")
    for c in chunks:
        if c.kind not in (DEFLATED, CODED) or c.offset < HEADER_SIZE or c.offset + c.size > end:
            raise BadModel("the archive is damaged: a chunk stands outside it, or is of an unknown kind")
        if c.kind == DEFLATED and c.raw > c.size * _MOST_DEFLATE:
            raise BadModel("the archive is damaged: a chunk claims too many bytes")
    names = [f.name for f in directory.files]
    if not names or names[0] or len(set(names)) != len(names):
        raise BadModel("the archive is damaged: its list of files holds no model, or a file twice")
    for f in directory.files:
        if f.frame >= len(chunks) or chunks[f.frame].kind != DEFLATED:
            raise BadModel("the archive is damaged: a file has no frame")
        for chunk, size in f.pieces:
            if chunk != FRAME and (chunk >= len(chunks) or chunks[chunk].kind != CODED or chunks[chunk].raw != size):
                raise BadModel("the archive is damaged: a piece of a file is not there")
        framed = sum(size for chunk, size in f.pieces if chunk == FRAME)
        if framed != chunks[f.frame].raw or sum(size for _, size in f.pieces) != f.size:
            raise BadModel("the archive is damaged: the pieces of a file do not make it up")
    for t in directory.tensors:
        if t.chunk >= len(chunks) or chunks[t.chunk].kind != CODED:
            raise BadModel("the archive is damaged: a tensor has no data", tensor=t.name)
        if t.field not in FIELDS or any(d < 0 for d in t.dims):
            raise BadModel("the archive is damaged: a tensor has an unknown form", tensor=t.name)
