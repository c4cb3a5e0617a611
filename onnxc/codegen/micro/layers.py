"""Families micro.conv and micro.depthwise: products of 8-bit integers by the C code of `runtime/c/micro.h`.

Weights stay as many bytes as they are. Convolutions and matrix products widen two output pixels' windows to 16 bits and multiply both
with two output channels at a time (smlad); depthwise layers take a channel's plane at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.requantise import check_int8
from onnxc.codegen.kernels.requantise import operands as epilogue_operands
from onnxc.codegen.kernels.spec import Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.micro.calls import Micro, Over, stub
from onnxc.codegen.micro.fixed import HELIUM, INTEGERS, Ends, arithmetic, flip, inside, read_ends, scales
from onnxc.codegen.target import Target

CONV, DEPTHWISE = "micro.conv", "micro.depthwise"
HELD = Detail("held")  # HELIUM, and vectors hold a window
PAIR = 2  # output channels that a word of weights serves
LANES = 4  # sums in a vector
VECTOR = 16  # bytes of a vector
FAR = 16  # pixels of a row
MOST_HELD = 4
COLUMN, CHANNEL = 64, 28  # bytes of a column of 16 channels' words, and of a channel's numbers
MOST_APART = 9000  # channels: Helium reads eight pixels of a channel by 16-bit offsets


def _refuse(name: str, spec: KernelSpec, target: Target) -> Refusal | None:
    if not target.micro:
        return Refusal(name, "is for processors without vectors")
    refusal = check_int8(name, spec)
    if refusal:
        return refusal
    ends = read_ends(spec)
    if isinstance(ends, str):
        return Refusal(name, ends)
    if not spec.macs:
        return Refusal(name, "has an extent of zero")
    if spec.n > 1 and not spec.pointwise:
        return Refusal(name, "takes one image at a time")
    if max(spec.h, spec.w, spec.c, spec.oc, spec.oh, spec.ow) * spec.n > 32767:
        return Refusal(name, "has an extent beyond 16 bits")
    return None


def _held(spec: KernelSpec) -> int:
    """Vectors that hold a window of a convolution, 1 to 4; 0 where none do."""
    vectors = -(-spec.kh * spec.kw * spec.c // VECTOR)
    return vectors if vectors <= MOST_HELD and spec.dilation == (1, 1) and spec.oc >= LANES else 0


def _in_words(spec: KernelSpec, plan: Schedule) -> bool:
    """Whether a depthwise layer's columns of four rows are words."""
    same = (spec.kh, spec.kw, spec.dilation) == (3, 3, (1, 1)) and spec.stride in ((1, 1), (2, 2))
    return plan.detail == HELIUM and same


def schedule_conv(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes convolutions without groups and matrix products."""
    refusal = _refuse(CONV, spec, target)
    if refusal:
        return refusal
    if spec.groups > 1:
        return Refusal(CONV, "has groups")
    detail = arithmetic(target)
    return Schedule(CONV, _pixels(spec, target), PAIR, 1, HELD if detail == HELIUM and _held(spec) else detail)


def _pixels(spec: KernelSpec, target: Target) -> int:
    """Output pixels whose columns stand side by side: with DSP instructions four, if there are as many; two in plain C."""
    pixels = spec.n * spec.oh * spec.ow
    return 2 if target.helium or target.small or not target.fpu else 4 if pixels >= 4 else min(pixels, 2)


def schedule_depthwise(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes convolutions whose output channel i reads input channel i alone."""
    refusal = _refuse(DEPTHWISE, spec, target)
    if refusal:
        return refusal
    if not spec.depthwise:
        return Refusal(DEPTHWISE, f"needs as many groups as channels, found {spec.groups} of {spec.c} channels")
    ends = read_ends(spec)
    if isinstance(ends, Ends) and ends.residual:
        return Refusal(DEPTHWISE, "takes in no sum of tensors")
    if target.helium and spec.c > MOST_APART:
        return Refusal(DEPTHWISE, f"takes {MOST_APART} channels at most")
    return Schedule(DEPTHWISE, 2, 1, 1, arithmetic(target))


def _steps(spec: KernelSpec) -> int:
    return -(-spec.kh * spec.kw * spec.c // 4)


def pack_conv(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights int8 (oc, c, kh, kw) -> (oc / 2, steps, 2, 4): for two channels and four of a window (c0 a) (c1 a) (c0 b) (c1 b),
    a and b being the first and third of the four, then the second and fourth; for Helium (oc, kh kw c), for windows that vectors
    hold (oc kh kw c + zeros,), as many as make the last channel's vectors whole."""
    oc, steps = spec.oc, _steps(spec)
    flat = weights.transpose(0, 2, 3, 1).reshape(oc, -1)
    if plan.detail == HELD:
        return np.pad(flat.reshape(-1), (0, -flat.shape[1] % VECTOR))
    if plan.detail == HELIUM:
        return np.ascontiguousarray(flat)
    flat = np.pad(flat, [(0, -oc % PAIR), (0, 4 * steps - flat.shape[1])])
    fours = flat.reshape(-1, PAIR, steps, 2, 2)  # channel pair, channel, step, b or a, pair
    return np.ascontiguousarray(fours.transpose(0, 2, 4, 3, 1).reshape(-1, steps, 2, 4))


def pack_depthwise(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights int8 (c, 1, kh, kw) as they are."""
    return np.ascontiguousarray(weights.reshape(spec.oc, spec.kh * spec.kw))


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What packing depends on."""
    return (spec.oc, spec.kh, spec.kw, spec.c, plan.detail)


def operands(spec: KernelSpec, plan: Schedule, weights: np.ndarray, given: list) -> list:
    """The table of scales for bias and factors, then the residual if there is one."""
    bias, factor, *rest = given
    table = table_of(spec, plan, weights, bias, factor)
    assert table is not None, "lowering asks `fits` before it takes the kernel"
    return [table, *rest]


def table_of(
    spec: KernelSpec, plan: Schedule, weights: np.ndarray, bias: np.ndarray, factor: np.ndarray
) -> np.ndarray | None:
    """The table of scales; None where the factors do not fit it."""
    kind, flat = spec.activation.kind, weights.reshape(len(weights), -1).astype(np.int64)
    zero = inside(spec.pad_value, kind)
    ends = read_ends(spec)
    assert isinstance(ends, Ends)
    whole = bias.astype(np.int64) - zero * flat.sum(1)
    spread = np.abs(flat).sum(1)
    reach = np.where(spread > 0, np.abs(whole) + 128 * spread, 0)
    how = HELIUM if plan.detail == HELD else plan.detail
    assert how is not None
    table = scales(whole, factor, reach, ends.z, how, _together(plan))
    if table is not None and _together(plan) == LANES:
        rows = table[2:].reshape(-1, LANES, 2)
        if plan.detail == HELD and spec.oc % LANES:
            rows[-1] = table[2:].reshape(-1, 2)[spec.oc - LANES : spec.oc]
        table[2:] = rows.transpose(0, 2, 1).reshape(-1)
    return table


def _together(plan: Schedule) -> int:
    """Channels whose biases and factors stand together."""
    return LANES if plan.detail in (HELIUM, HELD) else PAIR if plan.family == CONV else 1


def fits(spec: KernelSpec, plan: Schedule, weights: np.ndarray, given: Sequence) -> bool:
    """Whether a kernel's factors can be held; in integers those of a quarter and above cannot."""
    return table_of(spec, plan, weights, given[0], given[1]) is not None


def _byte(spec: KernelSpec) -> int:
    """What stands outside of x, as the kernel reads it."""
    return inside(spec.pad_value, spec.activation.kind) & 0xFF


def emit_conv(spec: KernelSpec, plan: Schedule, name: str):
    """The call of onnxc_conv, or of one for windows that vectors hold: operands x, weights, scales, the residual, y."""
    ends = read_ends(spec)
    assert isinstance(ends, Ends)
    held, flat = _held(spec) if plan.detail == HELD else 0, spec.pointwise
    steps = _lines(spec) if held else _steps(spec)
    h, w, oh, ow = (1, spec.n * spec.h * spec.w) * 2 if flat else (spec.h, spec.w, spec.oh, spec.ow)
    numbers = [h, w, spec.c, oh, ow, spec.oc, spec.kh, spec.kw, *spec.stride, *spec.pads[:2], *spec.dilation]
    numbers += [_four(flip(spec.activation.kind)), _four(_byte(spec)), steps]
    values = ", ".join(map(str, [*numbers, _end(ends)]))
    packed: tuple[int, ...] = (-(-spec.oc // PAIR), steps, 2, 4)
    size = spec.kh * spec.kw * spec.c
    if held:
        work = _even(max(1, steps + (VECTOR * (held + 1) if steps else 0) + (spec.oc if ends.more else 0)))
        packed = (-(-size // VECTOR) * VECTOR + (spec.oc - 1) * size,)
    elif plan.detail == HELIUM:
        work = 4 * steps + _even(spec.oc if ends.more else 0)
        packed = (spec.oc, size)
    else:
        pixels = plan.pixels
        spare = max(4 * steps + 4 if spec.c % 4 else 0, pixels * (spec.oc + 1) if ends.more or spec.oc % 2 else 0)
        work = 8 * pixels * steps + _even(spare)
    over = [Over(3)] if ends.residual and spec.y_shape else []
    if flat:
        over.append(Over(0, False, max(0, h * w * (spec.oc - spec.c))))
    order = (0, 1, 2, 3 if ends.residual else None, 4 if ends.residual else 3, "work")
    function = f"onnxc_conv_held{held}" if held else "onnxc_conv"
    call = Micro(function, "onnxc_conv_layer", values, order, work, tuple(over), _ends(ends, plan))
    return stub(name, _operands(spec, plan, ("w", packed, "int8")), call)


def _lines(spec: KernelSpec) -> int:
    """Bytes of the padded lines that windows of a row of outputs cover, and a vector; 0 where a window is a pixel of x."""
    left = spec.pads[1]
    if (spec.kh, spec.kw) == (1, 1) and not any(spec.pads):
        return 0
    columns = max(left + spec.w, (spec.ow - 1) * spec.stride[1] + spec.kw)
    return spec.kh * columns * spec.c + VECTOR


def emit_depthwise(spec: KernelSpec, plan: Schedule, name: str):
    """The call of onnxc_depthwise, or of one for windows of 3 x 3 by Helium: operands x, weights, scales, y."""
    ends = read_ends(spec)
    assert isinstance(ends, Ends)
    top, left, _, _ = spec.pads
    lines = max(top + spec.h, (spec.oh - 1) * spec.stride[0] + (spec.kh - 1) * spec.dilation[0] + 1)
    line = max(left + spec.w, (spec.ow - 1) * spec.stride[1] + (spec.kw - 1) * spec.dilation[1] + 1)
    line = -(-line // 4) * 4
    words = _in_words(spec, plan)
    if words:
        line, planes = _columns(spec), 0
        work = line * COLUMN + VECTOR + CHANNEL * VECTOR
    else:
        planes = 4 if _four_planes(spec, plan, line * lines) else 1
        work = planes * lines * line + 8
    numbers = [spec.h, spec.w, spec.c, spec.oh, spec.ow, spec.kh, spec.kw, *spec.stride, top, left, *spec.dilation]
    numbers += [line, lines, planes, flip(spec.activation.kind), _byte(spec)]
    values = ", ".join(map(str, [*numbers, _end(ends)]))
    same = (spec.h, spec.w) == (spec.oh, spec.ow)
    over = (Over(0),) if same and not (words and top > 1) else ()  # two rows above would be read after they are written
    function = "onnxc_depthwise3" if words else "onnxc_depthwise"
    call = Micro(function, "onnxc_depthwise_layer", values, (0, 1, 2, 3, "work"), work, over, _ends(ends, plan))
    return stub(name, _operands(spec, plan, ("w", (spec.oc, spec.kh * spec.kw), "int8")), call)


def _columns(spec: KernelSpec) -> int:
    """Columns of words that a row of a layer's windows covers: four of 2 x 2 outputs, or of an output with strides of 2."""
    last = max(0, spec.ow - 2) if spec.stride[1] == 1 else 2 * (-(-spec.ow // LANES) * LANES - 1)
    return max(spec.pads[1] + spec.w, last + 4)


def _four_planes(spec: KernelSpec, plan: Schedule, size: int) -> bool:
    """Whether a depthwise layer copies four channels' planes at once: where x with them takes less than x and y of a layer beside it."""
    if spec.c < 4 or (plan.detail == HELIUM and spec.w >= FAR):  # where eight pixels of a row are one vector
        return False
    same = (spec.h, spec.w) == (spec.oh, spec.ow)  # y lies over x
    return 4 * size <= max(1024, 5 * spec.h * spec.w * spec.c // 8 if same else spec.oh * spec.ow * spec.oc // 2)


def _end(ends: Ends) -> str:
    return "&end" if ends.more else "NULL"


def _ends(ends: Ends, plan: Schedule) -> str:
    return f"  static const onnxc_ends end = {ends.c(plan.detail != INTEGERS)};\n" if ends.more else ""


def _four(byte: int) -> int:
    """A byte four times in a word, as a signed number."""
    word = byte * 0x01010101
    return word - (1 << 32) if word >> 31 else word


def _even(count: int) -> int:
    return -(-count // 4) * 4


def _operands(spec: KernelSpec, plan: Schedule, packed: tuple) -> list:
    together = _together(plan)
    table = ("scales", (2 + 2 * -(-spec.oc // together) * together,), "int32")
    tensors = [row for row in epilogue_operands(spec) if row[0].startswith("residual")]
    y = ("y", spec.y_shape, spec.output.kind)
    return [("x", spec.x_shape, spec.activation.kind), packed, table, *tensors, y]


def cost_conv(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Instructions: with four pixels at once 0.83 a product, 7 for a result, 9 for four of a window, else 1.04, 10 and 5; with Helium
    for each four channels 8 or 10 a vector of a window, and what makes their sums bytes. `benchmarks/tiny_layers.py` counts them."""
    pixels, size, fours = spec.n * spec.oh * spec.ow, spec.kh * spec.kw * spec.c, -(-spec.oc // LANES)
    if plan.pixels == 4:
        window = 50 if (spec.kh, spec.kw) == (1, 1) else 200
        return 0.83 * spec.macs + pixels * (7 * spec.oc + 9 * _steps(spec) + window)
    if plan.detail not in (HELIUM, HELD):
        return 1.04 * spec.macs + pixels * (10 * spec.oc + 5 * _steps(spec) + 60)
    vectors, ends = -(-size // VECTOR), read_ends(spec)
    after = (35 if ends.residual else 14) * fours if isinstance(ends, Ends) and ends.more else 0
    if plan.detail == HELD:
        window = 90 + 14 * spec.kh if _lines(spec) else 56
        return pixels * (window + fours * (8 * vectors + 17) + after)
    return pixels * (60 + 60 * spec.kh + 8 * vectors + fours * (10 * vectors + 48) + after)


def cost_depthwise(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Instructions: 10 for a row of three products of two results, 8 for a result, 2.5 for an element of a plane; of other windows 7 a
    product and 10 for their rows, 25 for a result. By words of four rows
    20 for a column of 16 channels, and for four results of a channel, 25 with strides of 2."""
    if _in_words(spec, plan):
        blocks, once = -(-spec.c // VECTOR), spec.stride[0] == 1
        rows, each = (
            (-(-spec.oh // 2), 33 + 17 * -(-spec.ow // 2)) if once else (spec.oh, 25 + 25 * -(-spec.ow // LANES))
        )
        return rows * (blocks * (20 * spec.w + 60) + spec.c * each) + 300 * blocks
    if plan.detail != HELIUM and (spec.kh, spec.kw, spec.dilation) != (3, 3, (1, 1)):
        return prod((spec.oh, spec.ow, spec.oc)) * (spec.kh * (7 * spec.kw + 10) + 25)
    return 1.7 * spec.macs + 8 * prod((spec.oh, spec.ow, spec.oc)) + 2.5 * prod((spec.h, spec.w, spec.c))


CONV_FAMILY = Family(CONV, schedule_conv, emit_conv, pack_conv, cost_conv, pack_key, operands=operands)
DEPTHWISE_FAMILY = Family(
    DEPTHWISE, schedule_depthwise, emit_depthwise, pack_depthwise, cost_depthwise, pack_key, operands=operands
)
FAMILIES = (DEPTHWISE_FAMILY, CONV_FAMILY)
