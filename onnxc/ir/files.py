"""Reading models: path, bytes, ModelProto or gs.Graph -> Model."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from .errors import BadModel
from .external import Beside
from .model import Model
from .reading import from_proto
from .skimming import LARGE, skim

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
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with _content(path) as file:
            # a link may stand for the model alone, or for all that is beside it too
            beside = Beside(path.parent, Path(os.path.realpath(path)).parent)
            return _model(*_parse(file, str(path)), beside, str(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _model(*_parse(io.BytesIO(source), "the model"), Beside(), "the model")
    if not isinstance(source, onnx.ModelProto):
        raise BadModel(f"a {type(source).__name__} is not a model", expected="path, bytes, ModelProto or gs.Graph")
    return _model(source, (), Beside(), "the model")


def _model(proto: onnx.ModelProto, weights: Iterable[onnx.TensorProto], beside: Beside, where: str) -> Model:
    try:
        return from_proto(proto, beside, weights)
    except DecodeError:
        raise _no_model(where) from None
    except OSError as e:
        raise BadModel(f"cannot read the external data of {where}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as e:
        # a damaged file can trip numpy or protobuf in ways that the checks above them do not foresee
        raise BadModel(f"{where} is damaged: {e}", remedy="export it again") from e


def _content(path: Path) -> BinaryIO:
    """A file, or what a pipe has given; never a device, which may have no end."""
    try:
        file = open(path, "rb")  # noqa: SIM115
        with ExitStack() as stack:
            stack.callback(file.close)
            kind = os.fstat(file.fileno())
            if stat.S_ISCHR(kind.st_mode) or stat.S_ISBLK(kind.st_mode):
                raise BadModel(f"{path} is a device", expected="a file")
            if not stat.S_ISREG(kind.st_mode):
                parts = [part for part, _ in zip(iter(lambda: file.read(PART), b""), range(LARGEST // PART + 1))]
                if len(parts) <= LARGEST // PART:
                    return io.BytesIO(b"".join(parts))
            elif kind.st_size <= LARGEST:
                stack.pop_all()
                return file
    except ValueError:
        raise BadModel("a path cannot hold a null character", found=repr(str(path))) from None
    except IsADirectoryError:
        raise BadModel(f"{path} is a folder", remedy="name the .onnx file in it") from None
    except OSError as e:
        raise BadModel(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    raise BadModel(
        f"{path} is not an ONNX model: it is too large", expected="less than 2 GiB, and weights in files beside it"
    )


def _parse(file: BinaryIO, where: str) -> tuple[onnx.ModelProto, Iterable[onnx.TensorProto]]:
    """A model, and initialisers of it that are read when it is their turn."""
    weights: Iterable[onnx.TensorProto] = ()
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not size:
            raise BadModel(f"{where} is empty")
        if file.read(len(ARCHIVE)) == ARCHIVE:
            raise BadModel(f"{where} is an archive", remedy="onnxc unpack gives the model in it")
        file.seek(0)
        if size < LARGE:
            proto = onnx.ModelProto.FromString(file.read())
        else:
            proto, weights = skim(file, size)
    except DecodeError:
        raise _no_model(where) from None
    except OSError as e:
        raise BadModel(f"cannot read {where}: {(e.strerror or str(e)).lower()}") from None
    if not proto.HasField("graph"):
        raise BadModel(f"{where} is not an ONNX model", expected="a graph", found="none")
    return proto, weights


def _no_model(where: str) -> BadModel:
    return BadModel(f"{where} is not an ONNX model, or is truncated")
