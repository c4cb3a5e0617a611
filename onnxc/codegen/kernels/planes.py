"""Products of few-bit integers from counts of bits: the algebra, the packed layouts and the borders. NumPy only.

Write x = h sum_i s_i 2^i b_i + d with b_i = +-1 and w = sum_j 2^j v_j with v_j = +-1 (bipolar weights). Over K products
sum b_i v_j = K - 2 popcount(B_i ^ V_j), so with S = sum_ij s_i 2^(i+j) popcount(B_i ^ V_j)

    sum x w = -2 h S + h K (sum_i s_i 2^i)(2^m - 1) + d sum w.

Bipolar x has h = 1, d = 0; from bits X_i = (b_i + 1) / 2 unsigned x has h = 1/2, d = (2^n - 1) / 2 and signed x (s_i = -1
for the highest plane) h = 1/2, d = -1/2. Other weights are sums of 0/1 planes W_j with signs t_j, and count ands:

    sum x w = S = sum_ij s_i t_j 2^(i+j) popcount(X_i & W_j), and for bipolar x 2 S - (2^n - 1) sum w.

So a product is `multiplier` * S + a constant per output channel. Where a window hangs over the border its taps there read
`pad_code`; if that is not the wanted value, the constant depends on which taps hang over: a table over classes of
rows and columns. Bit i of channel c stands in bit c % 64 of a word; the words' unused bits are 0 on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxc.codegen.kernels.spec import WORD, Encoding, KernelSpec, words


def packed_shape(spec: KernelSpec) -> tuple[int, ...]:
    """Shape of packed activations: planes, n, padded rows, padded columns, groups x words."""
    top, left, bottom, right = spec.pads
    line = spec.groups * words(spec.c // spec.groups)
    return (spec.activation.bits, spec.n, spec.h + top + bottom, spec.w + left + right, line)


def pad_code(encoding: Encoding, value: int) -> int:
    """The bits that padding is stored as: those of `value` if the encoding has it, else all zero, as for residual planes."""
    if encoding.levels != "residual" and encoding.low <= value <= encoding.high:
        if encoding.levels != "bipolar":
            return value % (1 << encoding.bits)
        if value % 2:
            return (value - encoding.low) // 2
    return 0


def integer_of(encoding: Encoding, code: int) -> int:
    """The integer that the bits of `code` stand for."""
    if encoding.levels == "bipolar":
        return 2 * code + encoding.low
    return code - (1 << encoding.bits) if code > encoding.high else code


def codes_of(encoding: Encoding, integers: np.ndarray) -> np.ndarray:
    """Integers -> the bits that stand for them, as uint8. Raises ValueError for what the encoding cannot hold."""
    integers = np.asarray(integers)
    whole = np.round(integers).astype(np.int64)
    bipolar = encoding.levels == "bipolar"
    fits = (whole == integers) & (whole >= encoding.low) & (whole <= encoding.high)
    if bipolar:
        fits &= whole % 2 != 0
    if not fits.all():
        raise ValueError(f"{integers[~fits].flat[0]} is no {encoding.text()} number")
    return ((whole - encoding.low) // 2 if bipolar else whole % (1 << encoding.bits)).astype(np.uint8)


def to_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (..., channels) -> (bits, ..., words) of uint64, channel c in bit c % 64."""
    channels = codes.shape[-1]
    full = words(channels) * WORD
    padded = np.zeros((*codes.shape[:-1], full), np.uint8)
    padded[..., :channels] = codes
    planes = [np.packbits((padded >> bit) & 1, axis=-1, bitorder="little").view("<u8") for bit in range(bits)]
    return np.stack(planes)


def pack_activations(spec: KernelSpec, integers: np.ndarray) -> np.ndarray:
    """Integers (n, h, w, c) -> what the kernel reads; the twin of the packing kernel."""
    top, left, bottom, right = spec.pads
    codes = codes_of(spec.activation, integers)
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    codes = np.pad(codes, around, constant_values=pad_code(spec.activation, spec.pad_value))
    grouped = codes.reshape(*codes.shape[:3], spec.groups, -1)
    return to_words(grouped, spec.activation.bits).reshape(packed_shape(spec))


def pack_weights(spec: KernelSpec, block: int, weights: np.ndarray, bits: int = WORD) -> np.ndarray:
    """Integers (oc, c/groups, kh, kw) -> (groups, blocks, planes, kh, kw x words, block), words of `bits` bits, 64 or 32.

    The last block starts earlier and repeats channels where `block` does not divide oc/groups.
    """
    channels = spec.oc // spec.groups
    starts = np.minimum(np.arange(-(-channels // block)) * block, channels - block)
    rows = starts[:, None] + np.arange(block)
    codes = codes_of(spec.weight, weights).transpose(0, 2, 3, 1)
    planes = to_words(codes, spec.weight.bits).view(f"<u{bits // 8}")  # planes, oc, kh, kw, words
    planes = planes[..., : -(-codes.shape[-1] // bits)]
    grouped = planes.reshape(spec.weight.bits, spec.groups, channels, spec.kh, -1)
    return np.ascontiguousarray(grouped[:, :, rows].transpose(1, 2, 0, 4, 5, 3))


def counts_xor(spec: KernelSpec) -> bool:
    """Whether a product counts exclusive-ors; it counts ands otherwise."""
    return spec.weight.levels == "bipolar"


def negative(encoding: Encoding, plane: int) -> bool:
    """Whether a plane counts negatively."""
    return encoding.levels == "signed" and plane == encoding.bits - 1


def multiplier(spec: KernelSpec) -> int:
    """What S is multiplied by."""
    signs = spec.activation.levels in ("bipolar", "residual")
    if counts_xor(spec):
        return -2 if signs else -1
    return 2 if signs else 1


def largest(spec: KernelSpec) -> int:
    """A bound of every sum of products and of the constants in it."""
    depth = spec.kh * spec.kw * (spec.c // spec.groups)
    x, w = (max(-e.low, e.high) for e in (spec.activation, spec.weight))
    return 4 * depth * x * w


@dataclass(frozen=True)
class Border:
    """Classes of output positions along one axis: `before` at the start, `after` at the end, one for all between.

    `inside[class, tap]` says whether a tap reads the tensor and not its padding.
    """

    before: int
    after: int
    inside: np.ndarray


def border(extent: int, out: int, taps: int, stride: int, dilation: int, pad: int) -> Border:
    """The classes of one axis; every position is its own where no window lies wholly inside."""
    at = np.arange(out)[:, None] * stride + np.arange(taps) * dilation - pad
    inside = (at >= 0) & (at < extent)
    whole = np.flatnonzero(inside.all(axis=1))
    if not whole.size:
        return Border(out - 1, 0, inside)
    before, after = int(whole[0]), out - 1 - int(whole[-1])
    return Border(before, after, np.concatenate([inside[: before + 1], inside[out - after :]]))


def borders(spec: KernelSpec) -> tuple[Border, Border]:
    """The classes of rows and of columns; one of each where the padding reads as it should."""
    a = spec.activation
    exact = a.levels != "residual" and integer_of(a, pad_code(a, spec.pad_value)) == spec.pad_value
    if exact or not any(spec.pads):
        return Border(0, 0, np.ones((1, spec.kh), bool)), Border(0, 0, np.ones((1, spec.kw), bool))
    rows = border(spec.h, spec.oh, spec.kh, spec.stride[0], spec.dilation[0], spec.pads[0])
    return rows, border(spec.w, spec.ow, spec.kw, spec.stride[1], spec.dilation[1], spec.pads[1])


def table_shape(spec: KernelSpec) -> tuple[int, int, int]:
    """Shape of `table`."""
    rows, columns = borders(spec)
    return (len(rows.inside), len(columns.inside), spec.oc)


def table(spec: KernelSpec, weights: np.ndarray) -> np.ndarray:
    """The constants to be added to multiplier * S: int64 (row classes, column classes, oc)."""
    step = max(
        1, (1 << 18) // (spec.kh * spec.kw * (spec.c // spec.groups))
    )  # weights may be unpacked as they are read
    parts = [np.asarray(weights[i : i + step]).sum(axis=1, dtype=np.int64) for i in range(0, len(weights), step)]
    sums = np.concatenate(parts)  # oc, kh, kw
    total = sums.sum(axis=(1, 2))
    a = spec.activation
    depth = spec.kh * spec.kw * (spec.c // spec.groups)
    if not counts_xor(spec):
        constant = -((1 << a.bits) - 1) * total if a.levels == "bipolar" else np.zeros_like(total)
    else:
        signs = sum(-(1 << i) if negative(a, i) else 1 << i for i in range(a.bits))
        twice = (
            depth * signs * ((1 << spec.weight.bits) - 1)
            + {"unsigned": signs, "signed": -1, "bipolar": 0}[a.levels] * total
        )
        constant = twice if a.levels == "bipolar" else twice // 2
    wrong = spec.pad_value - integer_of(a, pad_code(a, spec.pad_value))
    return constant + wrong * outside_sums(spec, sums)


def outside_sums(spec: KernelSpec, sums: np.ndarray) -> np.ndarray:
    """Of `sums` (oc, kh, kw), what the taps that hang over have in each class: (row classes, column classes, oc)."""
    rows, columns = borders(spec)
    outside = 1 - np.einsum("ri,cj->rcij", rows.inside.astype(np.int64), columns.inside.astype(np.int64))
    return np.einsum("rcij,oij->rco", outside, sums)


def schedule_pairs(spec: KernelSpec) -> list[list[tuple[int, int, bool]]]:
    """Pairs of planes (activation, weight, negative) by falling i + j: between two lists the sums are doubled."""
    a, w = spec.activation, spec.weight
    levels = []
    for level in range(a.bits + w.bits - 2, -1, -1):
        planes = range(max(0, level - w.bits + 1), min(a.bits - 1, level) + 1)
        levels.append([(i, level - i, negative(a, i) != negative(w, level - i)) for i in planes])
    return levels
