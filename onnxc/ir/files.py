"""Reading models: path, bytes, ModelProto or gs.Graph -> Model."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from .errors import BadModel
from .external import Beside
from .model import Model
from .reading import from_proto

Source: TypeAlias = "str | os.PathLike | bytes | onnx.ModelProto | gs.Graph | Model"
"""Whatever is read as a model."""
ARCHIVE = b"\x89ONNXZ"
"""How a file begins that `onnxc pack` wrote."""
LARGEST = 2**31
"""A protobuf message is smaller."""
PART = 2**20
"""Bytes of a pipe that are read at a time: what is asked for is taken from memory at once."""


def load(source: Source) -> Model:
    """Read a model. Raises BadModel (one line) for whatever is not a sound ONNX model of opset 7 or newer."""
    if isinstance(source, Model):
        return source.copy()
    if isinstance(source, gs.Graph):
        source = gs.export_onnx(source, do_type_check=False)
    folders: tuple[Path, ...] = ()
    where = "the model"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        where, source = str(path), _content(path)
        # a link may stand for the model alone, or for all that is beside it too
        folders = (path.parent, Path(os.path.realpath(path)).parent)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = _parse(bytes(source), where)
    if not isinstance(source, onnx.ModelProto):
        raise BadModel(f"a {type(source).__name__} is not a model", expected="path, bytes, ModelProto or gs.Graph")
    try:
        return from_proto(source, Beside(*folders))
    except OSError as e:
        raise BadModel(f"cannot read the external data of {where}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as e:
        # a damaged file can trip numpy or protobuf in ways that the checks above them do not foresee
        raise BadModel(f"{where} is damaged: {e}", remedy="export it again") from e


def _content(path: Path) -> bytes:
    """The bytes of a file or a pipe; never those of a device, which may have no end."""
    try:
        with open(path, "rb") as file:
            kind = os.fstat(file.fileno())
            if stat.S_ISCHR(kind.st_mode) or stat.S_ISBLK(kind.st_mode):
                raise BadModel(f"{path} is a device", expected="a file")
            if stat.S_ISREG(kind.st_mode):
                data = file.read() if kind.st_size <= LARGEST else None
            else:
                parts = [part for part, _ in zip(iter(lambda: file.read(PART), b""), range(LARGEST // PART + 1))]
                data = b"".join(parts) if len(parts) <= LARGEST // PART else None
    except ValueError:
        raise BadModel("a path cannot hold a null character", found=repr(str(path))) from None
    except IsADirectoryError:
        raise BadModel(f"{path} is a folder", remedy="name the .onnx file in it") from None
    except OSError as e:
        raise BadModel(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    if data is None:
        raise BadModel(
            f"{path} is not an ONNX model: it is too large", expected="less than 2 GiB, and weights in files beside it"
        )
    return data


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise BadModel(f"{where} is empty")
    if data.startswith(ARCHIVE):
        raise BadModel(f"{where} is an archive", remedy="onnxc unpack gives the model in it")
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise BadModel(f"{where} is not an ONNX model, or is truncated") from None
    if not proto.HasField("graph"):
        raise BadModel(f"{where} is not an ONNX model", expected="a graph", found="none")
    return proto
