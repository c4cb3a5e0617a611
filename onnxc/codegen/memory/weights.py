"""Where the weights of a library stand: read-only bytes as they are, or entropy-coded and decoded into the arena at init.

    raw     flash: w0 w1 w2 ...                          kernels read flash
    coded   flash: w0 code(w1) code(w2) ...  CRC-32      init: arena <- w1 w2; kernels read flash and arena

A weight is coded only where that saves something; small ones and random ones stay as they are. The format of the code is
that of docs/archive.md, the decoder runtime/c/decode.c.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxc.codegen.memory.arena import ALIGN, aligned
from onnxc.codegen.memory.spill import release
from onnxc.coding.native import SCRATCH

FEW = 1024  # bytes below which a code's own tables outweigh what it saves
WORTH = 0.95
PIECE = 1 << 24  # bytes that are read of a spilled weight at once


@dataclass(frozen=True)
class Segment:
    """A coded weight: bytes [at, at + coded) of the flash become `size` bytes of the arena at `to` beyond its start."""

    at: int
    coded: int
    to: int
    size: int


def gather(lists: list[list[np.ndarray]]) -> tuple[list[np.ndarray], list[list[int]]]:
    """One list of the arrays of several programs, equal bytes once; and for each program where its arrays stand in it."""
    if len(lists) == 1:
        return lists[0], [list(range(len(lists[0])))]
    arrays: list[np.ndarray] = []
    known: dict[tuple[int, bytes], int] = {}
    numbers: list[list[int]] = []
    for program in lists:
        numbers.append([])
        for array in program:
            key = (array.nbytes, hashlib.sha256(_bytes(array)).digest())
            if key not in known:
                known[key] = len(arrays)
                arrays.append(array)
            numbers[-1].append(known[key])
    return arrays, numbers


@dataclass(frozen=True)
class Weights:
    """The layout. `spots[i]` says where a kernel finds weight i: ("flash", offset) or ("arena", offset of the decoded).

    `checksum` is the CRC-32 of the first `checked` bytes of the flash, which hold every coded weight.
    """

    spots: tuple[tuple[str, int], ...]
    parts: tuple[tuple[int, bytes | np.ndarray], ...]
    segments: tuple[Segment, ...] = ()
    flash_bytes: int = 0
    decoded_bytes: int = 0
    checked: int = 0
    checksum: int = 0

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes of the flash, in order, with the padding between them."""
        end = 0
        for offset, part in self.parts:
            data = _bytes(part)
            yield b"\0" * (offset - end)
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
                if not isinstance(part, bytes):
                    release(part)
            end = offset + len(data)


def _bytes(part: bytes | np.ndarray) -> bytes | memoryview:
    if isinstance(part, bytes):
        return part
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def lay_out(
    arrays: list[np.ndarray], encode: Callable[[np.ndarray], bytes] | None = None, align: int = ALIGN
) -> Weights:
    """The layout of `arrays`; with `encode` those are coded that become smaller. All offsets are multiples of `align`."""
    codes = [_code(array, encode) for array in arrays]
    spots: list[tuple[str, int]] = [("flash", 0)] * len(arrays)
    parts: list[tuple[int, bytes | np.ndarray]] = []
    segments = []
    end = decoded = checksum = 0
    for i, code in enumerate(codes):
        if code is None:
            continue
        spots[i] = ("arena", decoded)
        segments.append(Segment(end, len(code), decoded, arrays[i].nbytes))
        parts.append((end, code))
        checksum = zlib.crc32(code, checksum)
        decoded = aligned(decoded + arrays[i].nbytes)
        end += len(code)
    checked = end
    for i, code in enumerate(codes):
        if code is None:
            spots[i] = ("flash", aligned(end, align))
            parts.append((aligned(end, align), arrays[i]))
            end = aligned(end, align) + arrays[i].nbytes
    return Weights(tuple(spots), tuple(parts), tuple(segments), end, decoded, checked, checksum)


def _code(array: np.ndarray, encode: Callable[[np.ndarray], bytes] | None) -> bytes | None:
    if encode is None or array.nbytes < FEW or array.dtype.itemsize not in (1, 2, 4, 8):
        return None
    code = encode(array)
    return code if len(code) < WORTH * array.nbytes else None


def decode_source(weights: Weights) -> str:
    """The C function `decode(arena)`: 1, or 0 where the coded weights are damaged. NET_ and net_ stand for the name.

    `@decoded@` and `@scratch@` stand for the offsets of the decoded weights and of scratch memory in the arena, `@weights@` for the flash.
    """
    if not weights.segments:
        return "static int decode(char *arena) {\n  (void)arena;\n  return 1;\n}\n"
    rows = "\n".join(f"  {{{s.at}, {s.coded}, {s.to}, {s.size}}}," for s in weights.segments)
    return (
        _DECODE.replace("@rows@", rows)
        .replace("@count@", str(len(weights.segments)))
        .replace("@scratch_bytes@", str(SCRATCH))
        .replace("@checked@", str(weights.checked))
        .replace("@checksum@", f"0x{weights.checksum:08x}u")
    )


_DECODE = """typedef char scratch_fits[ONNXC_DECODE_SCRATCH <= @scratch_bytes@ ? 1 : -1];

/* at and bytes in the weights, offset and bytes in the arena */
static const uint32_t coded[@count@][4] = {
@rows@
};

static uint32_t crc32(const unsigned char *data, uint32_t bytes) {
  static const uint32_t table[16] = {
      0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
      0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
  uint32_t crc = 0xffffffffu, i;
  for (i = 0; i < bytes; i++) {
    crc ^= data[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

static int decode(char *arena) {
  const uint8_t *from = (const uint8_t *)@weights@;
  int i;
  if (crc32(from, @checked@) != @checksum@) return 0;
  for (i = 0; i < @count@; i++) {
    uint8_t *to = (uint8_t *)arena + @decoded@ + coded[i][2];
    if (onnxc_decode(from + coded[i][0], coded[i][1], to, coded[i][3], arena + @scratch@)) return 0;
  }
  return 1;
}
"""
