"""A model's message in parts, so that no weight is held twice while it is written.

The parts are the bytes that protobuf gives for the whole message: its fields in the order of their numbers, a message within
as tag, length and contents (https://protobuf.dev/programming-guides/encoding). Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message

from .values import PACKED, fill, little_endian, tensor_type

GRAPH, INITIALIZER, _RAW = 7, 5, 9
_M = TypeVar("_M", bound=Message)


def parts(frame: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of `frame`, which has no initialisers, with `weights` as those."""
    graph = frame.graph
    before, after = _serial(_only(graph, 0, INITIALIZER)), _serial(_only(graph, INITIALIZER, 1 << 29))
    heads = {name: _head(name, values) for name, values in weights.items()}
    sizes = {name: len(head) + (_raw_bytes(weights[name]) or 0) for name, head in heads.items()}
    whole = len(before) + len(after) + sum(1 + len(varint(n)) + n for n in sizes.values())
    yield _serial(_only(frame, 0, GRAPH)) + tag(GRAPH) + varint(whole) + before
    for name, values in weights.items():
        yield tag(INITIALIZER) + varint(sizes[name]) + heads[name]
        if _raw_bytes(values) is not None:
            yield np.ascontiguousarray(little_endian(values)).reshape(-1).view(np.uint8).data
    yield after + _serial(_only(frame, GRAPH, 1 << 29))


def _raw_bytes(values: np.ndarray) -> int | None:
    """Bytes that follow the head of a tensor; None where its elements are no plain ones and stand in the head."""
    return None if values.dtype == object or tensor_type(values.dtype) in PACKED else values.nbytes


def _head(name: str, values: np.ndarray) -> bytes:
    """A TensorProto up to its data, which is its last field."""
    tensor = onnx.TensorProto()
    size = _raw_bytes(values)
    if size is None:
        fill(tensor, name, values)
        return _serial(tensor)
    tensor.name, tensor.data_type = name, tensor_type(values.dtype)
    tensor.dims.extend(values.shape)
    return _serial(tensor) + tag(_RAW) + varint(size)


def _only(message: _M, above: int, below: int) -> _M:
    """A copy with the fields whose numbers lie between the two."""
    copy = type(message)()
    for field, value in message.ListFields():
        if not above < field.number < below:
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(copy, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def _serial(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def tag(number: int) -> bytes:
    return varint(number << 3 | 2)


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
