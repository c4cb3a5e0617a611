"""Adaptive planes: both decoders give back what the encoder in C wrote, and refuse what it did not write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.coding.adaptive import HISTORY, can_encode, encode_adaptive, read_adaptive
from onnxc.coding.plane import ADAPTIVE, encode_plane
from onnxc.coding.slab import encode_slab
from onnxc.ir.errors import BadData

pytestmark = pytest.mark.skipif(not can_encode(), reason="onnxc was installed without a compiler")
RNG = np.random.default_rng(3)


def coded(symbols, segments):
    """A slab of bytes whose plane is adaptive, whatever it costs."""
    body = encode_adaptive(symbols, segments, 1 << 24)
    return bytes([0, ADAPTIVE]) + len(body).to_bytes(4, "little") + body


def through(slab, count, decoder, width=1):
    out = np.empty(count, f"<u{width}")
    decoder(memoryview(slab), out)
    return out


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, HISTORY + 9)), min_size=1, max_size=5),
    st.sampled_from(["normal", "uniform", "few", "one"]),
    st.integers(0, 2**32 - 1),
)
def test_both_decoders_give_the_symbols_back(c_decoder, segments, kind, seed):
    rng = np.random.default_rng(seed)
    count = sum(length for length, _ in segments)
    symbols = {
        "normal": rng.normal(0, rng.uniform(0.3, 60), count).round().astype(np.int8).view(np.uint8),
        "uniform": rng.integers(0, 256, count, np.uint8),
        "few": rng.choice(rng.integers(0, 256, 3, np.uint8), count),
        "one": np.full(count, rng.integers(256), np.uint8),
    }[kind]
    slab = coded(symbols, segments)
    assert (through(slab, count, c_decoder) == symbols).all()
    assert (read_adaptive(memoryview(slab)[6:], count) == symbols).all()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("zeros", [0, 0.9])
def test_slabs_of_every_form_and_width(c_decoder, width, zeros):
    spread = np.repeat(np.exp(RNG.uniform(0, np.log(30), 70)), 1000)
    values = (RNG.normal(size=70_000) * spread).round().clip(-120, 120) * (RNG.random(70_000) >= zeros)
    values = values.astype(f"<i{width}")
    flat = values.view(f"<u{width}")
    slab = encode_slab(flat, False, [(30_000, 576), (40_000, 9)])
    assert len(slab) < len(encode_slab(flat, False))
    assert (through(slab, len(flat), c_decoder, width) == flat).all()


def test_it_learns_that_rows_differ_in_width():
    """Rows whose spread differs by 30 are coded near the entropy of each, not near that of their mixture."""
    rng = np.random.default_rng(4)
    spread = np.repeat(np.exp(rng.uniform(0, np.log(30), 64)), 576)
    symbols = (rng.normal(size=64 * 576) * spread).round().clip(-128, 127).astype(np.int8).view(np.uint8)
    of_rows = (
        np.log2(spread * np.sqrt(2 * np.pi * np.e)).sum() / 8
    )  # of normal numbers, rounded, each of a known spread
    plain, adaptive = encode_plane(symbols), encode_plane(symbols, [(len(symbols), 576)])
    assert len(plain) > 1.1 * of_rows and len(adaptive) < 1.05 * of_rows


def test_a_code_takes_no_more_than_it_may():
    symbols = RNG.integers(0, 256, 1000, np.uint8)
    whole = encode_adaptive(symbols, [(1000, 0)], 1 << 20)
    assert encode_adaptive(symbols, [(1000, 0)], len(whole)) == whole
    assert encode_adaptive(symbols, [(1000, 0)], len(whole) - 1) is None
    assert encode_adaptive(symbols, [(1000, 0)], 3) is None


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda b: b[:3], "truncated"),
        (lambda b: b[:2] + b"\x09" + b[3:], "unknown form"),
        (lambda b: b[:3] + b"\xff" + b[4:], "unknown form"),
        (lambda b: b[:4] + b"\xe9\x07\x00" + b[7:], "do not make it up"),
        (lambda b: b[:4] + b"\x00\x00" + b[6:], "do not make it up"),
        (lambda b: b[:4] + b"\xff\xff\xff\xff\xff" + b[9:], "unknown form"),
        (lambda b: b + b"junk!", "more than its symbols"),
    ],
)
def test_damage_is_refused_by_both(c_decoder, spoil, said):
    symbols = RNG.normal(0, 3, 1000).round().astype(np.int8).view(np.uint8)
    body = spoil(encode_adaptive(symbols, [(1000, 9)], 1 << 20))
    with pytest.raises(BadData, match=said):
        read_adaptive(memoryview(body), 1000)
    with pytest.raises(BadData):
        through(bytes([0, ADAPTIVE]) + len(body).to_bytes(4, "little") + body, 1000, c_decoder)
