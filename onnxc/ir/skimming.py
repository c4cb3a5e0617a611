"""A large model's message read in parts, so that no weight is held twice while it is read: what `streaming` is for writing.

The initialisers of the outer graph, nearly all of such a file, are left where they are and read one by one. Protobuf allows
it: the parts of a message, parsed one after the other, are the message, and so are those of a message within
(https://protobuf.dev/programming-guides/encoding, "Last One Wins"). Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError

from .streaming import GRAPH, INITIALIZER, tag, varint

LARGE = 1 << 24
"""Bytes from which on a file is read so: below, one copy of it more is nothing, and protobuf by itself is faster."""
_HEAD = 20
"""Bytes that a field's key and length take at the most."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def skim(file: BinaryIO, size: int) -> tuple[onnx.ModelProto, Iterator[onnx.TensorProto]]:
    """The model in the first `size` bytes of `file` without its initialisers, and those, each read when it is its turn.

    Raises DecodeError where the bytes are no such message, in the iterator too.
    """
    frame, places = onnx.ModelProto(), []
    for field, begin, content, end in _fields(file, 0, size):
        if field != (GRAPH, _LENGTH):
            frame.MergeFromString(_read(file, begin, end))
            continue
        run = content
        for inner, begin_inner, content_inner, end_inner in _fields(file, content, end):
            if inner == (INITIALIZER, _LENGTH):
                _merge(frame, _read(file, run, begin_inner))
                places.append((content_inner, end_inner))
                run = end_inner
        _merge(frame, _read(file, run, end))
    return frame, (onnx.TensorProto.FromString(_read(file, *place)) for place in places)


def _merge(frame: onnx.ModelProto, fields: bytes) -> None:
    """Fields of the graph into that of `frame`, which there is from then on."""
    if fields or not frame.HasField("graph"):
        frame.MergeFromString(tag(GRAPH) + varint(len(fields)) + fields)


def _fields(file: BinaryIO, at: int, end: int) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    """(number, wire type), begin, begin of what it holds, and end of each field between two places."""
    while at < end:
        file.seek(at)
        head = file.read(min(_HEAD, end - at))
        key, content = _varint_at(head, 0)
        kind = key & 7
        if kind == _LENGTH:
            length, content = _varint_at(head, content)
        elif kind == _VARINT:
            length = _varint_at(head, content)[1] - content
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:  # groups, which ONNX has none of
            raise DecodeError("a field of unknown type")
        begin, content = at, at + content
        at = content + length
        if at > end:
            raise DecodeError("truncated")
        yield (key >> 3, kind), begin, content, at


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends."""
    value = 0
    for k, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise DecodeError("truncated")


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)
