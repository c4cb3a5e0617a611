"""Planes by adaptive binary arithmetic coding with mixed contexts (runtime/c/adaptive.h, docs/archive.md).

Every symbol is a path down a binary tree. A decision is predicted from five contexts: none (a slow and a fast counter), the
symbol before, the symbol one `stride` before (the same place of the previous row or kernel), and the magnitudes of these
and of the one before. The predictions are mixed in the logistic domain, with weights learnt on the way (Mahoney 2005,
"Adaptive weighing of context models for lossless data compression"), so that nothing is stored but the code: small
tensors need no tables, and a joined chunk of many of them learns once.

Encoding is C's alone; decoding here is some thousand times slower than in C, and reads the same bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from operator import mul

import numpy as np

from onnxc.ir.errors import BadData

from .clib import library

HISTORY = 2048
"""No stride is longer."""
SCRATCH = 32 << 10
"""ONNXC_ENCODE_SCRATCH of encode.h, in bytes."""
_CONTEXTS, _ROWS = 5, 32
_SLOW, _FAST, _RATE, _WEIGHT, _MOST_WEIGHT = 126, 16, 8, 14000, 1 << 19
_POINTS = (
    1, 2, 4, 6, 10, 17, 27, 45, 74, 120, 194, 311, 488, 747, 1102, 1546, 2048, 2550, 2994, 3349, 3608, 3785, 3902, 3976, 4022,
    4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095,
)  # fmt: skip
_BOUNDS = (1, 2, 4, 7, 11, 17, 26, 40, 62, 96, 150)
_LENGTH_BITS = 28

Segments = Sequence[tuple[int, int]]
"""Runs of symbols that follow one another: (length, stride), the stride 0 where nothing stands above."""


@cache
def _encoder() -> Callable[..., int] | None:
    there = library()
    function = getattr(there, "onnxc_encode_adaptive", None)
    if function is not None:
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint
        function.argtypes = (pointer, pointer, size, number, number, pointer, size, pointer)
        function.restype = size
    return function


def can_encode() -> bool:
    """Whether the encoder is there: it is C's."""
    return _encoder() is not None


def encode_adaptive(symbols: np.ndarray, segments: Segments, most: int) -> bytes | None:
    """The body of a plane: symbols, uint8 [n], n at least 1; None if it has more than `most` bytes, or there is no encoder.

    segments: their lengths add up to n; a stride above 2048 is none.
    """
    function = _encoder()
    if function is None:
        return None
    # The order in which neighbouring values are neighbours: two's complement is turned to begin with the most negative.
    flip = 128 if _spread(symbols ^ 128) < _spread(symbols) else 0
    mapped = symbols ^ np.uint8(flip)
    least, largest = int(mapped.min()), int(mapped.max())
    bits = max(1, (largest - least).bit_length())
    mapped = mapped - np.uint8(least)
    centre = int(np.searchsorted(np.bincount(mapped, minlength=256).cumsum() * 2, len(mapped)))
    head = bytearray((flip, least, bits, centre))
    table = np.array([(n, stride if stride <= HISTORY else 0) for n, stride in segments], np.uint32)
    for value in table.ravel().tolist():
        head += _varint(value)
    room = most - len(head)
    if room <= 0:
        return None
    out, scratch = np.empty(room, np.uint8), np.empty(SCRATCH // 4, np.uint32)
    mapped = np.ascontiguousarray(mapped)
    size = function(
        mapped.ctypes.data, table.ctypes.data, len(table), bits, centre, out.ctypes.data, room, scratch.ctypes.data
    )
    return bytes(head) + out[:size].tobytes() if size else None


def _spread(symbols: np.ndarray) -> float:
    return float(np.var(symbols[: 1 << 16], dtype=np.float64))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_adaptive(body: memoryview, count: int) -> np.ndarray:
    """The `count` symbols, uint8, of an adaptive plane. Raises BadData."""
    if len(body) < 4:
        raise BadData("an adaptive plane is truncated")
    flip, least, bits, centre = body[:4]
    if not 1 <= bits <= 8 or centre >> bits:
        raise BadData("an adaptive plane has an unknown form", found=bits)
    segments, at = _read_segments(body, count)
    if at >= len(body):
        raise BadData("an adaptive plane is truncated")
    model, code = _Model(bits, centre), _Code(body[at:])
    out = bytearray()
    for length, stride in segments:
        model.since, model.stride = 0, stride
        for _ in range(length):
            out.append(model.next(code))
    if code.at < len(code.data):
        raise BadData(
            "a plane holds more than its symbols", expected=f"{code.at} bytes", found=f"{len(code.data)} bytes"
        )
    return (np.frombuffer(bytes(out), np.uint8) + np.uint8(least)) ^ np.uint8(flip)


def _read_segments(body: memoryview, count: int) -> tuple[list[tuple[int, int]], int]:
    segments, at, total = [], 4, 0
    while total < count:
        pair = []
        for _ in range(2):
            value = 0
            for shift in range(0, _LENGTH_BITS, 7):
                if at >= len(body):
                    raise BadData("an adaptive plane is truncated")
                byte, at = body[at], at + 1
                value |= (byte & 127) << shift
                if byte < 128:
                    break
            else:
                raise BadData("an adaptive plane has an unknown form")
            pair.append(value)
        length, stride = pair
        if not 0 < length <= count - total or stride > HISTORY:
            raise BadData("the segments of a plane do not make it up", expected=count, found=length)
        total += length
        segments.append((length, stride))
    return segments, at


def _squash(x: int) -> int:
    if x >= 2047:
        return 4095
    if x <= -2047:
        return 1
    place, part = (x + 2048) >> 7, (x + 2048) & 127
    return (_POINTS[place] * (128 - part) + _POINTS[place + 1] * part + 64) >> 7


@cache
def _stretch() -> list[int]:
    table: list[int] = []
    for x in range(-2047, 2048):
        table += [x] * ((_squash(x) - 1) // 2 + 1 - len(table))
    return table + [2047] * (2048 - len(table))


_LEVEL = np.searchsorted(_BOUNDS, np.arange(1024), "right").tolist()
_SIGNED = [0 if v == 0 else 1 if v < 2 else 2 if v < 5 else 3 if v < 14 else 4 for v in range(256)]
_STEP = [131072 // (2 * n + 3) for n in range(_SLOW + 1)]


class _Code:
    """The arithmetic decoder's view of its bytes; zeros follow their end."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0
        self.low, self.high, self.value = 0, 0xFFFFFFFF, 0
        for _ in range(4):
            self.shift()

    def shift(self) -> None:
        byte = 0
        if self.at < len(self.data):
            byte, self.at = self.data[self.at], self.at + 1
        self.value = (self.value << 8 | byte) & 0xFFFFFFFF

    def bit(self, chance: int) -> int:
        middle = self.low + ((self.high - self.low) >> 12) * chance
        if self.value <= middle:
            bit, self.high = 1, middle
        else:
            bit, self.low = 0, middle + 1
        while not (self.low ^ self.high) >> 24:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 | 255) & 0xFFFFFFFF
            self.shift()
        return bit


class _Model:
    """What `struct adaptive` is in C, decision for decision."""

    def __init__(self, bits: int, centre: int):
        self.chance = [[32768] * 256 for _ in range(_ROWS)]
        self.seen = [[0] * 256 for _ in range(_ROWS)]
        self.weight = [[_WEIGHT] * _CONTEXTS for _ in range(8)]
        self.stretch, self.squash = _stretch(), [_squash(x) for x in range(-2047, 2048)]
        self.history = [centre] * HISTORY
        self.at = self.since = self.stride = 0
        self.bits, self.centre = bits, centre

    def next(self, code: _Code) -> int:
        history, at, centre = self.history, self.at, self.centre
        before = history[(at - 1) % HISTORY] - centre if self.since > 0 else 0
        earlier = history[(at - 2) % HISTORY] - centre if self.since > 1 else 0
        above = history[(at - self.stride) % HISTORY] - centre if self.stride and self.since >= self.stride else 0
        rows = (
            0,
            1,
            2 + _signed(before),
            11 + _signed(above),
            20 + _LEVEL[abs(before) + abs(earlier) + abs(above)],
        )
        counters = [(self.chance[row], self.seen[row], _FAST if row == 1 else _SLOW) for row in rows]
        squash, stretch, step = self.squash, self.stretch, _STEP
        node = 1
        for weight in self.weight[8 - self.bits :]:
            stretched = [stretch[chances[node] >> 5] for chances, _, _ in counters]
            total = sum(map(mul, weight, stretched)) >> 16
            mixed = squash[total + 2047] if -2047 <= total <= 2047 else squash[0 if total < 0 else -1]
            bit = code.bit(mixed)
            wrong = ((bit << 12) - mixed) * _RATE
            weight[:] = [w + ((s * wrong + (1 << 13)) >> 14) for w, s in zip(weight, stretched, strict=True)]
            if max(weight) > _MOST_WEIGHT or min(weight) < -_MOST_WEIGHT:
                weight[:] = [max(-_MOST_WEIGHT, min(_MOST_WEIGHT, w)) for w in weight]
            for chances, seen, most in counters:
                chance, times = chances[node], seen[node]
                if bit:
                    chances[node] = chance + ((65535 - chance) * step[times] >> 16)
                else:
                    chances[node] = chance - (chance * step[times] >> 16)
                if times < most:
                    seen[node] = times + 1
            node = node * 2 + bit
        symbol = node & ((1 << self.bits) - 1)
        history[at % HISTORY] = symbol
        self.at += 1
        self.since += 1
        return symbol


def _signed(value: int) -> int:
    return _SIGNED[-value] + 4 if value < 0 else _SIGNED[value]
