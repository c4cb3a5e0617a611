"""Packing: cut the tensors out of a model's files, code each, and write what is left as the files' frames.

Files are mapped and tensors coded a slab at a time, so that memory is bounded whatever the size of the model. Equal
tensors are stored once.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onnxc.ir.errors import BadModel, BadOption
from onnxc.ir.external import locate, mapped
from onnxc.ir.output import replacing

from . import layout
from .array import FORMAT
from .slab import SLAB, encode_slab
from .wire import Region, regions

SMALLEST = 128
"""Tensors of fewer bytes stay in the frame, and are deflated with it."""
_STEP = 1 << 24
_PART = re.compile(r"""[^\s./\\:*?"<>|~-](?:[^/\\:*?"<>|]{0,200}[^\s./\\:*?"<>|])?""")


@dataclass(frozen=True)
class Packed:
    """What became of a model: bytes of its files, bytes of the archive, and for each coded tensor its name, bytes and
    coded bytes (0 for a tensor that equals an earlier one)."""

    before: int
    after: int
    tensors: list[tuple[str, int, int]]


def pack(source: object, path: str | os.PathLike) -> Packed:
    """Write the archive `path` of a model: the path of an ONNX file (its external data too), bytes, or a ModelProto.

    `unpack` gives the very same files back. Raises BadModel if the source is no model, BadOption if `path` cannot be
    written.
    """
    if isinstance(source, (str, os.PathLike)):
        folder: Path | None = Path(source).parent
        model = mapped(Path(source))
        if Path(path).resolve() == Path(source).resolve():
            raise BadOption(f"{path} is the model itself", remedy="give the archive another name")
    else:
        if not isinstance(source, (bytes, bytearray, memoryview)):
            if not hasattr(source, "SerializeToString"):
                raise BadModel(f"a {type(source).__name__} is not a model", expected="path, bytes or ModelProto")
            source = source.SerializeToString()
        folder, model = None, memoryview(source).cast("B")
    found = regions(model)
    files = {"": model}
    for region in found:
        if region.location is None or (region.location and region.location in files):
            continue
        beside = _beside(folder, region)
        if beside.resolve() == Path(path).resolve():
            raise BadOption(f"{path} holds the model's external data", remedy="give the archive another name")
        files[region.location] = mapped(beside)
    with replacing(path) as out:
        return _write(out, files, found)


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


class _Writer:
    """Appends chunks to the archive and remembers them."""

    def __init__(self, out: BinaryIO):
        self.out = out
        self.directory = layout.Directory()
        self.offset = layout.HEADER_SIZE
        self.known: dict[tuple[bytes, int, bool], int] = {}
        out.write(bytes(self.offset))

    def chunk(self, parts: Iterator[bytes], kind: int, raw: int) -> int:
        size = crc = 0
        for part in parts:
            self.out.write(part)
            size, crc = size + len(part), zlib.crc32(part, crc)
        self.directory.chunks.append(layout.Chunk(self.offset, size, raw, crc, kind))
        self.offset += size
        return len(self.directory.chunks) - 1

    def tensor(self, data: memoryview, width: int, floats: bool) -> tuple[int, int]:
        """The chunk of a tensor's bytes, and how many bytes were written for it."""
        digest = hashlib.blake2b(data, digest_size=32).digest()
        key = (digest, width, floats)
        if key in self.known:
            return self.known[key], 0
        before = self.offset
        self.known[key] = self.chunk(_coded(np.frombuffer(data, f"<u{width}"), floats), layout.CODED, len(data))
        return self.known[key], self.offset - before

    def finish(self) -> int:
        raw = self.directory.to_bytes()
        deflated = zlib.compress(raw, 9)
        self.out.write(deflated)
        self.out.seek(0)
        self.out.write(layout.header(deflated, len(raw), self.offset))
        return self.offset + len(deflated)


def _coded(flat: np.ndarray, floats: bool) -> Iterator[bytes]:
    yield bytes([FORMAT, flat.itemsize, 0, 0]) + len(flat).to_bytes(8, "little")
    for start in range(0, len(flat), SLAB):
        slab = encode_slab(flat[start : start + SLAB], floats)
        yield len(slab).to_bytes(4, "little")
        yield slab


def _deflated(data: memoryview, gaps: list[tuple[int, int]]) -> Iterator[bytes]:
    stream = zlib.compressobj(9)
    for start, end in gaps:
        for at in range(start, end, _STEP):
            yield stream.compress(data[at : min(at + _STEP, end)])
    yield stream.flush()


def _write(out: BinaryIO, files: dict[str, memoryview], found: list[Region]) -> Packed:
    writer = _Writer(out)
    rows = []
    for name, data in files.items():
        pieces, gaps, at = [], [], 0
        for region in _disjoint(found, name or None, len(data)):
            chunk, written = writer.tensor(data[region.start : region.start + region.size], region.width, region.floats)
            rows.append((region.name, region.size, written))
            if region.start > at:
                gaps.append((at, region.start))
                pieces.append((layout.FRAME, region.start - at))
            pieces.append((chunk, region.size))
            at = region.start + region.size
            if len(region.dims) <= 255:
                row = layout.Tensor(region.name, region.data_type, region.dims, region.field, chunk)
                writer.directory.tensors.append(row)
        if at < len(data):
            gaps.append((at, len(data)))
            pieces.append((layout.FRAME, len(data) - at))
        frame = writer.chunk(_deflated(data, gaps), layout.DEFLATED, sum(end - start for start, end in gaps))
        writer.directory.files.append(layout.File(name, len(data), zlib.crc32(data), frame, pieces))
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
