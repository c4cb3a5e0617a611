"""One slab: at most SLAB elements of 1, 2, 4 or 8 bytes, coded on their own.

A slab is a palette and one plane of indices where at most 256 different elements occur (weights that were clustered or
quantised), else one plane for each byte of an element. Floats are first turned by one bit, sign below mantissa, so that
the exponents have a plane of their own: trained weights have exponents of less than three bits of entropy. Bytes that
hold packed numbers, of five bits say, are first cut into these. Where most elements are zero, only the others are
stored, each with the number of zeros before it (the relative indices of Han, Mao and Dally, Deep Compression, 2016);
where a gap is too wide for its index a stored zero fills it. Of the forms that could pay all are made, and the smallest
is kept.
"""

from __future__ import annotations

import numpy as np

from onnxc.ir.errors import BadData

from .adaptive import Segments
from .plane import encode_plane, estimate, read_plane

SLAB = 1_048_320
"""Elements of a slab; as bytes, whole numbers of 1 to 8 bits."""
SPARSE, ROTATED, PALETTE, FIELDS = 1, 2, 4, 8
_FIELD_BITS = (2, 3, 4, 5, 6, 7)
_FIELDS_PAY = 0.98
"""Fields are taken where they shrink bytes to this share at least: they decode more slowly."""
_SPARSE_SHARE = 0.3
"""Zeros below this share are never worth indices."""
_GAP_BITS = (2, 3, 4, 5, 6, 7, 8)
_GLANCE = 4096


def encode_slab(flat: np.ndarray, floats: bool, segments: Segments | None = None) -> bytes:
    """Code at most SLAB words, u1 to u8. `floats`: they are IEEE floats, or bfloat16.

    segments: (words, stride) of the tensors, or rows, that the slab is made of; with them planes may be adaptive.
    """
    best = _dense_or_sparse(flat, floats, segments)
    bits = _field_bits(flat) if flat.itemsize == 1 else 0
    if not bits:
        return best
    fields = to_fields(flat, bits)
    if segments is not None:
        stride = segments[0][1] * 8 // bits if len(segments) == 1 else 0
        segments = [(len(fields), stride)]
    cut = _dense_or_sparse(fields, False, segments)
    cut = bytes([cut[0] | FIELDS, bits]) + cut[1:]
    return cut if len(cut) < _FIELDS_PAY * len(best) else best


def _dense_or_sparse(flat: np.ndarray, floats: bool, segments: Segments | None) -> bytes:
    zeros = len(flat) - np.count_nonzero(flat)
    best = _dense(flat, floats, segments)
    if len(flat) > zeros > _SPARSE_SHARE * len(flat):
        sparse = _sparse(flat, floats, segments is not None)
        best = min(best, sparse, key=len)
    return best


def _dense(flat: np.ndarray, floats: bool, segments: Segments | None) -> bytes:
    flags, body = _values(flat, floats, segments)
    return bytes([flags]) + body


def few_values(flat: np.ndarray) -> bool:
    """Whether words are likely to take a palette, are mostly zero, or are packed numbers: forms of a slab of their own."""
    if flat.itemsize == 1:
        return len(flat) > _GLANCE and _field_bits(flat) > 0
    zeros = len(flat) - np.count_nonzero(flat)
    return bool(zeros > _SPARSE_SHARE * len(flat)) or 8 * len(np.unique(flat[:_GLANCE])) < len(flat[:_GLANCE])


def to_fields(flat: np.ndarray, bits: int) -> np.ndarray:
    """Bytes as a stream of bits, lowest first, cut into numbers of `bits` bits, the last one filled up with zeros."""
    stream = np.unpackbits(flat, bitorder="little")
    stream = np.concatenate([stream, np.zeros(-len(stream) % bits, np.uint8)])
    return np.packbits(stream.reshape(-1, bits), axis=1, bitorder="little").ravel()


def from_fields(fields: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The `count` bytes of `to_fields`. Raises BadData if a number has more bits, or bits behind the last byte are set."""
    stream = np.unpackbits(fields[:, None], axis=1, bitorder="little")
    tail = stream[:, :bits].ravel()
    if stream[:, bits:].any() or tail[8 * count :].any():
        raise BadData("a field holds bits that it has no room for")
    return np.packbits(tail[: 8 * count], bitorder="little")


def _field_bits(flat: np.ndarray) -> int:
    """The width of packed numbers that promises the smallest code, or 0 for plain bytes."""
    sample = flat[: 210 * 1000]
    costs = {0: _share(sample) * len(sample)}
    for bits in _FIELD_BITS:
        fields = to_fields(sample, bits)
        costs[bits] = _share(fields) * len(fields)
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < _FIELDS_PAY * costs[0] else 0


def _share(symbols: np.ndarray) -> float:
    """Entropy, in bits per symbol."""
    chances = np.bincount(symbols) / len(symbols)
    chances = chances[chances > 0]
    return float(-(chances @ np.log2(chances)))


def _sparse(flat: np.ndarray, floats: bool, adaptive: bool) -> bytes:
    where = np.flatnonzero(flat)
    gaps = np.diff(where, prepend=-1) - 1
    value_counts = np.bincount(np.unique(flat[where], return_inverse=True)[1])
    chances = value_counts / len(where)
    value_bits = min(8.0 * flat.itemsize, float(-(chances @ np.log2(chances))))
    costs = {}
    for bits in _GAP_BITS:
        fillers = gaps >> bits
        counts = np.bincount(gaps & ((1 << bits) - 1), minlength=256)
        counts[(1 << bits) - 1] += fillers.sum()
        costs[bits] = estimate(counts) + int(fillers.sum()) * value_bits / 8
    bits = min(costs, key=costs.__getitem__)
    # a gap of f * 2^bits + r: f times 2^bits - 1 zeros and a stored zero, then r zeros
    fillers = gaps >> bits
    stored = len(where) + int(fillers.sum())
    at = np.cumsum(fillers + 1) - 1
    coded = np.full(stored, (1 << bits) - 1, np.uint8)
    coded[at] = gaps & ((1 << bits) - 1)
    values = np.zeros(stored, flat.dtype)
    values[at] = flat[where]
    segments = [(stored, 0)] if adaptive else None
    flags, body = _values(values, floats, segments)
    return bytes([flags | SPARSE]) + stored.to_bytes(4, "little") + encode_plane(coded, segments) + body


def _values(flat: np.ndarray, floats: bool, segments: Segments | None) -> tuple[int, bytes]:
    """Flags and bytes of elements without regard to zeros: a palette if there are few, or planes."""
    width = flat.itemsize
    if width == 1:
        return 0, encode_plane(flat, segments)
    rotated = floats and _rotation_pays(flat)
    turned = flat << 1 | flat >> (8 * width - 1) if rotated else flat
    by_byte = np.ascontiguousarray(turned).view(np.uint8).reshape(-1, width)
    planes = (encode_plane(np.ascontiguousarray(by_byte[:, i]), segments) for i in range(width))
    best = ROTATED * rotated, b"".join(planes)
    if len(np.unique(flat[:_GLANCE])) <= 256:
        colours, index = np.unique(flat, return_inverse=True)
        if len(colours) <= 256:
            if floats:  # in the order of their values, so that neighbours are near one another
                order = np.argsort(_in_order(colours), kind="stable")
                colours, index = colours[order], np.argsort(order, kind="stable")[index]
            body = bytes([len(colours) - 1]) + colours.tobytes() + encode_plane(index.astype(np.uint8), segments)
            best = min(best, (PALETTE, body), key=lambda form: len(form[1]))
    return best


def _in_order(words: np.ndarray) -> np.ndarray:
    """Words of IEEE floats, turned into words that stand in the order of the floats."""
    top = words.dtype.type(1 << (8 * words.itemsize - 1))
    return np.where(words & top, ~words, words | top)


def _rotation_pays(flat: np.ndarray) -> bool:
    top = 8 * flat.itemsize
    plain, turned = 0.0, 0.0
    for i in (top - 8, top - 16):
        plain += estimate(np.bincount((flat >> i & 255).astype(np.uint8), minlength=256))
        turned += estimate(np.bincount(((flat << 1 | flat >> (top - 1)) >> i & 255).astype(np.uint8), minlength=256))
    return turned < plain


def read_slab(data: memoryview, width: int, count: int) -> np.ndarray:
    """The `count` words, u1 to u8, of one slab, decoded with NumPy. Raises BadData."""
    if not data:
        raise BadData("a slab is truncated")
    flags = data[0]
    if flags > 15 or (flags & PALETTE and flags & ROTATED):
        raise BadData("a slab has an unknown form", found=flags)
    if flags & FIELDS:
        bits = data[1] if len(data) > 1 else 0
        if width != 1 or flags & (PALETTE | ROTATED) or not 1 <= bits <= 7:
            raise BadData("a slab has an unknown form", found=flags)
        fields = _read_elements(data[2:], flags & SPARSE, 1, -(-8 * count // bits))
        return from_fields(fields, bits, count)
    return _read_elements(data[1:], flags, width, count)


def _read_elements(data: memoryview, flags: int, width: int, count: int) -> np.ndarray:
    at, stored, where = 0, count, None
    if flags & SPARSE:
        stored = int.from_bytes(data[:4], "little")
        if len(data) < 4 or not 0 < stored <= count:
            raise BadData("a slab stores a wrong number of elements", expected=f"1 to {count}", found=stored)
        gaps, used = read_plane(data[4:], stored)
        at = 4 + used
        where = np.cumsum(gaps.astype(np.int64) + 1) - 1
        if where[-1] >= count:
            raise BadData("an index leads beyond the end of a slab")
    values, used = _read_values(data[at:], flags, width, stored)
    if at + used != len(data):
        raise BadData("a slab holds more than its elements", expected=f"{at + used} bytes", found=f"{len(data)} bytes")
    if where is None:
        return values
    dense = np.zeros(count, values.dtype)
    dense[where] = values
    return dense


def _read_values(data: memoryview, flags: int, width: int, count: int) -> tuple[np.ndarray, int]:
    if flags & PALETTE:
        colours = data[0] + 1 if data else 0
        at = 1 + colours * width
        if not data or at > len(data):
            raise BadData("a palette is truncated")
        index, used = read_plane(data[at:], count)
        if index.max() >= colours:
            raise BadData("a palette has no such element", expected=f"below {colours}", found=index.max())
        return np.frombuffer(data[1:at], f"<u{width}")[index], at + used
    at = 0
    by_byte = np.empty((count, width), np.uint8)
    for i in range(width):
        by_byte[:, i], used = read_plane(data[at:], count)
        at += used
    values = by_byte.reshape(-1).view(f"<u{width}")
    if flags & ROTATED:
        values = values >> 1 | values << (8 * width - 1)
    return values, at
