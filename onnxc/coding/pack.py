"""Packing: cut the tensors out of a model's files, code each, and write what is left as the files' frames.

Files are mapped and tensors coded a slab at a time, so that memory is bounded whatever the size of the model. Equal
tensors are stored once. Small tensors of one type are joined into chunks, so that the adaptive coder learns once for
all of them.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from onnxc.ir.errors import BadModel, BadOption
from onnxc.ir.external import locate, mapped
from onnxc.ir.output import replacing

from . import layout, stream
from .adaptive import Segments, can_encode
from .array import FORMAT
from .slab import SLAB, encode_slab, few_values
from .wire import Region, regions

CODERS = ("adaptive", "huffman")
SMALLEST = 128
"""Tensors of fewer bytes stay in the frame, and are coded with it."""
_SMALL, _JOINED = 1 << 16, 1 << 18
"""Tensors below the first are joined into chunks of at most the second, in bytes."""
_STEP = 1 << 24
_PART = re.compile(r"""[^\s./\\:*?"<>|~-](?:[^/\\:*?"<>|]{0,200}[^\s./\\:*?"<>|])?""")


@dataclass(frozen=True)
class Packed:
    """What became of a model: bytes of its files, bytes of the archive, and for each coded tensor its name, bytes and
    coded bytes (of a joined chunk its share; 0 for a tensor that equals an earlier one)."""

    before: int
    after: int
    tensors: list[tuple[str, int, int]]


def pack(source: object, path: str | os.PathLike, *, coder: str = "adaptive") -> Packed:
    """Write the archive `path` of a model: the path of an ONNX file (its external data too), bytes, or a ModelProto.

    coder: "adaptive" takes for each plane of bytes the smaller of a Huffman code and an adaptive arithmetic one, which
    decodes some hundred times more slowly; "huffman" that alone. Where onnxc was installed without a compiler there is
    only the second. `unpack` gives the very same files back. Raises BadModel if the source is no model, BadOption if `path` cannot be
    written.
    """
    if coder not in CODERS:
        raise BadOption("there is no such coder", expected=" or ".join(CODERS), found=repr(coder))
    if isinstance(source, (str, os.PathLike)):
        folder: Path | None = Path(source).parent
        model = mapped(Path(source))
        if Path(os.path.realpath(path)) == Path(os.path.realpath(source)):
            raise BadOption(f"{path} is the model itself", remedy="give the archive another name")
    else:
        if isinstance(source, (bytes, bytearray, memoryview)):
            whole = source
        elif isinstance(source, onnx.ModelProto):
            whole = source.SerializeToString()
        else:
            raise BadModel(f"a {type(source).__name__} is not a model", expected="path, bytes or ModelProto")
        folder, model = None, memoryview(whole).cast("B")
    found = regions(model)
    files = {"": model}
    for region in found:
        if region.location is None or (region.location and region.location in files):
            continue
        beside = _beside(folder, region)
        if Path(os.path.realpath(beside)) == Path(os.path.realpath(path)):
            raise BadOption(f"{path} holds the model's external data", remedy="give the archive another name")
        files[region.location] = mapped(beside)
    with replacing(path) as out:
        return _write(out, files, found, coder == "adaptive" and can_encode())


def _beside(folder: Path | None, region: Region) -> Path:
    if folder is None:
        raise BadModel(
            "this tensor's data stand in another file", tensor=region.name, remedy="pack the model by its path"
        )
    location = region.location or ""
    if not plain(location):
        raise BadModel(
            "external data whose name is not plain are not packed", tensor=region.name, expected="no hidden file, no ..",
            found=repr(location),
        )  # fmt: skip
    return locate(folder, location, region.name)


def plain(location: str) -> bool:
    """Whether a name may be given to a file beside the model: a path down from its folder, of parts that any system takes and
    none hides."""
    return all(_PART.fullmatch(part) and part.isprintable() for part in location.split("/"))


@dataclass
class _Chunk:
    """A chunk that is planned: tensors of one width, in order, and their strides."""

    width: int
    floats: bool
    parts: list[tuple[memoryview, int]] = field(default_factory=list)
    size: int = 0

    def add(self, data: memoryview, above: int) -> None:
        self.parts.append((data, above))
        self.size += len(data)

    def coded(self, adaptive: bool) -> Iterator[bytes]:
        flat = np.frombuffer(self.parts[0][0] if len(self.parts) == 1 else self._bytes(), f"<u{self.width}")
        yield bytes([FORMAT, self.width, 0, 0]) + len(flat).to_bytes(8, "little")
        for start in range(0, len(flat), SLAB):
            part = flat[start : start + SLAB]
            slab = encode_slab(part, self.floats, self._segments(len(part)) if adaptive else None)
            yield len(slab).to_bytes(4, "little")
            yield slab

    def _bytes(self) -> bytes:
        return b"".join(data for data, _ in self.parts)

    def _segments(self, words: int) -> Segments:
        """Of a joined chunk, which is a single slab, its tensors; else the slab itself."""
        if len(self.parts) == 1:
            return [(words, self.parts[0][1])]
        return [(len(data) // self.width, above) for data, above in self.parts]


class _Plan:
    """Which chunk holds which tensor."""

    def __init__(self, adaptive: bool) -> None:
        self.adaptive = adaptive
        self.chunks: list[_Chunk] = []
        self.known: dict[tuple[bytes, int, bool], tuple[int, int]] = {}
        self.open: dict[tuple[int, int, bool], int] = {}

    def place(self, region: Region, data: memoryview) -> tuple[int, int, bool]:
        """Number of the chunk and first byte in it, and whether the tensor is the first of its bytes."""
        digest = hashlib.blake2b(data, digest_size=32).digest()
        key = (digest, region.width, region.floats)
        if key in self.known:
            return *self.known[key], False
        kind = (region.data_type, region.width, region.floats)
        alone = not self.adaptive or len(data) >= _SMALL or few_values(np.frombuffer(data, f"<u{region.width}"))
        number = None if alone else self.open.get(kind)
        if number is None or self.chunks[number].size + len(data) > _JOINED:
            number = len(self.chunks)
            self.chunks.append(_Chunk(region.width, region.floats))
            if not alone:
                self.open[kind] = number
        self.known[key] = number, self.chunks[number].size
        self.chunks[number].add(data, stride(region.dims, len(data) // region.width))
        return *self.known[key], True


def stride(dims: tuple[int, ...], words: int) -> int:
    """How many words back the same place of the previous kernel stands, or, of a matrix, of the previous row."""
    if len(dims) < 2 or min(dims) < 1:
        return 0
    inner = math.prod(dims[2:]) if len(dims) > 2 else 1
    inner = inner if inner > 1 else dims[1]
    return inner * words // math.prod(dims)


class _Writer:
    """Appends chunks to the archive and remembers them."""

    def __init__(self, out: BinaryIO):
        self.out = out
        self.directory = layout.Directory()
        self.offset = layout.HEADER_SIZE
        out.write(bytes(self.offset))

    def chunk(self, parts: Iterator[bytes], kind: int, raw: int) -> int:
        """Write a chunk; its number."""
        size = crc = 0
        for part in parts:
            self.out.write(part)
            size, crc = size + len(part), zlib.crc32(part, crc)
        self.directory.chunks.append(layout.Chunk(self.offset, size, raw, crc, kind))
        self.offset += size
        return len(self.directory.chunks) - 1

    def frame(self, data: memoryview, gaps: list[tuple[int, int]]) -> int:
        """Write the bytes of a file that no tensor holds; the number of their chunk."""
        size = sum(end - start for start, end in gaps)
        kind, parts = stream.compress((data[a : min(a + _STEP, e)] for s, e in gaps for a in range(s, e, _STEP)), size)
        return self.chunk(parts, layout.DEFLATED if kind == stream.DEFLATE else layout.PACKED, size)

    def finish(self) -> int:
        raw = self.directory.to_bytes()
        kind, parts = stream.compress([raw], len(raw))
        stored = b"".join(parts)
        self.out.write(stored)
        self.out.seek(0)
        self.out.write(layout.header(stored, kind, len(raw), self.offset))
        return self.offset + len(stored)


def _write(out: BinaryIO, files: dict[str, memoryview], found: list[Region], adaptive: bool) -> Packed:
    writer, plan = _Writer(out), _Plan(adaptive)
    placed: list[tuple[Region, int, bool]] = []
    frames = []
    for name, data in files.items():
        pieces, gaps, at = [], [], 0
        for region in _disjoint(found, name or None, len(data)):
            chunk, start, new = plan.place(region, data[region.start : region.start + region.size])
            placed.append((region, chunk, new))
            if region.start > at:
                gaps.append((at, region.start))
                pieces.append((layout.FRAME, 0, region.start - at))
            pieces.append((chunk, start, region.size))
            at = region.start + region.size
        if at < len(data):
            gaps.append((at, len(data)))
            pieces.append((layout.FRAME, 0, len(data) - at))
        frames.append((name, data, gaps, pieces))
    for one in plan.chunks:
        writer.chunk(one.coded(adaptive), layout.CODED, one.size)
    for name, data, gaps, pieces in frames:
        frame = writer.frame(data, gaps)
        writer.directory.files.append(layout.File(name, len(data), zlib.crc32(data), frame, pieces))
    chunks = writer.directory.chunks
    rows = [(r.name, r.size, r.size * chunks[c].size // chunks[c].raw if new else 0) for r, c, new in placed]
    return Packed(sum(map(len, files.values())), writer.finish(), rows)


def _disjoint(found: list[Region], location: str | None, size: int) -> list[Region]:
    """The regions of one file that are worth coding, in its order, none overlapping another."""
    chosen, at = [], 0
    for region in sorted((r for r in found if r.location == location), key=lambda r: (r.start, -r.size)):
        length = size - region.start if region.size < 0 else region.size
        if region.start + length > size or length < 0:
            raise BadModel(
                "external data end before the tensor does",
                tensor=region.name,
                expected=f"{region.start + length} bytes",
                found=f"{size} bytes",
            )
        if length < SMALLEST or region.start < at:
            continue
        width = region.width if length % region.width == 0 else 1
        chosen.append(replace(region, size=length, width=width, floats=region.floats and width > 1))
        at = region.start + length
    return chosen
