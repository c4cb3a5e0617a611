"""Arrays: elements of 1, 2, 4 or 8 bytes, in slabs that are coded each on their own (`slab`)."""

from __future__ import annotations

import numpy as np

from onnxc.ir.errors import BadData

from .native import decoder
from .slab import SLAB, encode_slab

FORMAT = 1
HEADER = 12


def words(values: np.ndarray) -> np.ndarray:
    """The elements as a flat array of little-endian unsigned integers. Raises BadData for widths but 1, 2, 4, 8."""
    width = values.dtype.itemsize
    if width not in (1, 2, 4, 8) or values.dtype.hasobject:
        raise BadData("elements of this type cannot be coded", expected="1, 2, 4 or 8 bytes each", found=values.dtype)
    flat = np.ascontiguousarray(values).reshape(-1)
    if values.dtype.byteorder == ">" or (values.dtype.byteorder == "=" and not np.little_endian):
        flat = flat.byteswap()
    return flat.view(f"<u{width}")


def encode(values: np.ndarray) -> bytes:
    """Code an array of any shape, its elements 1, 2, 4 or 8 bytes wide; losslessly, down to the bits of a NaN.

    Shape and type are not coded: `decode` is told them. The result is what `onnxc_decode` (runtime/c/decode.h) reads.
    """
    flat = words(values)
    parts = [bytes([FORMAT, flat.itemsize, 0, 0]), len(flat).to_bytes(8, "little")]
    for start in range(0, len(flat), SLAB):
        slab = encode_slab(flat[start : start + SLAB], values.dtype.kind in "fV")
        parts += [len(slab).to_bytes(4, "little"), slab]
    return b"".join(parts)


def read_header(data: memoryview) -> tuple[int, int]:
    """Width and number of elements of a coded array. Raises BadData."""
    if len(data) < HEADER:
        raise BadData("a coded array is truncated")
    width, count = data[1], int.from_bytes(data[4:12], "little")
    if data[0] != FORMAT or width not in (1, 2, 4, 8) or any(data[2:4]):
        raise BadData("this is no coded array of a format that this version reads")
    return width, count


def slabs(data: memoryview) -> list[tuple[memoryview, int]]:
    """The coded slabs of an array and their numbers of elements. Raises BadData unless they fill `data` exactly.

    Memory for the elements may be taken after this: a slab takes at least seven bytes of `data`.
    """
    _, count = read_header(data)
    if -(-count // SLAB) * 11 > len(data) - HEADER:
        raise BadData("a coded array is truncated", expected=f"{count} elements", found=f"{len(data)} bytes")
    found, at = [], HEADER
    for start in range(0, count, SLAB):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise BadData("a coded array is truncated")
        found.append((data[at + 4 : at + 4 + size], min(SLAB, count - start)))
        at += 4 + size
    if at != len(data):
        raise BadData("a coded array holds more than its elements", expected=f"{at} bytes", found=f"{len(data)} bytes")
    return found


def decode(
    data: bytes | memoryview, dtype: np.dtype | str | None = None, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """What `encode` coded: flat unsigned words, or elements of `dtype` in `shape`. Raises BadData if damaged."""
    data = memoryview(data).cast("B")
    width, count = read_header(data)
    parts = slabs(data)
    out = np.empty(count, f"<u{width}")
    read = decoder()
    for i, (slab, elements) in enumerate(parts):
        read(slab, out[i * SLAB : i * SLAB + elements])
    if dtype is not None:
        if np.dtype(dtype).itemsize != width:
            raise BadData("the elements have another width", expected=f"{width} bytes", found=np.dtype(dtype))
        out = out.view(np.dtype(dtype))
    if shape is not None:
        if int(np.prod(shape, dtype=object)) != count:
            raise BadData("the array has another size", expected=f"{count} elements", found=list(shape))
        out = out.reshape(shape)
    return out
