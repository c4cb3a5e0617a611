"""Planes: runs of byte symbols, each coded raw, as one repeated byte, by a Huffman code in interleaved streams, or adaptively.

A plane is cut into blocks of 66,048 symbols, a block into eight streams of consecutive symbols. The decoder in C runs
the streams in step; the one here, which reads the same bytes without a loop over symbols, follows all of them at once
by doubling: where the code after the next one starts is where the next one's next starts.
"""

from __future__ import annotations

import numpy as np

from onnxc.ir.errors import BadData

from .adaptive import Segments, encode_adaptive, read_adaptive
from .code import LONGEST, Code, candidate_pairs, fast_lengths, least_bits, plain_code, read_code

RAW, FILL, HUFFMAN, ADAPTIVE = 0, 1, 2, 3
BLOCK = 8 * 8256
STREAMS = 8
FEW = 1 << 13
"""A block of fewer symbols is one stream."""
_WORTH = 1 / 200
"""A code must save this share of the raw size: raw bytes decode at the speed of memory."""
_ADAPTIVE_PAYS = 0.997
"""Adaptive planes are taken where they shrink others to this share at least: they decode some hundred times more slowly."""
_STRIDE_BITS = 5


def encode_plane(symbols: np.ndarray, segments: Segments | None = None) -> bytes:
    """Code symbols, uint8 [n] with n at least 1: mode, size, body, by whichever mode is the smallest.

    segments: as `adaptive` has them; without them that mode is not tried.
    """
    counts = np.bincount(symbols, minlength=256)
    if np.count_nonzero(counts) == 1:
        return _framed(FILL, symbols[:1].tobytes())
    most = len(symbols) * (1 - _WORTH)
    body = _huffman(symbols, counts) if least_bits(counts) / 8 <= most else None
    mode, body = (RAW, symbols.tobytes()) if body is None or len(body) > most else (HUFFMAN, body)
    if segments is not None and least_bits(counts) / 8 <= most:
        adaptive = encode_adaptive(symbols, segments, int(len(body) * _ADAPTIVE_PAYS))
        mode, body = (mode, body) if adaptive is None else (ADAPTIVE, adaptive)
    return _framed(mode, body)


def _framed(mode: int, body: bytes) -> bytes:
    return bytes([mode]) + len(body).to_bytes(4, "little") + body


def estimate(counts: np.ndarray) -> float:
    """About the bytes that a plane of symbols with these counts, int64 [256], will take."""
    present = counts[counts > 0]
    total = present.sum()
    if len(present) <= 1:
        return 6.0
    return min(float(total), float(-(present @ np.log2(present / total))) / 8 + 33 + len(present) / 2)


def stream_starts(count: int) -> np.ndarray:
    """int64: where in a plane of `count` symbols the streams start."""
    blocks = np.arange(0, count, BLOCK)
    starts = []
    whole = blocks[: count // BLOCK]
    starts.append((whole[:, None] + np.arange(STREAMS) * (BLOCK // STREAMS)).ravel())
    if count % BLOCK:
        rest = count % BLOCK
        streams = STREAMS if rest >= FEW else 1
        starts.append(blocks[-1] + np.arange(streams) * -(-rest // streams))
    return np.concatenate(starts)


def _huffman(symbols: np.ndarray, counts: np.ndarray) -> bytes:
    starts = stream_starts(len(symbols))
    plain = plain_code(counts)
    best = (plain, plain.phrase_of(symbols, symbols), starts)
    cost = 8 * len(plain.to_bytes()) + int(counts[plain.symbols] @ plain.lengths)
    paired = candidate_pairs(counts)
    if len(paired):
        begins = _parse(symbols, paired, starts)
        follower = np.append(symbols[1:], 0)
        # the last symbol of a stream, if it begins a pair, takes any second symbol: the decoder drops it
        follower[np.append(starts[1:], len(symbols)) - 1] = counts.argmax()
        shape = Code(plain.symbols, paired, np.empty(0, np.uint8))
        phrases = shape.phrase_of(symbols[begins], follower[begins])
        seen = np.bincount(phrases, minlength=int(len(paired) * (len(plain.symbols) - 1) + len(plain.symbols)))
        if np.count_nonzero(seen) >= 2:
            lengths = fast_lengths(seen, least_bits(counts))
            code = Code(plain.symbols, paired, lengths.astype(np.uint8))
            bits = 8 * len(code.to_bytes()) + int(seen @ lengths)
            if bits < cost:
                best = (code, phrases, np.searchsorted(begins, starts))
    code, phrases, first = best
    return code.to_bytes() + _write(code, phrases, first, len(symbols))


def _parse(symbols: np.ndarray, paired: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64: where phrases begin. After a symbol that begins no pair, and at the start of a stream, phrases start anew;
    in a run of symbols that do, every second one begins a phrase."""
    marks = np.zeros(256, bool)
    marks[paired] = True
    index = np.arange(len(symbols), dtype=np.int64)
    anew = np.empty(len(symbols), bool)
    anew[1:] = ~marks[symbols[:-1]]
    anew[starts] = True
    since = index - np.maximum.accumulate(np.where(anew, index, 0))
    return np.flatnonzero(since & 1 == 0)


def _write(code: Code, phrases: np.ndarray, first: np.ndarray, count: int) -> bytes:
    """The blocks: sizes of the streams, then the streams, each on whole bytes. `first`: each stream's first phrase."""
    lengths = code.lengths[phrases].astype(np.int64)
    before = np.cumsum(lengths) - lengths
    totals = np.add.reduceat(lengths, first)
    sizes = (totals + 7) // 8
    blocks = -(-count // BLOCK)
    per_block = np.full(blocks, STREAMS)
    if len(first) != blocks * STREAMS:
        per_block[-1] = 1
    # bytes of headers and streams before each stream
    block_of = np.repeat(np.arange(blocks), per_block)
    headers = 2 * np.cumsum(per_block)[block_of]
    offsets = np.cumsum(sizes) - sizes + headers
    at = before + np.repeat(8 * offsets - before[first], np.diff(np.append(first, len(phrases))))
    total = int(sizes.sum() + 2 * len(first))
    # a code of 13 bits that starts anywhere in a word of 16 reaches into the next one at most: no two share a bit
    shifted = code.words[phrases].astype(np.int64) << (32 - LONGEST - (at & 15))
    words = np.bincount(at >> 4, shifted >> 16, total // 2 + 2)
    words[1:] += np.bincount(at >> 4, shifted & 0xFFFF, total // 2 + 2)[:-1]
    data = words.astype(">u2").view(np.uint8)[:total]
    rank = np.arange(len(first)) - (np.cumsum(per_block) - per_block)[block_of]
    first_of_block = np.cumsum(per_block) - per_block
    header_at = (offsets[first_of_block] - 2 * per_block)[block_of] + 2 * rank
    data[header_at] = sizes & 255
    data[header_at + 1] = sizes >> 8
    return data.tobytes()


def read_plane(data: memoryview, count: int) -> tuple[np.ndarray, int]:
    """The `count` symbols, uint8, of the plane at the start of `data`, and the bytes that it takes. Raises BadData."""
    if len(data) < 5:
        raise BadData("a plane is truncated")
    size = int.from_bytes(data[1:5], "little")
    body = data[5 : 5 + size]
    if len(body) != size:
        raise BadData("a plane is truncated", expected=f"{size} bytes", found=f"{len(body)} bytes")
    mode = data[0]
    if mode == HUFFMAN:
        return _read_huffman(body, count), 5 + size
    if mode == ADAPTIVE:
        return read_adaptive(body, count), 5 + size
    if mode not in (RAW, FILL):
        raise BadData("a plane has an unknown mode", expected="0 to 3", found=mode)
    expected = count if mode == RAW else 1
    if size != expected:
        raise BadData("a plane has a wrong size", expected=f"{expected} bytes", found=f"{size} bytes")
    symbols = np.frombuffer(body, np.uint8)
    return (symbols if mode == RAW else np.repeat(symbols, count)), 5 + size


def _read_huffman(body: memoryview, count: int) -> np.ndarray:
    code, used = read_code(body)
    out = np.empty(count, np.uint8)
    for start in range(0, count, BLOCK):
        symbols = min(BLOCK, count - start)
        streams = STREAMS if symbols >= FEW else 1
        if used + 2 * streams > len(body):
            raise BadData("a block is truncated")
        sizes = np.frombuffer(body[used : used + 2 * streams], "<u2").astype(np.int64)
        used += 2 * streams
        end = used + int(sizes.sum())
        if end > len(body):
            raise BadData("a block is truncated")
        _read_block(code, np.frombuffer(body[used:end], np.uint8), sizes, out[start : start + symbols])
        used = end
    if used != len(body):
        raise BadData("a plane holds more than its symbols", expected=f"{used} bytes", found=f"{len(body)} bytes")
    return out


def _read_block(code: Code, data: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> None:
    """Decode the streams of one block, bytes `sizes` each, into `out`."""
    bits = 8 * len(data)
    padded = np.concatenate([data, np.zeros(3, np.uint8)]).astype(np.int32)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    shifts = np.arange(24 - LONGEST, 16 - LONGEST, -1, dtype=np.int32)
    window = (three[:, None] >> shifts).ravel()[: bits + 1] & ((1 << LONGEST) - 1)
    lengths = code.lengths.astype(np.int32)[code.table]
    following = np.minimum(np.arange(bits + 1, dtype=np.int32) + lengths[window], bits)
    each = -(-len(out) // len(sizes))
    ends = 8 * np.cumsum(sizes)
    begins = _chase(following, ends - 8 * sizes, each)
    # the phrases of each stream up to its last symbol, and where their symbols go
    phrase = code.table[window[begins]]
    two = code.is_paired[code.first[phrase]]
    place = np.cumsum(1 + two, axis=1) - 1 - two
    wanted = np.minimum(len(out) - each * np.arange(len(sizes)), each)
    inside = place < wanted[:, None]
    last = np.count_nonzero(inside, axis=1) - 1
    rows = np.arange(len(sizes))
    final = begins[rows, last]
    stop = final + lengths[window[final]]
    if ((stop > ends) | (ends - stop >= 8)).any():
        raise BadData("a stream holds more or fewer bits than its symbols take")
    at = (place + (each * rows)[:, None])[inside]
    phrase, two = phrase[inside], two[inside]
    limit = np.repeat(each * rows + wanted, last + 1)
    out[at] = code.first[phrase]
    two &= at + 1 < limit
    out[at[two] + 1] = code.second[phrase[two]]


def _chase(following: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
    """int32 [streams, at least count]: the first positions of the chains i -> following[i] from each start."""
    jumps = [following]
    for _ in range(_STRIDE_BITS):
        jumps.append(jumps[-1][jumps[-1]])
    strides = np.empty((len(starts), -(-count >> _STRIDE_BITS) + 1), np.int32)
    strides[:, 0] = starts
    for i in range(1, strides.shape[1]):
        strides[:, i] = jumps[-1][strides[:, i - 1]]
    chain = strides[:, :, None]
    for jump in reversed(jumps[:-1]):
        chain = np.stack([chain, jump[chain]], axis=-1).reshape(*strides.shape, -1)
    return chain.reshape(len(starts), -1)
