"""Length-limited canonical Huffman codes over phrases of one or two symbols.

A plain Huffman code spends a whole number of bits on each symbol; with entropies of three to five bits that costs up to
two per cent. Here the frequent symbols (`paired`) begin phrases of two: a symbol of `paired` takes whatever follows it
into its phrase, every other symbol is a phrase alone. The phrases are a complete prefix-free parse, and one whole
number of bits now serves two symbols (Cover and Thomas, Elements of Information Theory, section 5.4: codes of blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxc.ir.errors import BadData

LONGEST = 13
"""No code has more bits."""
MAX_PHRASES = 4096
_LIMITS = (11, 12, 13)
"""Bits of a decoder's look-up: the fewer, the faster."""
_NEAR = 1.007
"""A limit under which a code takes at most this times the entropy is wide enough: the smallest such decodes fastest."""
_ENOUGH = 1.009
"""Where single symbols take at most this times the entropy, no pairs are tried."""
_TRIED_PAIRS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 23, 32, 64)


def code_lengths(counts: np.ndarray, limit: int) -> np.ndarray:
    """Lengths of an optimal prefix code with no code longer than `limit` bits.

    counts: int64 [n], n at least 2 of them above zero. Returns int64 [n]; absent symbols get 0.
    Package-merge (Larmore and Hirschberg 1990), whole lists at a time: the list of a level is the leaves merged with
    the pairs of the list below it. Of the topmost list the cheapest 2n - 2 items are taken; a taken leaf adds one bit
    to its symbol, a taken pair takes two items of the list below.
    """
    present = np.flatnonzero(counts)
    order = present[np.argsort(counts[present], kind="stable")]
    leaves = counts[order].astype(np.float64)
    n = len(leaves)
    if not 2 <= n <= 1 << limit:
        raise ValueError(f"no code of at most {limit} bits has {n} words")
    is_leaf, merged = [], leaves
    for level in range(limit):
        if level:
            even = merged[: len(merged) // 2 * 2]
            both = np.concatenate([leaves, even[0::2] + even[1::2]])
            rank = np.argsort(both, kind="stable")
            merged = both[rank]
            is_leaf.append(rank < n)
        else:
            is_leaf.append(np.ones(n, bool))
    lengths = np.zeros(len(counts), np.int64)
    taken = 2 * n - 2
    for leaf in reversed(is_leaf):
        chosen = int(np.count_nonzero(leaf[:taken]))
        lengths[order[:chosen]] += 1
        taken = 2 * (taken - chosen)
    return lengths


@dataclass(frozen=True, eq=False)
class Code:
    """A code: its alphabet, the symbols that begin phrases of two, and the length of every phrase's code.

    symbols: uint8 [a], ascending; paired: uint8 [k], some of them; lengths: uint8 [k * a + a - k], in the order of
    `first` and `second`.
    """

    symbols: np.ndarray
    paired: np.ndarray
    lengths: np.ndarray

    @cached_property
    def is_paired(self) -> np.ndarray:
        """bool [256], by symbol."""
        marks = np.zeros(256, bool)
        marks[self.paired] = True
        return marks

    @cached_property
    def _starts(self) -> np.ndarray:
        """int64 [a + 1]: the number of the first phrase of each symbol of the alphabet."""
        each = np.where(self.is_paired[self.symbols], len(self.symbols), 1)
        return np.concatenate([[0], np.cumsum(each)])

    @cached_property
    def first(self) -> np.ndarray:
        """uint8 [phrases]: the first symbol of each phrase, ascending."""
        return np.repeat(self.symbols, np.diff(self._starts))

    @cached_property
    def second(self) -> np.ndarray:
        """uint8 [phrases]: the second symbol, ascending within the same first one; 0 where there is none."""
        within = np.arange(self._starts[-1]) - np.repeat(self._starts[:-1], np.diff(self._starts))
        return np.where(self.is_paired[self.first], self.symbols[within], 0).astype(np.uint8)

    @cached_property
    def words(self) -> np.ndarray:
        """uint32 [phrases]: the code of each phrase, left-aligned in thirteen bits."""
        order = self._canonical()
        spans = (1 << LONGEST) >> self.lengths[order].astype(np.int64)
        words = np.zeros(len(self.lengths), np.uint32)
        words[order] = np.cumsum(spans) - spans
        return words

    @cached_property
    def table(self) -> np.ndarray:
        """int32 [8192]: the phrase whose code the index begins with, highest bit first."""
        order = self._canonical()
        spans = (1 << LONGEST) >> self.lengths[order].astype(np.int64)
        return np.repeat(order, spans).astype(np.int32)

    def _canonical(self) -> np.ndarray:
        present = np.flatnonzero(self.lengths)
        return present[np.argsort(self.lengths[present], kind="stable")]

    def phrase_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """int64: the number of the phrase; `second` counts only where `first` is paired."""
        rank = np.zeros(256, np.int64)
        rank[self.symbols] = np.arange(len(self.symbols))
        start = np.zeros(256, np.int64)
        start[self.symbols] = self._starts[:-1]
        if not len(self.paired):
            return start[first]
        return start[first] + np.where(self.is_paired[first], rank[second], 0)

    def to_bytes(self) -> bytes:
        """The table as it is stored: alphabet as 256 bits, number and list of paired symbols, lengths as nibbles."""
        bits = np.zeros(256, np.uint8)
        bits[self.symbols] = 1
        nibbles = np.zeros(len(self.lengths) + 1 & ~1, np.uint8)
        nibbles[: len(self.lengths)] = self.lengths
        packed = nibbles[0::2] | nibbles[1::2] << 4
        alphabet = np.packbits(bits, bitorder="little")
        return alphabet.tobytes() + bytes([len(self.paired)]) + self.paired.tobytes() + packed.tobytes()


def read_code(data: memoryview) -> tuple[Code, int]:
    """The code at the start of `data` and the bytes that it takes. Raises BadData if it is no complete prefix code."""
    if len(data) < 33:
        raise BadData("a code table is truncated")
    symbols = np.flatnonzero(np.unpackbits(np.frombuffer(data[:32], np.uint8), bitorder="little")).astype(np.uint8)
    pairs = data[32]
    paired = np.frombuffer(data[33 : 33 + pairs], np.uint8)
    phrases = pairs * len(symbols) + len(symbols) - pairs
    end = 33 + pairs + (phrases + 1) // 2
    if pairs > len(symbols) or phrases > MAX_PHRASES:
        raise BadData("a code table does not hold a code", expected=f"at most {MAX_PHRASES} phrases", found=phrases)
    if end > len(data):
        raise BadData("a code table is truncated")
    if len(np.unique(paired)) != pairs or not np.isin(paired, symbols).all():
        raise BadData("a code table pairs a symbol twice, or one that it does not hold")
    packed = np.frombuffer(data[33 + pairs : end], np.uint8)
    lengths = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:phrases]
    spans = np.where(lengths, (1 << LONGEST) >> lengths.astype(np.int64), 0).sum()
    if lengths.max(initial=0) > LONGEST or spans != 1 << LONGEST:
        raise BadData("code lengths are no complete prefix code")
    return Code(symbols, paired, lengths), end


def least_bits(counts: np.ndarray) -> float:
    """The entropy of symbols with these counts, in bits, times their number."""
    present = counts[counts > 0]
    return float(present @ np.log2(present.sum() / present))


def fast_lengths(counts: np.ndarray, least: float) -> np.ndarray:
    """`code_lengths` under the smallest limit that brings the symbols near to `least` bits, else under the largest."""
    for limit in _LIMITS:
        if np.count_nonzero(counts) <= 1 << limit:
            lengths = code_lengths(counts, limit)
            if counts @ lengths <= _NEAR * least:
                break
    return lengths


def plain_code(counts: np.ndarray) -> Code:
    """The code of single symbols for counts, int64 [256], of which at least two are above zero."""
    symbols = np.flatnonzero(counts).astype(np.uint8)
    lengths = fast_lengths(counts[symbols], least_bits(counts))
    return Code(symbols, np.empty(0, np.uint8), lengths.astype(np.uint8))


def candidate_pairs(counts: np.ndarray) -> np.ndarray:
    """The paired symbols that promise the smallest code for independent symbols of these counts: uint8 [k], k >= 0.

    Phrases begin independently of what came before, so that phrase (a, b) has probability p(a) p(b), a phrase has
    1 + p(paired) symbols on average, and the cost of a symbol is the quotient of mean code length and that.
    """
    symbols = np.flatnonzero(counts)
    total = counts.sum()
    p = counts[symbols] / total
    order = np.argsort(-p, kind="stable")
    lengths = code_lengths(counts[symbols], LONGEST)
    best, cost = 0, float(lengths @ p) * total + 4 * len(symbols)
    least = least_bits(counts)
    for k in sorted({min(k, len(symbols)) for k in _TRIED_PAIRS}):
        phrases = k * len(symbols) + len(symbols) - k
        if cost <= _ENOUGH * least or phrases > MAX_PHRASES // 2 or least + 4 * phrases > cost:
            break
        q = np.concatenate([np.outer(p[order[:k]], p).ravel(), p[order[k:]]])
        # what is expected less than once most likely does not occur
        expected = np.rint(q * (total / (1 + p[order[:k]].sum()))).astype(np.int64)
        if np.count_nonzero(expected) < 2:
            continue
        bits = float(code_lengths(expected, LONGEST) @ expected) + 4 * phrases + 8 * k
        if bits < cost:
            best, cost = k, bits
    return np.sort(symbols[order[:best]]).astype(np.uint8)
