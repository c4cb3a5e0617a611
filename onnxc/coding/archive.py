"""Reading archives: one tensor at a time, a whole file, or all files as they were."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from mmap import mmap
from pathlib import Path
from types import TracebackType

import numpy as np

from onnxc.ir.errors import BadData, BadModel, BadOption
from onnxc.ir.external import mapped
from onnxc.ir.output import is_special, replacing

from . import layout, native, stream
from .array import read_header, slabs
from .pack import plain
from .slab import SLAB
from .wire import regions


class Archive:
    """An archive, open: from a path, which is mapped, or from bytes. A context manager.

    Raises BadModel, one line, for whatever is damaged; what is read is checked when it is read.
    """

    def __init__(
        self,
        source: str | os.PathLike | bytes | memoryview,
        *,
        max_bytes: int | None = None,
        decoder: native.Decoder | None = None,
    ):
        """`max_bytes`: a file or an array that is larger is refused, and so are files that are larger together; 4 times the
        archive and 1 GiB by default. `decoder` decodes slabs: C where a compiler was there when onnxc was installed, else NumPy.
        """
        if isinstance(source, (str, os.PathLike)):
            self._where = str(source)
            self._data = mapped(Path(source))
        else:
            self._where = "the archive"
            self._data = memoryview(source).cast("B")
        self._most = 4 * len(self._data) + 2**30 if max_bytes is None else max_bytes
        self._decode = decoder or native.decoder()
        self._directory = layout.read_directory(self._data)
        self._joined: dict[int, bytes] = {}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # arrays that look into the mapping keep it until they go
        self._data = memoryview(b"")

    @property
    def tensors(self) -> list[layout.Tensor]:
        """The tensors that stand on their own; those below 128 bytes stand in the frame of the model."""
        return list(self._tensors)

    @cached_property
    def _tensors(self) -> list[layout.Tensor]:
        """Version 1 lists them; else they are found as they were when the model was packed: the model is laid out with its
        frame alone, and walked."""
        if self._directory.tensors is not None:
            return self._directory.tensors
        files = {f.name: f for f in self._directory.files}
        placed = {name: dict(_places(f)) for name, f in files.items()}
        made = []
        for region in regions(self._laid_out(files[""])):
            piece = placed.get(region.location or "", {}).get(region.start)
            size = region.size if region.size >= 0 else files[region.location or ""].size - region.start
            if piece is not None and piece[2] == size and len(region.dims) <= 255:
                chunk, start, size = piece
                made.append(layout.Tensor(region.name, region.data_type, region.dims, region.field, chunk, start, size))
        return made

    def _laid_out(self, model: layout.File) -> memoryview:
        """The model's file, zeros where tensors stand."""
        self._bound(model.size)
        data = memoryview(mmap(-1, max(model.size, 1)))[: model.size]  # pages that nobody writes take no memory
        frame, rest = self._chunk(model.frame), memoryview(b"")
        at = 0
        for chunk, _, size in model.pieces:
            end = at + size
            while chunk == layout.FRAME and at < end:
                rest = rest or memoryview(next(frame))
                part, rest = rest[: end - at], rest[end - at :]
                data[at : at + len(part)] = part
                at += len(part)
            at = end
        return data

    @property
    def files(self) -> list[str]:
        """The names of the files, the model's first, which is empty."""
        return [f.name for f in self._directory.files]

    @property
    def size(self) -> int:
        """The bytes that all files have together, as the archive says: what `unpack` writes, and `read` at most holds."""
        return sum(f.size for f in self._directory.files)

    def array(self, tensor: layout.Tensor | str) -> np.ndarray:
        """One tensor, or the first of that name, decoded alone. Raises BadModel if it is damaged or not there."""
        from google.protobuf.message import Error
        from onnx import TensorProto, numpy_helper

        if isinstance(tensor, str):
            named = [t for t in self._tensors if t.name == tensor]
            if not named:
                raise BadModel(f"{self._where} holds no such tensor on its own", tensor=tensor)
            tensor = named[0]
        self._bound(self._directory.chunks[tensor.chunk].raw)
        data = b"".join(self._piece(tensor.chunk, tensor.start, tensor.size))
        proto = TensorProto(dims=tensor.dims, data_type=tensor.data_type)
        try:
            size = _varint(len(data))
            proto.MergeFromString(_varint(tensor.field << 3 | 2) + size + data)
            return numpy_helper.to_array(proto)
        except (Error, ValueError, TypeError, KeyError, OverflowError) as e:
            raise self._damaged(f"type, shape and data of {tensor.name} do not agree ({e})") from None

    def read(self, name: str = "") -> bytes:
        """The bytes of one file; the model's by default. Raises BadModel."""
        named = [f for f in self._directory.files if f.name == name]
        if not named:
            raise BadModel(f"{self._where} holds no file {name!r}")
        self._bound(named[0].size)
        return b"".join(self._file(named[0]))

    def unpack(self, path: str | os.PathLike) -> list[Path]:
        """Write the model to `path`, and files of external data, if any, beside it under their old names.

        All are complete and checked before the first takes its place, the model's last. Raises BadModel, or BadOption where
        something cannot be written, is too large, or another file stands where external data are to go.
        """
        path = Path(path)
        self._bound(self.size)
        if path.parent.is_dir() and not is_special(path) and self.size > (free := shutil.disk_usage(path.parent).free):
            raise BadOption(f"{path.parent} has no room", expected=f"{self.size} bytes", found=f"{free} bytes")
        written = []
        with ExitStack() as stack:
            for f in self._directory.files:
                target = self._target(path, f)
                if f.name and os.path.lexists(target):
                    self._agree(target, f)
                    continue
                out = stack.enter_context(replacing(target, new=bool(f.name)))
                for part in self._file(f):
                    out.write(part)
                out.flush()
                written.append(target)
        return written

    def _bound(self, size: int) -> None:
        if size > self._most:
            raise BadOption(
                f"{self._where} says that it holds {size} bytes", expected=f"at most {self._most}",
                remedy=f"if you trust it, allow as many (--max-bytes {size})",
            )  # fmt: skip

    def _target(self, path: Path, f: layout.File) -> Path:
        if not f.name:
            return path
        target = path.parent / f.name
        if not plain(f.name) or not Path(os.path.realpath(target)).is_relative_to(Path(os.path.realpath(path.parent))):
            raise BadModel(f"{self._where} would write outside the folder, refused", found=f.name)
        if Path(os.path.realpath(target)) == Path(os.path.realpath(path)):
            raise BadOption(f"{path} is the name of the model's external data", remedy="give the model another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _agree(self, target: Path, f: layout.File) -> None:
        size = target.stat().st_size if target.is_file() else -1
        if size != f.size or (size and zlib.crc32(mapped(target)) != f.crc):
            raise BadOption(f"{target} is there and is another file", remedy="move it, or unpack elsewhere")

    def _file(self, f: layout.File) -> Iterator[bytes | memoryview]:
        frame = self._chunk(f.frame)
        rest = memoryview(b"")
        crc = 0
        for chunk, start, size in f.pieces:
            for part in self._piece(chunk, start, size) if chunk != layout.FRAME else ():
                crc = zlib.crc32(part, crc)
                yield part
            while chunk == layout.FRAME and size:
                rest = rest or memoryview(next(frame))
                part, rest = rest[:size], rest[size:]
                size -= len(part)
                crc = zlib.crc32(part, crc)
                yield bytes(part)
        for _ in frame:  # its checksum is looked at when it ends
            raise self._damaged("a frame is too long")
        if crc != f.crc:
            raise self._damaged("a file has a wrong checksum")

    def _piece(self, number: int, start: int, size: int) -> Iterator[bytes | memoryview]:
        """`size` bytes from `start` of what a chunk decodes to: all of it, or a part of a joined one, which is kept."""
        if size == self._directory.chunks[number].raw:
            return self._chunk(number)
        if number not in self._joined:
            self._joined[number] = b"".join(self._chunk(number))
        return iter([memoryview(self._joined[number])[start : start + size]])

    def _chunk(self, number: int) -> Iterator[bytes | memoryview]:
        chunk = self._directory.chunks[number]
        stored = self._data[chunk.offset : chunk.offset + chunk.size]
        if zlib.crc32(stored) != chunk.crc:
            raise self._damaged("a chunk has a wrong checksum")
        if chunk.kind == layout.CODED:
            return self._slabs(stored, chunk.raw)
        return self._inflate(stored, layout.STREAMS[chunk.kind], chunk.raw)

    def _inflate(self, stored: memoryview, kind: int, raw: int) -> Iterator[bytes]:
        try:
            yield from stream.inflate(stored, kind, raw)
        except BadData as e:
            raise self._damaged(str(e)) from None

    def _slabs(self, stored: memoryview, raw: int) -> Iterator[memoryview]:
        try:
            width, count = read_header(stored)
            if width * count != raw:
                raise BadData("a coded array has another size", expected=f"{raw} bytes", found=f"{width * count} bytes")
            parts = slabs(stored)
            for data, elements in parts:
                out = np.empty(min(elements, SLAB), f"<u{width}")
                self._decode(data, out)
                yield out.data.cast("B")
        except BadData as e:
            raise self._damaged(str(e)) from None

    def _damaged(self, what: str) -> BadModel:
        return BadModel(f"{self._where} is damaged: {what}", remedy="pack the model again")


def _places(f: layout.File) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Where in a file each piece that is no frame begins."""
    at = 0
    for piece in f.pieces:
        if piece[0] != layout.FRAME:
            yield at, piece
        at += piece[2]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def unpack(source: str | os.PathLike | bytes, path: str | os.PathLike, *, max_bytes: int | None = None) -> list[Path]:
    """Write what `pack` packed: the model to `path`, files of external data beside it. Returns the paths written.

    Above `max_bytes` in all, 4 times the archive and 1 GiB by default, nothing is written.
    """
    if isinstance(source, (str, os.PathLike)) and Path(os.path.realpath(source)) == Path(os.path.realpath(path)):
        raise BadOption(f"{path} is the archive itself", remedy="give the model another name")
    with Archive(source, max_bytes=max_bytes) as archive:
        return archive.unpack(path)
