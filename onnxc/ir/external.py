"""Weights that stand in files beside the model.

ONNX lets a tensor at any depth (initialisers, attributes, bodies, functions) name a file, an offset and a length. Such a
file is looked for in the folder of the model and nowhere else, opened once, and mapped: what is not looked at is not read.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from .errors import BadModel
from .skimming import skim
from .values import LARGEST, stored_bytes

EXTERNAL = onnx.TensorProto.EXTERNAL
_FIELDS = ("external_data", "data_location")


def tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every TensorProto in a protobuf message of ONNX, at any depth."""
    stack = [message]
    while stack:
        found = stack.pop()
        if isinstance(found, onnx.TensorProto):
            yield found
            continue
        leading = _leading(type(found).DESCRIPTOR)
        for field, value in found.ListFields():
            if field.name in leading:
                stack += [value] if isinstance(value, Message) else value


@cache
def _leading(kind: Descriptor) -> frozenset[str]:
    """The fields of a kind of message that lead to tensors: asked of ONNX itself, so that none is forgotten."""
    return frozenset(f.name for f in kind.fields if f.message_type and _holds(f.message_type, ()))


def _holds(kind: Descriptor, trail: tuple[str, ...]) -> bool:
    if kind.full_name in trail:
        return False
    if kind.full_name == onnx.TensorProto.DESCRIPTOR.full_name:
        return True
    return any(f.message_type and _holds(f.message_type, (*trail, kind.full_name)) for f in kind.fields)


def locate(folder: Path, location: str, name: str) -> Path:
    """The file `location` of tensor `name` in the model's folder. Raises BadModel where it stands outside, links followed."""
    try:
        root = Path(os.path.realpath(folder))
        path = Path(os.path.realpath(root / location))
    except RuntimeError:
        raise BadModel("external data is a link to itself", tensor=name, found=location) from None
    except ValueError:
        raise BadModel("a path cannot hold a null character", tensor=name, found=repr(location)) from None
    if not location or os.path.isabs(location) or not path.is_relative_to(root):
        raise BadModel("external data outside the model's folder is refused", tensor=name, found=location or "''")
    return path


def opened(path: Path) -> int:
    """A file descriptor of a regular file; FileNotFoundError for devices, pipes and folders, which are never waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(path)
    return handle


def mapped(path: Path) -> memoryview:
    """The bytes of a regular file, mapped as long as something looks at them. Raises BadModel if it cannot be read or is empty."""
    try:
        data = _view(opened(path))
    except FileNotFoundError:
        why = "no such file or directory" if not path.exists() else "it is no regular file"
        raise BadModel(f"cannot read {path}: {why}") from None
    except (OSError, ValueError) as e:
        raise BadModel(f"cannot read {path}: {(getattr(e, 'strerror', None) or str(e)).lower()}") from None
    if not data:
        raise BadModel(f"{path} is empty")
    return data


def _view(handle: int) -> memoryview:
    try:
        size = os.fstat(handle).st_size
        return memoryview(mmap.mmap(handle, size, access=mmap.ACCESS_READ) if size else b"")
    finally:
        os.close(handle)


class Beside:
    """The files beside a model, which is read from one of `folders` (none: the model is no file, and has none)."""

    def __init__(self, *folders: Path):
        self.folders = folders
        self._files: dict[str, memoryview] = {}
        self._inlined = 0

    def __call__(self, tensor: onnx.TensorProto, nbytes: int) -> memoryview:
        """The `nbytes` bytes of an external tensor, mapped. Raises BadModel where they are not there or are not as many."""
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if not self.folders:
            raise BadModel(
                "this tensor's data stands in another file", tensor=tensor.name, remedy="load the model by its path"
            )
        if location not in self._files:
            self._files[location] = self._mapped(location, tensor.name)
        data = self._files[location]
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", nbytes))
        except ValueError:
            raise BadModel(
                "an offset or a length of external data is no number: the file is damaged", tensor=tensor.name
            ) from None
        if offset < 0 or length != nbytes or offset + length > len(data):
            raise BadModel(
                "external data has a wrong size", tensor=tensor.name, expected=f"{nbytes} bytes",
                found=f"{length} at {offset} of {location}, which has {len(data)}",
            )  # fmt: skip
        return data[offset : offset + length]

    def _mapped(self, location: str, name: str) -> memoryview:
        for folder in self.folders:
            try:
                return _view(opened(locate(folder, location, name)))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
        raise BadModel("external data is missing", tensor=name, expected=location)

    def inline(self, message: Message) -> None:
        """Copy the external data of all tensors in `message` (a node, a function) into it, which is changed."""
        for tensor in tensors(message):
            if tensor.data_location != EXTERNAL:
                continue
            data = self(tensor, stored_bytes(tensor))
            self._inlined += len(data)
            if self._inlined > LARGEST:
                raise BadModel(
                    "the weights in bodies, functions and attributes are too many", tensor=tensor.name,
                    expected=f"at most {LARGEST} bytes", remedy="make them inputs of the body",
                )  # fmt: skip
            for field in _FIELDS:
                tensor.ClearField(field)
            tensor.raw_data = bytes(data)


def named(path: Path) -> set[str]:
    """The files that a model at `path` names for its external data; none where there is no model."""
    try:
        handle = opened(path)
        with os.fdopen(handle, "rb") as file:
            size = os.fstat(handle).st_size
            if size > LARGEST:
                return set()
            frame, weights = skim(file, size)
            return {e.value for t in chain(tensors(frame), weights) for e in t.external_data if e.key == "location"}
    except (OSError, DecodeError):
        return set()
