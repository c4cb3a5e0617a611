"""Arrays from .npy and .npz files that may be anybody's: nothing is unpickled, and what a file says is not believed before the
bytes are there.
"""

from __future__ import annotations

import ast
import math
import os
import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from onnxc.ir.errors import BadData

FORMS = "save it with numpy.savez, named as the model's inputs"
FREE = 2**30
"""Bytes that the members of an .npz may have together, beside four times the file's."""
_UNREADABLE = (
    *(OSError, ValueError, TypeError, EOFError, KeyError, MemoryError, OverflowError, RuntimeError, SyntaxError),
    *(RecursionError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise on damaged files; the header of an .npy is parsed as Python."""


def read_npy(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped. Raises `BadData`."""
    try:
        with open(path, "rb") as file:
            dtype, shape, fortran = _header(file, os.fstat(file.fileno()).st_size)
            offset, count = file.tell(), math.prod(shape)
        if not count or not dtype.itemsize:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except _UNREADABLE as error:
        raise BadData(f"{path} is not a readable .npy file: {_why(error)}") from None


_NUMBER = re.compile(r"\[\d+\]$")


def read_npz(path: Path, wanted: list[str], needed: list[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz that are `wanted` and there; those that are `needed` must be. Raises `BadData`.

    `x[0]`, `x[1]`, ... are the samples of x, and stand for it."""
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise BadData(f"{path} is one array, not an .npz", remedy=FORMS)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in needed if name not in members and f"{name}[0]" not in members]
            if missing:
                found = ", ".join(sorted(members)[:20]) or "no arrays"
                raise BadData(f"{path} has no array for this input", tensor=missing[0], found=found)
            names = [name for name in members if name in wanted or _NUMBER.sub("", name) in wanted]
            total, most = sum(members[name].file_size for name in names), 4 * path.stat().st_size + FREE
            if total > most:
                raise BadData(
                    f"{path} says that it holds too much", expected=f"at most {most} bytes", found=f"{total} bytes"
                )
            return {name: _member(archive, members[name]) for name in names}
    except _UNREADABLE as error:
        raise BadData(f"{path} is not a readable .npz: {_why(error)}", remedy=FORMS) from None


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz that can be read."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        dtype, shape, fortran = _header(file, info.file_size)
        # what a stream gives is there before it is taken for an array
        data = file.read(math.prod(shape) * dtype.itemsize)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError("it is truncated")
        array = np.frombuffer(bytearray(data), dtype) if data else np.empty(math.prod(shape), dtype)
        return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def _header(file: IO[bytes], size: int) -> tuple[np.dtype, tuple[int, ...], bool]:
    """What stands at the head of an .npy file of `size` bytes: element type, shape, whether columns come first."""
    magic = file.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise ValueError("it does not begin as one")
    wide = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(wide), "little")
    if magic[6] not in (1, 2, 3) or not 0 < length <= min(size, 1 << 16):
        raise ValueError("its header is damaged, or of another version")
    text = file.read(length).decode("latin-1" if magic[6] < 3 else "utf-8")
    found = ast.literal_eval(text.strip())
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is damaged")
    shape, descr = found["shape"], found["descr"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError("its shape is none")
    if not isinstance(descr, str):
        raise ValueError("it holds records, not numbers")
    dtype = np.dtype(descr)
    if dtype.hasobject or dtype.kind not in "biufcVUS":
        raise ValueError("it holds Python objects, not numbers")
    needed, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > left:
        raise ValueError(f"it is truncated: its shape says {needed} bytes, the file has {left}")
    return dtype, shape, bool(found["fortran_order"])


def _why(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, (SyntaxError, tokenize.TokenError, RecursionError)):
        return "its header is damaged"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
