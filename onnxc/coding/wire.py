"""Where the weights stand in a serialised model: a walk over protobuf's wire format, without parsing it into messages.

The walk finds every TensorProto, in initialisers, attributes, subgraphs, functions and training graphs alike, and
says at which bytes of the file its data stand. It reads any buffer, a mapped file of many gigabytes too. Wire format:
https://protobuf.dev/programming-guides/encoding; field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxc.ir.errors import BadModel

_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
RAW = 9
_DATA = {4: (4, True), 5: (1, False), 7: (1, False), RAW: (0, False), 10: (8, True), 11: (1, False)}
"""Fields with data: bytes of an element, and whether they are floats. Integers in typed fields are varints: bytes."""
_WIDTHS = {1: 4, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 14: 4, 15: 8, 16: 2}
_FLOATS = {1, 10, 11, 14, 15, 16}
_DEPTH = 64


@dataclass(frozen=True)
class Region:
    """The data of one tensor: `size` bytes at `start` of the model's file, or of the file `location` beside it.

    `width` bytes make an element, `floats` says of what kind; `field` is the TensorProto field, 9 (raw_data) for files.
    """

    name: str
    data_type: int
    dims: tuple[int, ...]
    field: int
    start: int
    size: int
    width: int
    floats: bool
    location: str | None = None


def regions(data: memoryview) -> list[Region]:
    """The data of all tensors of a serialised ModelProto, as they follow in the file. Raises BadModel if it is none."""
    found = list(_walk(data, 0, len(data), "model", "", 0))
    if not any(number == 7 for number, *_ in _fields(data, 0, len(data))):
        raise BadModel("this is not an ONNX model", expected="a graph", found="none")
    return found


def _walk(data: memoryview, start: int, end: int, kind: str, name: str, depth: int) -> Iterator[Region]:
    if depth > _DEPTH:
        raise BadModel("graphs are nested too deeply", expected=f"at most {_DEPTH} levels")
    if kind == "tensor":
        yield from _tensor(data, start, end, name)
        return
    inside = _MESSAGES[kind]
    if kind == "node":  # a Constant's tensor is known by the node's output
        outputs = [_text(data, a, b) for number, wire, a, b in _fields(data, start, end) if number == 2 and wire == 2]
        name = outputs[0] if outputs else ""
    for number, wire, a, b in _fields(data, start, end):
        if number in inside and wire == 2:
            yield from _walk(data, a, b, inside[number], name, depth + 1)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of each field between `at` and `end`; of a varint, its bytes."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            size, at = _varint(data, at, end)
        elif wire == 0:
            size = _varint(data, at, end)[1] - at
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise BadModel("this is not an ONNX model, or is damaged")
        if not number or size > end - at:
            raise BadModel("this is not an ONNX model, or is truncated")
        yield number, wire, at, at + size
        at += size


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise BadModel("this is not an ONNX model, or is truncated")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise BadModel("this is not an ONNX model, or is damaged")


def _text(data: memoryview, start: int, end: int) -> str:
    return bytes(data[start:end]).decode(errors="replace")


def _tensor(data: memoryview, start: int, end: int, name: str) -> Iterator[Region]:
    dims: list[int] = []
    found: list[tuple[int, int, int]] = []
    external: dict[str, str] = {}
    data_type, elsewhere = 0, False
    for number, wire, a, b in _fields(data, start, end):
        if number == 1:
            while a < b:
                dim, a = _varint(data, a, b)
                dims.append(dim - (dim >> 63 << 64))
        elif number == 2 and wire == 0:
            data_type = _varint(data, a, b)[0]
        elif number == 8 and wire == 2:
            name = _text(data, a, b) or name
        elif number == 13 and wire == 2:
            entry = {n: _text(data, c, d) for n, w, c, d in _fields(data, a, b) if w == 2}
            external[entry.get(1, "")] = entry.get(2, "")
        elif number == 14 and wire == 0:
            elsewhere = _varint(data, a, b)[0] == 1
        elif number in _DATA and wire == 2:
            found.append((number, a, b))
    if elsewhere:
        yield _outside(name, data_type, tuple(dims), external)
    for number, a, b in found:
        width, floats = _DATA[number]
        if number == RAW:
            width, floats = _WIDTHS.get(data_type, 1), data_type in _FLOATS
        if (b - a) % width:
            width, floats = 1, False
        yield Region(name, data_type, tuple(dims), number, a, b - a, width, floats)


def _outside(name: str, data_type: int, dims: tuple[int, ...], entries: dict[str, str]) -> Region:
    texts = {key: entries.get(key, default) for key, default in (("offset", "0"), ("length", "-1"))}
    try:
        start, size = int(texts["offset"]), int(texts["length"])
    except ValueError:
        raise BadModel("external data have an offset or a length that is no number", tensor=name) from None
    if start < 0 or size < -1:
        raise BadModel("external data have a negative offset or length", tensor=name)
    width, floats = _WIDTHS.get(data_type, 1), data_type in _FLOATS
    return Region(name, data_type, dims, RAW, start, size, width, floats, entries.get("location", ""))
