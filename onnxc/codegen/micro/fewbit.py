"""Family micro.bits: products of few bits by the C code of `runtime/c/micro_bits.h`, and what packs and pools those.

A word has the bits of 32 output channels for one input channel, where there are so many, and 32 counters stand side by side ("slices"),
else those of 32 input channels. Carry-save adders take three operations for a word then, and thresholds, of a byte where a layer's lie
close enough, are compared for 32 channels at once. Windows that hang over the border count the
taps within alone (bipolar layers, where padding is zero): with c channels a tap that is missing takes c off the constant,

    sum = c taps_within - 2 S >= t    is    S <= floor((c taps - t) / 2) - c missing / 2,    c even,

so that no table of border classes is needed. A channel whose bit is set below its threshold gets the opposite weights: S becomes
c taps - S.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.bits import check_bits
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import CHANNEL_STEPS, Detail, KernelSpec, PackSpec, PoolSpec, Refusal, Schedule, words
from onnxc.codegen.kernels.thresholds import ALWAYS
from onnxc.codegen.kernels.tile import operands as epilogue_operands
from onnxc.codegen.micro import fields
from onnxc.codegen.micro.calls import Micro, stub
from onnxc.codegen.micro.fixed import c_float
from onnxc.codegen.target import Target

NAME, FIELDS = "micro.bits", "micro.bits.helium"
WORD = 32
SLICES, CHANNELS, PRODUCTS = Detail("slices"), Detail("channels"), Detail("products")  # how words of weights lie
SIXTEEN, MOST_LEVELS = 16, 16
XOR, AND, WITHIN = "ONNXC_XOR", "ONNXC_AND", "ONNXC_WITHIN"
STEPS = {
    "bias": "ONNXC_ADD", "add": "ONNXC_ADD", "mul": "ONNXC_MUL", "relu": "ONNXC_RELU", "clip": "ONNXC_CLIP",
    "leaky_relu": "ONNXC_LEAKY", "prelu": "ONNXC_PRELU", "residual": "ONNXC_ADD_TENSOR", "add_scalar": "ONNXC_ADD_ONE",
    "mul_scalar": "ONNXC_MUL_ONE",
}  # fmt: skip
MOST_OPERANDS = 4
BY = {SLICES: "onnxc_by_slice", CHANNELS: "onnxc_by_channel"}
MOST_PLANES = 8
MOST_PAIRS = 3  # of planes: from there on multiplication is faster
WIDTHS = {1: "uint8", 2: "int16", 4: "int32"}
SLICED = 8  # bits of thresholds that lie bit by bit, or 16


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed activations with packed weights, whose epilogue is of steps that the C code knows."""
    words = target.fpu and not target.helium and _multiplied(spec)  # Helium multiplies bytes
    detail = PRODUCTS if words else SLICES if _sliced(spec) else CHANNELS
    return _refusal(spec, target) or Schedule(NAME, 1, 1, 1, detail)


def schedule_fields(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes the same where Helium multiplies fields of bytes."""
    refusal, detail = _refusal(spec, target), fields.detail(spec)
    if refusal is None and (not target.helium or detail is None):
        why = (
            "is for Helium" if not target.helium else "takes no groups, no residual planes and no numbers beyond a byte"
        )
        return Refusal(FIELDS, why)
    return refusal or Schedule(FIELDS, 1, 1, 1, detail)


def _refusal(spec: KernelSpec, target: Target) -> Refusal | None:
    if not target.micro:
        return Refusal(NAME, "is for processors without vectors")
    refusal = check_bits(NAME, spec)
    if refusal:
        return refusal
    unknown = [step[0] for step in spec.epilogue if step[0] not in STEPS and step[0] != "threshold"]
    reason = ""
    if spec.activation.levels == "residual":
        reason = "takes no residual planes"
    elif unknown:
        reason = f"does not know the step {unknown[0]}"
    elif len(epilogue_operands(spec)) > MOST_OPERANDS:
        reason = f"has more than {MOST_OPERANDS} operands"
    elif spec.source is not None or not spec.weight_constant:
        reason = "reads packed activations and constant weights"
    elif spec.packed is not None and spec.packed.encoding.bits > MOST_PLANES:
        reason = f"packs {MOST_PLANES} planes at most"
    elif max(spec.n, spec.h, spec.w, spec.c, spec.oc, spec.oh, spec.ow, *planes.packed_shape(spec)) > 32767:
        reason = "has an extent beyond 16 bits"
    return Refusal(NAME, reason) if reason else None


def _multiplied(spec: KernelSpec) -> bool:
    """Whether 16-bit products take less than counts: of three pairs of planes and more, where smlad is."""
    few = (
        spec.weight.bits in (1, 2, 4)
        and spec.activation.bits * spec.weight.bits >= MOST_PAIRS
        and spec.activation.bits <= MOST_PLANES
    )
    plain = not planes.counts_xor(spec) and spec.activation.levels == "unsigned"
    return few and plain and spec.groups == 1 and spec.c % WORD == 0 and spec.oc % 2 == 0


def _sliced(spec: KernelSpec) -> bool:
    channels, outputs = spec.c // spec.groups, spec.oc // spec.groups
    return channels % SIXTEEN == 0 and outputs % WORD == 0 and spec.kh * spec.kw * channels < 1 << MOST_LEVELS


def counts_within(spec: KernelSpec) -> bool:
    """Whether windows that hang over the border count the taps within alone."""
    rows, columns = planes.borders(spec)
    classes = len(rows.inside) * len(columns.inside)
    plain = planes.counts_xor(spec) and spec.activation.levels == "bipolar" and spec.pad_value == 0
    return plain and classes > 1 and (spec.c // spec.groups) % 2 == 0


def inside(spec: KernelSpec) -> int:
    """What a tap adds to the constant of a bipolar layer."""
    return spec.c // spec.groups * ((1 << spec.activation.bits) - 1) * ((1 << spec.weight.bits) - 1)


def _tabled(spec: KernelSpec) -> bool:
    """Whether constants differ between channels or classes of the border."""
    plain = planes.counts_xor(spec) and spec.activation.levels == "bipolar"
    rows, columns = planes.borders(spec)
    return not plain or (len(rows.inside) * len(columns.inside) > 1 and not counts_within(spec))


def tables(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> list[np.ndarray]:
    """The constants of `planes.table` in as few bytes as hold all of such a layer, if they are not one number."""
    return [planes.table(spec, weights).astype(WIDTHS[_constant_bytes(spec)])] if _tabled(spec) else []


def _constant_bytes(spec: KernelSpec) -> int:
    return 2 if planes.largest(spec) < 1 << 15 else 4


def settle(form: Any, slices: bool = True) -> Any:
    """A few-bit kernel that compares, with thresholds as the C code reads them: its step is ("threshold", flips, bytes, base). Without
    `slices` none are compared bit by bit."""
    spec = form.spec
    if spec.epilogue[:1] not in ((("threshold", False),), (("threshold", True),)):
        return form
    found, weights = form.tables[0].astype(np.int64), form.weight
    flip = form.tables[1] if len(form.tables) > 1 else np.zeros(spec.oc, np.int32)
    taps, depth = spec.kh * spec.kw, spec.c // spec.groups
    if counts_within(spec):
        found = _inner(spec, found, flip, np.asarray(weights))
    if flip.any() and _one_count(spec):
        falls = flip != 0
        found = np.where(falls, depth * taps + 1 + found, found)  # -1 - S <= T with S = c taps - S'
        weights, flip = np.asarray(weights) * np.where(falls, -1, 1).astype(np.int8)[:, None, None, None], flip * 0
    if _one_count(spec):  # a count is within these
        found = np.where(found < 0, -ALWAYS, np.where(found >= depth * taps, ALWAYS, found))
    finite = found[np.abs(found) < ALWAYS]
    low, high = (int(finite.min()), int(finite.max())) if finite.size else (0, 0)
    original = found
    width, base = (1, low - 1) if high - low < 254 else (2 if max(-low, high) < 32767 else 4, 0)
    if width == 1:
        found = np.where(found >= ALWAYS, 255, np.where(found <= -ALWAYS, 0, found - base))
    elif width == 2:
        found = np.clip(found, -32768, 32767)
    flips = bool(flip.any())
    if width <= 2 and slices and _tests_slices(spec) and not flips and found.shape[:2] == (1, 1):
        if width == 2:  # of 16 bits, 0 and 65535 being never and always
            base = low - 1
            found = np.where(original >= ALWAYS, 65535, np.where(original <= -ALWAYS, 0, original - base))
        parts = np.arange(SLICED * width)[:, None]
        words = (found.reshape(-1, 1, WORD).astype(np.int64) >> parts & 1).astype(np.uint8)
        table = np.packbits(words, axis=-1, bitorder="little").view("<u4").reshape(-1, SLICED * width)
        step = ("threshold", False, SLICED * width, base)
        return replace(form, spec=replace(spec, epilogue=(step,)), weight=weights, tables=(table,))
    made = (found.astype(WIDTHS[width]), *([flip.astype(np.int8)] if flips else []))
    step = ("threshold", flips, width, base)
    return replace(form, spec=replace(spec, epilogue=(step,)), weight=weights, tables=made)


def _tests_slices(spec: KernelSpec) -> bool:
    """Whether 32 counts are compared at once, bit by bit."""
    pack = spec.packed
    return _one_count(spec) and _sliced(spec) and pack is not None and pack.c // pack.groups % WORD == 0


def _one_count(spec: KernelSpec) -> bool:
    """Whether S is the count of one pair of planes."""
    plain = (spec.activation.bits, spec.weight.bits) == (1, 1) and spec.activation.levels != "signed"
    return plain and planes.counts_xor(spec)


def _inner(spec: KernelSpec, found: np.ndarray, flip: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The thresholds of whole windows, from which those of the others follow.

    `found` are for counts that have the taps outside too, where all planes are 0: the integer there is -high, so that those taps
    count (inside missing + high sum of their weights) / 2.
    """
    rows, columns = planes.borders(spec)
    within = np.einsum("ri,cj->rc", rows.inside.astype(np.int64), columns.inside.astype(np.int64))
    missing = inside(spec) * (spec.kh * spec.kw - within)[:, :, None]
    outside = planes.outside_sums(spec, weights.sum(axis=1, dtype=np.int64))
    sign = np.where(flip != 0, -1, 1)
    finite = np.abs(found) < ALWAYS  # of few taps all sums may pass, or none
    whole = np.where(finite, found - sign * ((missing + spec.activation.high * outside) // 2 - missing // 2), found)
    r, c = np.unravel_index(within.argmax(), within.shape)
    middle = whole[r, c]
    assert (whole == middle)[finite & (np.abs(middle) < ALWAYS)].all(), (
        "thresholds of the border follow from those of whole windows"
    )
    return middle[None, None]


def _threshold(spec: KernelSpec) -> tuple:
    step = spec.epilogue[0] if spec.epilogue else ("",)
    return step if step[0] == "threshold" else ()


def emit(spec: KernelSpec, plan: Schedule, name: str) -> Any:
    """The call of onnxc_bits: operands x, weights, constants, the epilogue's operands, scales, y, the packed result."""
    test = _threshold(spec)
    rows = [("x", planes.packed_shape(spec), "uint64"), ("w", _weights_shape(spec, plan), f"uint{WORD}")]
    at: dict[str, int | str | None] = dict.fromkeys(("table", "flip", "o0", "o1", "o2", "o3", "scale", "y", "packed"))

    def operand(key: str, shape: tuple, kind: str) -> None:
        at[key] = len(rows)
        rows.append((key, shape, kind))

    border = planes.table_shape(spec) if not counts_within(spec) else (1, 1, spec.oc)
    if test and test[2] >= SLICED:
        operand("table", (spec.oc // WORD, test[2]), "uint32")
    elif test:
        operand("table", border, WIDTHS[test[2]])
    if test:
        if test[1]:
            operand("flip", (spec.oc,), "int8")
    elif _tabled(spec):
        operand("table", border, WIDTHS[_constant_bytes(spec)])
    for i, (_, shape) in enumerate([] if test else epilogue_operands(spec)):
        operand(f"o{i}", shape, spec.dtype)
    pack = spec.packed
    if pack is not None and pack.scales:
        operand("scale", (pack.scales,), "float32")
    first = len(rows)
    if spec.output.kind != "bits":
        operand("y", spec.y_shape, spec.dtype)
    if pack is not None:
        operand("packed", pack.shape, "uint64")
    work, order = 4 * (_scratch(spec, plan) + -(-spec.oc // 4) * 4), (0, 1, *at.values(), "work")
    values, before = _layer(spec, plan, test), _before(spec, test)
    return stub(name, rows, Micro("onnxc_bits", "onnxc_bits_layer", values, order, work, (), before, len(rows) - first))


def _weights_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    if plan.family == FIELDS:
        return fields.shape(spec)
    channels, outputs = spec.c // spec.groups, spec.oc // spec.groups
    if plan.detail == PRODUCTS:
        return (1, outputs, spec.kh * spec.kw * _used(spec) * spec.weight.bits)
    if plan.detail == SLICES:
        return (spec.groups, outputs // WORD, spec.weight.bits, spec.kh, spec.kw * channels)
    return (spec.groups, outputs, spec.weight.bits, spec.kh, spec.kw * _used(spec), 1)


def _used(spec: KernelSpec) -> int:
    return -(-(spec.c // spec.groups) // WORD)


def _levels(spec: KernelSpec, test: tuple) -> int:
    """Bits of a count, and no fewer than of a threshold that it is compared with."""
    return max(test[2] if test else 0, SLICED, (spec.kh * spec.kw * (spec.c // spec.groups)).bit_length())


def _scratch(spec: KernelSpec, plan: Schedule) -> int:
    """Words of work ahead of the sums: counters, or windows with their masks."""
    if plan.family == FIELDS:
        return fields.scratch(spec)
    if plan.detail == PRODUCTS:
        return 2 * (WORD // 2) * spec.kh * spec.kw * _used(spec) + spec.oc
    if plan.detail == SLICES:
        return _levels(spec, _threshold(spec)) + spec.kh * spec.kw * (spec.c // spec.groups // SIXTEEN)
    return spec.activation.bits * (1 + counts_within(spec)) * spec.kh * spec.kw * _used(spec)


def _layer(spec: KernelSpec, plan: Schedule, test: tuple) -> str:
    _, _, rows, columns, line = planes.packed_shape(spec)
    top, left, _, _ = spec.pads
    how = (WITHIN if counts_within(spec) else XOR) if planes.counts_xor(spec) else AND
    borders = [] if counts_within(spec) else planes.borders(spec)
    ends = [end for border in borders for end in (border.before, border.after)] or [0] * 4
    classes = [len(border.inside) for border in borders] or [1, 1]
    line *= planes.WORD // WORD
    step = not test and bool(spec.epilogue)
    numbers = [
        spec.n, spec.oh, spec.ow, spec.oc, spec.groups, spec.kh, spec.kw, *spec.stride, *spec.dilation, spec.h, spec.w, top, left,
        rows, columns, line, line // spec.groups, _used(spec), spec.activation.bits, spec.weight.bits,
        *(int(e.levels == "signed") for e in (spec.activation, spec.weight)), how, *ends, *classes,
        test[2] if test else 0, int(planes.multiplier(spec) > 0), test[3] if test else 0, inside(spec),
        spec.n * rows * columns * line, planes.multiplier(spec), prod(_weights_shape(spec, plan)[1:]), _scratch(spec, plan),
        spec.c // spec.groups // SIXTEEN, _levels(spec, test), _constant_bytes(spec) if not test and _tabled(spec) else 0,
        len(spec.epilogue) if step else 0, "steps" if step else "NULL", "NULL" if spec.packed is None else "&pack",
        _function(spec, plan),
    ]  # fmt: skip
    return ", ".join(map(str, numbers))


def _function(spec: KernelSpec, plan: Schedule) -> str:
    """Of C, for the sums of a pixel."""
    if plan.family == FIELDS:
        return fields.function(spec, plan)
    return f"onnxc_by_product{spec.weight.bits}" if plan.detail == PRODUCTS else BY[plan.detail or CHANNELS]


def _before(spec: KernelSpec, test: tuple) -> str:
    """Declarations that a layer points to: the steps of its epilogue, and how it packs its result."""
    text, operand, lines = "", 0, []
    for step in () if test else spec.epilogue:
        reads = step[0] in CHANNEL_STEPS or step[0] == "residual"
        a, b = (*step[1:], 0.0, 0.0)[:2]
        lines.append(f"{{{STEPS[step[0]]}, {operand if reads else -1}, {c_float(a)}, {c_float(b)}}}")
        operand += reads
    if lines:
        text += f"  static const onnxc_step steps[] = {{{', '.join(lines)}}};\n"
    if spec.packed is not None:
        text += f"  static const onnxc_pack_layer pack = {{{pack_values(spec.packed)}}};\n"
    return text


def pack_values(spec: PackSpec, extents: tuple[int, int] | None = None) -> str:
    """The initialiser of an onnxc_pack_layer; `extents` are rows and columns of what is read, where not those of the result."""
    bits, n, rows, columns, line = spec.shape
    line *= planes.WORD // WORD
    top, left, _, _ = spec.pads
    mode = 3 if spec.encoding.levels == "residual" else 0 if not spec.scales else 1 if spec.scales == 1 else 2
    given = extents or ((spec.h, spec.w) if spec.step == (1, 1) else spec.x_shape[1:3])
    numbers = [
        n, spec.h, spec.w, spec.c, spec.groups, top, left, rows, columns, line, words(spec.c // spec.groups) * 2, bits, mode,
        spec.low, spec.high, planes.pad_code(spec.encoding, spec.pad_value), *spec.step, *given, n * rows * columns * line,
    ]  # fmt: skip
    return ", ".join(map(str, numbers))


def emit_pack(spec: PackSpec, name: str) -> Any:
    """The call of onnxc_pack: operands x, the scales if any, the packed activations."""
    scales = [("scale", (spec.scales,), "float32")] if spec.scales else []
    rows = [("x", spec.x_shape, "float32"), *scales, ("y", spec.shape, "uint64")]
    order = (0, 1, 2) if scales else (0, None, 1)
    return stub(name, rows, Micro("onnxc_pack", "onnxc_pack_layer", pack_values(spec), order))


def emit_pool(spec: PoolSpec, name: str) -> Any:
    """The call of onnxc_pool_bits: operands x and y."""
    rows = [("x", (1, spec.pack.n, *spec.extents, spec.pack.shape[-1]), "uint64"), ("y", spec.pack.shape, "uint64")]
    numbers = [*spec.kernel, *spec.stride, *spec.dilation, *spec.before]
    values = f"{{{pack_values(spec.pack, spec.extents)}}}, {', '.join(map(str, numbers))}"
    return stub(name, rows, Micro("onnxc_pool_bits", "onnxc_pool_bits_layer", values, (0, 1)))


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c/groups, kh, kw) -> words of 32 input channels, an output channel after the other; by slices words of
    32 output channels, an input channel after the other."""
    weights = np.asarray(weights)
    if plan.family == FIELDS:
        return fields.pack(spec, plan, weights)
    if plan.detail == CHANNELS:
        return planes.pack_weights(spec, 1, weights, WORD)
    if plan.detail == PRODUCTS:
        return _pairs(spec, weights)
    codes = planes.codes_of(spec.weight, weights).reshape(spec.groups, -1, WORD, *weights.shape[1:])
    bits = codes[..., None] >> np.arange(spec.weight.bits, dtype=np.uint8) & 1  # group, block, 32, c, kh, kw, plane
    bits = np.ascontiguousarray(bits.transpose(0, 1, 6, 4, 5, 3, 2))
    return np.packbits(bits, axis=-1, bitorder="little").view("<u4").reshape(_weights_shape(spec, plan))


def _pairs(spec: KernelSpec, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c, kh, kw) -> (1, oc, words): pairs of codes of channels k and k + 16 of each 32, tap by tap."""
    bits = spec.weight.bits
    codes = planes.codes_of(spec.weight, weights.transpose(0, 2, 3, 1)).astype(np.uint32)
    if spec.weight.levels == "signed":
        codes ^= np.uint32(1 << (bits - 1))
    pairs = codes.reshape(spec.oc, -1, 2, WORD // 2).swapaxes(2, 3).reshape(spec.oc, -1, WORD // 2 // bits, 2)
    shifts = bits * np.arange(WORD // 2 // bits, dtype=np.uint32)[:, None] + np.array([0, WORD // 2], np.uint32)
    return np.bitwise_or.reduce(pairs << shifts, axis=(2, 3))[None]


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (spec.groups, spec.weight, plan.family, plan.detail, *(fields.key(spec) if plan.family == FIELDS else ()))


def cost(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Instructions: 8 for a word of a pair of planes, 45 for what is left at its end (by slices 12, or 80 where counts of several pairs are
    brought together), 20 for a result; 110 for one of products, which is a float first."""
    if plan.family == FIELDS:
        return spec.n * spec.oh * spec.ow * fields.instructions(spec, plan)
    if plan.detail == PRODUCTS:
        return spec.macs * (1.0 + 0.02 * spec.activation.bits) + 110 * spec.n * spec.oh * spec.ow * spec.oc
    pairs = spec.activation.bits * spec.weight.bits
    taps = spec.kh * spec.kw * _used(spec)
    last = 45 if plan.detail == CHANNELS else 12 if pairs == 1 else 80
    return spec.n * spec.oh * spec.ow * (spec.oc * (pairs * (8 * taps + last) + 20) + 20 * taps * spec.activation.bits)


FAMILY = Family(NAME, schedule, emit, pack, cost, pack_key, tables, packs=True, settle=settle)
FIELDS_FAMILY = Family(
    FIELDS, schedule_fields, emit, pack, cost, pack_key, tables, packs=True, settle=partial(settle, slices=False)
)
