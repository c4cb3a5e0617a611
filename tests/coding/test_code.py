"""Huffman codes: optimal, length-limited, complete, and the same after a way through bytes."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.coding.code import LONGEST, Code, candidate_pairs, code_lengths, plain_code, read_code
from onnxc.ir.errors import BadData


def huffman_cost(counts):
    """Bits of an unlimited Huffman code, by the textbook."""
    heap = [int(c) for c in counts if c]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    return cost


def limited_cost(counts, limit):
    """Bits of the best code of at most `limit` bits, by trying all lists of lengths that meet Kraft's equality."""
    counts = sorted((int(c) for c in counts if c), reverse=True)

    def best(i, least, space):
        if i == len(counts):
            return 0 if space == 0 else float("inf")
        costs = (
            counts[i] * n + best(i + 1, n, space - (1 << (limit - n)))
            for n in range(least, limit + 1)
            if space >= 1 << (limit - n)
        )
        return min(costs, default=float("inf"))

    return best(0, 1, 1 << limit)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=200).filter(lambda c: sum(x > 0 for x in c) > 1))
def test_lengths_cost_what_huffman_does_where_the_limit_is_wide(counts):
    counts = np.array(counts)
    lengths = code_lengths(counts, 40)
    assert counts @ lengths == huffman_cost(counts)
    assert ((lengths > 0) == (counts > 0)).all()


@given(st.lists(st.integers(1, 500), min_size=2, max_size=7), st.integers(3, 5))
def test_lengths_are_the_best_under_the_limit(counts, limit):
    counts = np.array(counts)
    lengths = code_lengths(counts, limit)
    assert lengths.max() <= limit
    assert counts @ lengths == limited_cost(counts, limit)


@pytest.mark.parametrize("counts, limit", [([1, 1, 1, 1, 1], 2), ([5], 8), ([], 8)])
def test_no_code_where_there_is_none(counts, limit):
    with pytest.raises(ValueError, match="no code"):
        code_lengths(np.array(counts, np.int64), limit)


def fibonacci_code():
    counts = np.zeros(256, np.int64)
    a, b = 1, 1
    for i in range(40):
        counts[i * 3] = a
        a, b = b, a + b
    return plain_code(counts)


def test_a_table_says_of_every_window_which_phrase_it_begins_with():
    code = fibonacci_code()
    assert code.lengths.max() >= 11
    for phrase in np.flatnonzero(code.lengths):
        tail = LONGEST - int(code.lengths[phrase])
        word = int(code.words[phrase])
        assert word & ((1 << tail) - 1) == 0
        assert (code.table[word : word + (1 << tail)] == phrase).all()


@pytest.mark.parametrize("paired", [[], [3], [0, 3, 6]])
def test_a_code_comes_back_from_its_bytes(paired):
    plain = fibonacci_code()
    shape = Code(plain.symbols, np.array(paired, np.uint8), np.empty(0, np.uint8))
    counts = np.random.default_rng(0).integers(0, 100, len(shape.first))
    code = Code(plain.symbols, shape.paired, code_lengths(counts, LONGEST).astype(np.uint8))
    data = code.to_bytes()
    found, used = read_code(memoryview(data + b"more"))
    assert used == len(data)
    assert (found.lengths == code.lengths).all() and (found.words == code.words).all()
    phrases = np.arange(len(code.first))
    assert (code.phrase_of(code.first, code.second) == phrases).all()
    assert sorted(set(code.first[np.array(code.second) > 0])) == paired


def test_pairs_are_taken_where_they_pay_and_only_there():
    skewed = np.zeros(256, np.int64)
    skewed[:4] = [700_000, 100_000, 100_000, 100_000]
    even = np.zeros(256, np.int64)
    even[:16] = 60_000
    assert 0 in candidate_pairs(skewed)
    assert len(candidate_pairs(even)) == 0


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: d[:20], "truncated"),
        (lambda d: d[:-3], "truncated"),
        (lambda d: d[:32] + b"\xff" + d[33:], "does not hold a code"),
        (lambda d: d[:32] + b"\x01\x01" + d[33:] + bytes(99), "pairs a symbol"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "no complete prefix code"),
        (lambda d: d[:33] + b"\xff" + d[34:], "no complete prefix code"),
    ],
)
def test_a_damaged_table_is_refused(change, said):
    with pytest.raises(BadData, match=said):
        read_code(memoryview(change(fibonacci_code().to_bytes())))
