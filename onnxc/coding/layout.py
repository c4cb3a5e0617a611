"""The frame of an archive: header, directory, and how both are written and read. docs/archive.md gives every byte.

Reading trusts nothing: whatever the bytes hold, a BadModel says what is wrong, and no size that they claim
is believed before the bytes that it needs are there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from onnxc.ir.errors import BadData, BadModel

from . import stream

MAGIC = b"\x89ONNXZ\r\n"
VERSION = 2
"""What is written. Version 1, which is read as well, has a table of its tensors, zlib streams alone and no joined chunks."""
HEADER = struct.Struct("<8sHHIQQQQ")
"""Magic, version, kind of the directory's stream; of the directory CRC, offset, size, inflated size; size of the archive. A
CRC follows."""
HEADER_SIZE = HEADER.size + 4
DEFLATED, CODED, PACKED = 0, 1, 2
"""Kinds of chunks: a zlib stream, a coded array, a raw LZMA stream."""
STREAMS = {DEFLATED: stream.DEFLATE, PACKED: stream.LZMA}
FRAME = 0xFFFFFFFF
"""A piece that comes from the file's frame, not from a chunk."""
FIELDS = (4, 5, 7, 9, 10, 11)
"""Of a TensorProto, those that hold numbers: float, int32, int64, raw, double and uint64 data."""
_DIRECTORY_SHARE, _DIRECTORY_FREE = 32, 1 << 20
"""A directory has at most so many times the bytes of its archive, and so many more: what it takes to read one follows from
the size of the file. Of thousands of equal tensors it has 7 times."""
MOST_JOINED = 1 << 20
"""Bytes of a chunk that several tensors share, at most: whoever wants one of them decodes all."""
_CHUNK = struct.Struct("<QQQIB")
_PIECES = {1: struct.Struct("<IQ"), 2: struct.Struct("<IIQ")}


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
    all that is no tensor, in order), and pieces (chunk or FRAME, first byte in the chunk, bytes) that follow one another."""

    name: str
    size: int
    crc: int
    frame: int
    pieces: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Tensor:
    """A tensor that can be read alone: `field` of a TensorProto holds `size` bytes from `start` of what `chunk` decodes to."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    field: int
    chunk: int
    start: int
    size: int


@dataclass
class Directory:
    """All that an archive says of its contents. `tensors`: those that version 1 lists; later ones leave it to the model."""

    chunks: list[Chunk] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    tensors: list[Tensor] | None = None

    def to_bytes(self) -> bytes:
        """Serialised, in the form of VERSION."""
        parts = [struct.pack("<I", len(self.chunks))]
        parts += [_CHUNK.pack(c.offset, c.size, c.raw, c.crc, c.kind) for c in self.chunks]
        parts.append(struct.pack("<I", len(self.files)))
        for f in self.files:
            parts += [_name(f.name), struct.pack("<QIII", f.size, f.crc, f.frame, len(f.pieces))]
            parts += [_PIECES[VERSION].pack(*piece) for piece in f.pieces]
        return b"".join(parts)


def _name(text: str) -> bytes:
    data = text.encode(errors="replace")[:65535]
    return struct.pack("<H", len(data)) + data


def header(directory: bytes, kind: int, raw: int, offset: int) -> bytes:
    """The header of an archive whose directory, a stream of `kind` and `raw` bytes when inflated, ends it at `offset`."""
    size = len(directory)
    head = HEADER.pack(MAGIC, VERSION, kind, zlib.crc32(directory), offset, size, raw, offset + size)
    return head + struct.pack("<I", zlib.crc32(head))


def read_directory(data: memoryview) -> Directory:
    """Check the header and read the directory of an archive. Raises BadModel."""
    if len(data) < HEADER_SIZE or data[:8] != MAGIC:
        raise BadModel("this is no archive", expected="a file that onnxc pack wrote")
    _, version, kind, crc, offset, size, raw, total = HEADER.unpack(data[: HEADER.size])
    if zlib.crc32(data[: HEADER.size]) != int.from_bytes(data[HEADER.size : HEADER_SIZE], "little"):
        raise BadModel("the archive is damaged: its header has a wrong checksum")
    if version not in _PIECES or kind not in (stream.DEFLATE, stream.LZMA):
        raise BadModel("the archive has another version", expected=VERSION, found=version, remedy="use a newer onnxc")
    if total != len(data):
        raise BadModel("the archive is truncated", expected=f"{total} bytes", found=f"{len(data)} bytes")
    if offset < HEADER_SIZE or offset + size != total:
        raise BadModel("the archive is damaged: its directory stands outside it")
    stored = data[offset : offset + size]
    if zlib.crc32(stored) != crc:
        raise BadModel("the archive is damaged: its directory has a wrong checksum")
    if raw > min(size * stream.MOST, total * _DIRECTORY_SHARE + _DIRECTORY_FREE):
        raise BadModel("the archive is damaged: its directory claims too many bytes")
    try:
        content = b"".join(stream.inflate(stored, kind, raw))
    except BadData as e:
        raise BadModel(f"the archive is damaged: its directory: {e}") from None
    directory = _Reader(content).directory(version)
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

    def directory(self, version: int) -> Directory:
        made, piece = Directory(), _PIECES[version]
        made.chunks = [Chunk(*self.take(_CHUNK)) for _ in range(self.count(_CHUNK.size))]
        for _ in range(self.count(22)):
            name = self.name()
            size, crc, frame = self.take("<QII")
            pieces = [self.take(piece) for _ in range(self.count(piece.size))]
            pieces = pieces if version > 1 else [(chunk, 0, part) for chunk, part in pieces]
            made.files.append(File(name, size, crc, frame, pieces))
        if version == 1:
            made.tensors = [self.tensor(made.chunks) for _ in range(self.count(12))]
        if self.at != len(self.data):
            raise BadModel("the archive is damaged: its directory has a wrong size")
        return made

    def tensor(self, chunks: list[Chunk]) -> Tensor:
        """A row of the table that version 1 has."""
        name = self.name()
        data_type, number, chunk, rank = self.take("<iBIB")
        dims = self.take(f"<{rank}q")
        if number not in FIELDS or any(d < 0 for d in dims) or chunk >= len(chunks) or chunks[chunk].kind != CODED:
            raise BadModel("the archive is damaged: a tensor has no data, or an unknown form", tensor=name)
        return Tensor(name, data_type, dims, number, chunk, 0, chunks[chunk].raw)


def _check(directory: Directory, end: int) -> None:
    chunks = directory.chunks
    if sum(c.size for c in chunks) > end or not all(c.size for c in chunks):
        raise BadModel("the archive is damaged: its chunks are more than it holds")
    for c in chunks:
        if c.kind not in (*STREAMS, CODED) or c.offset < HEADER_SIZE or c.offset + c.size > end:
            raise BadModel("the archive is damaged: a chunk stands outside it, or is of an unknown kind")
        if c.kind != CODED and c.raw > c.size * stream.MOST:
            raise BadModel("the archive is damaged: a chunk claims too many bytes")
    names = [f.name for f in directory.files]
    if not names or names[0] or len(set(names)) != len(names):
        raise BadModel("the archive is damaged: its list of files holds no model, or a file twice")
    for f in directory.files:
        if f.frame >= len(chunks) or chunks[f.frame].kind not in STREAMS:
            raise BadModel("the archive is damaged: a file has no frame")
        for chunk, start, size in f.pieces:
            if chunk != FRAME and (
                chunk >= len(chunks) or chunks[chunk].kind != CODED or start + size > chunks[chunk].raw
            ):
                raise BadModel("the archive is damaged: a piece of a file is not there")
        framed = sum(size for chunk, _, size in f.pieces if chunk == FRAME)
        if framed != chunks[f.frame].raw or sum(size for *_, size in f.pieces) != f.size:
            raise BadModel("the archive is damaged: the pieces of a file do not make it up")
    joined = {
        chunk for f in directory.files for chunk, _, size in f.pieces if chunk != FRAME and size < chunks[chunk].raw
    }
    if any(chunks[c].raw > MOST_JOINED for c in joined) or sum(chunks[c].raw for c in joined) > sum(
        f.size for f in directory.files
    ):
        raise BadModel("the archive is damaged: tensors share chunks that are larger than they are")
