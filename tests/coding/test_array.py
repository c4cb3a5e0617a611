"""Arrays come back bit for bit from both decoders, in whichever form was chosen, and damaged ones are refused."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxc.coding import decode, encode
from onnxc.coding.array import words
from onnxc.coding.native import numpy_decoder
from onnxc.coding.plane import BLOCK, FEW, FILL, HUFFMAN, RAW, encode_plane
from onnxc.coding.slab import FIELDS, PALETTE, ROTATED, SLAB, SPARSE, encode_slab, read_slab
from onnxc.ir.errors import BadData

RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=3 * BLOCK + 777)


def through(values, decoder):
    """What a decoder makes of one coded slab."""
    flat = words(values)
    out = np.empty(len(flat), flat.dtype)
    decoder(memoryview(encode_slab(flat, values.dtype.kind in "fV")), out)
    return out


def entropy(symbols):
    """Bits per symbol."""
    counts = np.unique(symbols, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p @ np.log2(p)))


def packed(numbers, bits):
    """Numbers of `bits` bits in a stream of bits, lowest first."""
    numbers = numbers.clip(0, 2**bits - 1).astype(np.uint8)
    return np.packbits(np.unpackbits(numbers[:, None], axis=1, count=bits, bitorder="little"), bitorder="little")


CASES = {
    "int8": np.round(NORMAL * 30).clip(-128, 127).astype(np.int8),
    "pairs": np.round(NORMAL * 1.5).astype(np.int8),
    "flat": RNG.integers(0, 200, 100_000).astype(np.uint8),
    "float32": NORMAL.astype(np.float32),
    "float16": NORMAL.astype(np.float16),
    "bfloat16": NORMAL.astype(ml_dtypes.bfloat16),
    "float64": NORMAL[:5000],
    "int32": np.arange(70_000, dtype=np.int32) ** 2,
    "int64": np.arange(70_000) - 35_000,
    "uint16": np.arange(70_000).astype(np.uint16),
    "palette": np.round(NORMAL * 5).astype(np.float32),
    "sparse": np.where(RNG.random(len(NORMAL)) < 0.93, 0, NORMAL).astype(np.float32),
    "sparse_bytes": np.where(RNG.random(len(NORMAL)) < 0.97, 0, NORMAL * 30).astype(np.int8),
    "sparse_palette": np.where(RNG.random(len(NORMAL)) < 0.9, 0, np.round(NORMAL * 5)).astype(np.float32),
    "packed5": packed(np.round(NORMAL * 3) + 16, 5),
    "packed3_odd": packed(np.round(NORMAL[:100_001] * 0.6) + 4, 3),
    "packed6_sparse": packed(np.where(RNG.random(len(NORMAL)) < 0.92, 0, np.round(NORMAL * 6) + 32), 6),
    "lonely": np.eye(1, 200_000, 190_001, dtype=np.float32)[0],
    "zeros": np.zeros(70_000, np.float64),
    "nans": np.array([np.nan, -0.0, 0.0, np.inf, -np.nan, 5e-324] * 300),
    "one": np.array([3.25], np.float32),
    "bools": RNG.random(9000) < 0.3,
    "matrix": RNG.normal(size=(30, 40, 5)).astype(np.float32),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_come_back_bit_for_bit(name, decoder):
    values = CASES[name]
    assert (through(values, decoder) == words(values)).all()


@pytest.mark.parametrize(
    "count", [1, 2, 3, 100, FEW - 1, FEW, FEW + 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + FEW, 2 * BLOCK]
)
@pytest.mark.parametrize("scale", [1.2, 3, 30])
def test_blocks_of_every_size(count, scale, decoder):
    values = np.round(NORMAL[:count] * scale).clip(-128, 127).astype(np.int8)
    assert (through(values, decoder) == words(values)).all()


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int16, np.float32, np.float64]), st.integers(1, 300)),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_array_comes_back(c_decoder, values, repeats, thin):
    values = np.tile(values, repeats)
    if thin:
        values = np.where(np.arange(len(values)) % 5, values.dtype.type(0), values)
    flat = words(values)
    assert (through(values, c_decoder) == flat).all()
    assert (read_slab(memoryview(encode_slab(flat, values.dtype.kind == "f")), flat.itemsize, len(flat)) == flat).all()


@pytest.mark.parametrize(
    "name, flags",
    [
        ("int8", 0),
        ("float32", ROTATED),
        ("palette", PALETTE),
        ("sparse", SPARSE | ROTATED),
        ("packed5", FIELDS),
        ("packed3_odd", FIELDS),
        ("packed6_sparse", FIELDS | SPARSE),
        ("bools", 0),
        ("sparse_palette", SPARSE | PALETTE),
    ],
)
def test_each_form_is_chosen_where_it_is_the_smallest(name, flags):
    values = CASES[name]
    assert encode_slab(words(values), values.dtype.kind == "f")[0] == flags


def test_modes_of_planes():
    assert encode_plane(RNG.integers(0, 256, 5000).astype(np.uint8))[0] == RAW
    assert encode_plane(np.full(5000, 9, np.uint8))[0] == FILL
    assert encode_plane(np.abs(CASES["pairs"]).view(np.uint8))[0] == HUFFMAN


@pytest.mark.parametrize("scale", [2.2, 2.5, 3, 4, 6, 10, 20, 40, 60])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_coded_size_is_within_one_per_cent_of_the_entropy_from_three_bits_on(kind, scale):
    values = getattr(np.random.default_rng(1), kind)(size=1 << 19) * scale
    symbols = np.round(values).clip(-127, 127).astype(np.int8).view(np.uint8)
    bits = entropy(symbols)
    assert bits >= 3
    coded = encode_plane(symbols)
    # mode and size, alphabet, pairs and nibbles of the lengths
    pairs, alphabet = coded[5 + 32], len(np.unique(symbols))
    tables = 5 + 33 + pairs + (pairs * alphabet + alphabet - pairs + 1) // 2
    assert len(coded) - tables <= 1.01 * bits * len(symbols) / 8


def test_deep_compression_is_small():
    pruned = np.where(np.abs(NORMAL) < 1.65, 0, np.round(NORMAL * 4) / 4).astype(np.float32)
    share = np.mean(pruned != 0)
    assert 0.05 < share < 0.15
    assert len(encode(pruned)) * 8 / len(pruned) < 0.85
    assert entropy(pruned) * 1.05 > len(encode(pruned)) * 8 / len(pruned)


def test_packed_numbers_take_their_entropy():
    numbers = np.round(NORMAL * 3).clip(-16, 15) + 16
    assert len(encode(packed(numbers, 5))) * 8 <= 1.015 * entropy(numbers) * len(numbers)
    many = packed(np.tile(numbers, 10), 5)
    assert len(many) > SLAB
    assert len(encode(many)) * 8 <= 1.015 * entropy(numbers) * 10 * len(numbers)


def test_slabs_follow_one_another():
    values = np.tile(CASES["int8"], 6)[: SLAB + 5]
    assert (decode(encode(values), np.int8, values.shape) == values).all()


def test_shape_and_type_are_given_back():
    values = CASES["matrix"]
    found = decode(encode(values), np.float32, values.shape)
    assert found.shape == values.shape and found.dtype == np.float32 and (found == values).all()
    assert (decode(encode(np.empty(0, np.float32))) == []).all()


@pytest.mark.parametrize("values", [np.zeros(3, np.complex128), np.array(["a"], object)])
def test_types_without_a_width_are_refused(values):
    with pytest.raises(BadData, match="cannot be coded"):
        encode(values)


def test_wrong_type_or_shape_is_refused():
    coded = encode(CASES["matrix"])
    with pytest.raises(BadData, match="another width, expected 4 bytes"):
        decode(coded, np.float64)
    with pytest.raises(BadData, match="another size, expected 6000 elements"):
        decode(coded, np.float32, (30, 40))


@pytest.mark.parametrize(
    "name",
    ["int8", "pairs", "float32", "sparse", "palette", "sparse_palette", "packed5", "packed6_sparse", "raw"],
)
def test_damaged_slabs_are_refused_or_read_alike(name, c_decoder):
    """Every damage gives an error or the same elements in both decoders; most give an error."""
    values = CASES.get(name, RNG.integers(0, 256, 3000).astype(np.uint8))[:12_000]
    flat = words(values)
    good = encode_slab(flat, values.dtype.kind == "f")
    rng = np.random.default_rng(3)
    refused = 0
    for i in range(60):
        bad = bytearray(good)
        at = int(rng.integers(0, min(len(bad), 120 if i % 2 else len(bad))))
        bad[at] ^= 1 << int(rng.integers(0, 8))
        data = memoryview(bytes(bad[: -1 - i // 6] if i % 6 == 0 else bad))
        found = []
        for read in (c_decoder, numpy_decoder):
            out = np.empty(len(flat), flat.dtype)
            try:
                read(data, out)
                found.append(out.tobytes())
            except BadData:
                found.append(None)
        assert found[0] == found[1]
        refused += found[0] is None
    assert refused > 5


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: b"", "truncated"),
        (lambda d: b"\x02" + d[1:], "of a format"),
        (lambda d: d[:1] + b"\x03" + d[2:], "of a format"),
        (lambda d: d[:4] + b"\xff" * 8 + d[12:], "truncated"),
        (lambda d: d[:-1], "truncated"),
        (lambda d: d + b"\0", "holds more"),
    ],
)
def test_a_damaged_array_is_refused_before_memory_is_taken(change, said):
    with pytest.raises(BadData, match=said):
        decode(change(encode(CASES["matrix"])))
