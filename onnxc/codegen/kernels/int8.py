"""Direct convolution of 8-bit integers with int32 sums, channels-last, and with it every int8 matrix product.

    sum over (kh, kw, c) of (x - z) w  =  sum x w  -  z sum w

so the zero point z of the activations is a constant in the int32 bias, and padding holds z itself. Loops are those of
float32.direct; a step takes `dot.depth` neighbouring channels at once. Where (kw, c) lies side by side in memory both are
one loop; its last step may read past the end, where the packed weights are zero. Activations that the instruction does
not take as they are (other sign, int16, padding) are copied once into the workspace.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8_dot import Dot, added_up, dots_for, loader, part_of, ramp
from onnxc.codegen.kernels.requantise import check_int8, finish, operands, zero_point_in_bias
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import Sums, at, choose_tile, copy_rows, each, shared_tiles
from onnxc.codegen.target import Target

NAME = "int8.direct"
SLACK = 64  # bytes and more that a last step may read past the end of the copied activations
ADDED_UP = 3  # cycles of bringing four folded sums into the lanes of one vector
COPIED = 16  # elements that a cycle copies into the workspace
SCALAR_REGISTERS = 12  # of integers, where a lane is a general register


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes every convolution and product of 8-bit integers that has products."""
    refusal = check_int8(NAME, spec)
    if refusal:
        return refusal
    if not spec.macs:
        return Refusal(NAME, "has an extent of zero")
    return min(
        (_tile(spec, dot, target) for dot in dots_for(spec, target)), key=lambda plan: cycles(spec, plan, target)
    )


def _tile(spec: KernelSpec, dot: Dot, target: Target) -> Schedule:
    registers = SCALAR_REGISTERS if target.lanes == 1 else target.registers - dot.spare
    oc = spec.oc // spec.groups
    if dot.fold == 1:
        depth = spec.kh * _taps(spec, dot)[0] * _taps(spec, dot)[1]
        machine = replace(target, registers=registers)
        return choose_tile(NAME, spec.row, oc, depth, machine, least=min(dot.widths), detail=dot, split=True)
    tiles = itertools.product(range(1, spec.row + 1), range(dot.fold, oc + 1, dot.fold))
    fit = itertools.takewhile(lambda tile: tile[0] * dot.fold <= registers, tiles)
    plans = [Schedule(NAME, *tile, 1, dot, dot.fold) for tile in fit if (tile[0] + 1) * tile[1] < registers]
    return sorted(plans, key=lambda plan: cycles(spec, plan, target))[min(target.rank, len(plans) - 1)]


def _dot(plan: Schedule) -> Dot:
    assert isinstance(plan.detail, Dot)
    return plan.detail


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles; activations of another type than the instruction's are copied first."""
    dot = _dot(plan)
    taps, steps, depth = _taps(spec, dot)
    copied = dot.x not in ("", spec.activation.kind) or any(spec.pads) or steps * dot.depth > depth
    before = spec.n * spec.h * spec.w * spec.c / COPIED if copied else 0
    step = plan.tile * dot.cycles * cost.wide(plan, target)
    finish = (cost.FINISH + ADDED_UP) / dot.fold if dot.fold > 1 else None
    return cost.tiled(
        spec, plan, steps=spec.kh * taps * steps, step=step, groups=spec.groups, finish=finish, before=before
    )


def _taps(spec: KernelSpec, dot: Dot) -> tuple[int, int, int]:
    """Taps in a row that are loops of their own, steps in each, and channels that those steps are to cover."""
    c = spec.c // spec.groups
    joined = spec.groups == 1 and spec.dilation[1] == 1
    taps, depth = (1, spec.kw * c) if joined else (spec.kw, c)
    return taps, -(-depth // dot.depth), depth


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights int8 (oc, c/groups, kh, kw) -> (groups, blocks, kh, taps, steps, vectors, lanes x depth)."""
    dot = _dot(plan)
    taps, steps, depth = _taps(spec, dot)
    blocks = layouts.conv_blocks(weights, spec.groups, plan.block)  # groups, blocks, kh, kw, c, block
    lead = (*blocks.shape[:3], taps)
    flat = blocks.reshape(*lead, depth, plan.block)
    flat = np.pad(flat, [(0, 0)] * 4 + [(0, steps * dot.depth - depth), (0, 0)])
    split = flat.reshape(*lead, steps, dot.depth, plan.vectors, plan.lanes)
    return dot.packed(np.moveaxis(split, -2, -3)).astype(dot.w)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on; taps and steps depend on the dilation too."""
    return (packed_shape(spec, plan), _dot(plan).name)


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    dot = _dot(plan)
    taps, steps, _ = _taps(spec, dot)
    blocks = -(-spec.oc // spec.groups // plan.block)
    return (spec.groups, blocks, spec.kh, taps, steps, plan.vectors, plan.lanes * dot.depth)


def operands_with_zero_point(spec: KernelSpec, plan: Schedule, weights: np.ndarray, given: list) -> list:
    """The epilogue's operands with the activations' zero point brought into the bias."""
    return zero_point_in_bias(weights, spec.pad_value + _dot(plan).shift(spec), given)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, the epilogue's operands, y."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    dot = _dot(plan)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.activation.kind))
            w = T.arg("w", T.buffer(packed_shape(spec, plan), dot.w))
            extra = [T.arg(label, T.buffer(shape, kind)) for label, shape, kind in operands(spec)]
            y = T.arg("y", T.buffer(spec.y_shape, spec.output.kind))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            _, steps, depth = _taps(spec, dot)
            copied, rows, columns = stage(x, spec, plan, dot.held(spec), dot.shift(spec), steps * dot.depth > depth)
            _loops(spec, plan, copied, (rows, columns), w, extra, y)
    return builder.get()


def stage(x, spec: KernelSpec, plan: Schedule, kind: str, shift: int = 0, tail: bool = False):
    """x with padding around, as `kind`, `shift` added, and with room behind it if `tail`; x itself if it is all that.

    Returns (buffer, rows, columns).
    """
    if not any(spec.pads) and kind == spec.activation.kind and not tail:
        return x, spec.h, spec.w

    def copy(target, to, source, start, count: int) -> None:
        _copy(target, to, source, start, count, shift, 4 * plan.width)

    return copy_rows(x, spec, kind, spec.pad_value + shift, copy, SLACK)


def _copy(target, to, source, start, count: int, shift: int, width: int) -> None:
    """target[to + i] = source[start + i] + shift for `count` elements, in vectors of which the last may overlap."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    width = min(width, 1 << (count.bit_length() - 1))
    kind = str(target.dtype)
    with T.serial(0, -(-count // width)) as vector:
        with T.vectorized(0, width) as lane:
            i = tirx.min(vector * width, count - width) + lane
            value = source[at(source, start + i)]
            if shift:  # x + 128 and x - 128 in eight bits
                value = tirx.Cast("uint8", value) ^ tirx.const(128, "uint8")
            same = str(source.dtype) == kind and not shift
            T.buffer_store(target, value if same else tirx.Cast(kind, value), [to + i])


def _loops(spec: KernelSpec, plan: Schedule, x, extent: tuple[int, int], w, extra: list, y) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    flat = spec.pointwise
    images, oh, ow = (1, 1, spec.n * spec.h * spec.w) if flat else (spec.n, spec.oh, spec.ow)
    rows, columns = (1, ow) if flat else extent
    oc = spec.oc // spec.groups
    blocks, tiles = -(-oc // plan.block), -(-ow // plan.pixels)
    with shared_tiles(spec, blocks, images, oh, tiles) as (g, block, n, row, tile):
        acc = Sums(plan, "int32")
        first = tirx.min(tile * plan.pixels, ow - plan.pixels)
        channel0 = g * oc + tirx.min(block * plan.block, oc - plan.block)

        def begin(pixel, lane, _):
            sums, start = acc.of(pixel)
            value = extra[0][channel0 + lane] if plan.fold == 1 else tirx.const(0, "int32")
            T.buffer_store(sums, value, [start + lane])

        each(plan, begin)
        _products(spec, plan, acc, (x, rows, columns), w, (g, block, n, row, first))
        tile_ = plan
        if plan.fold > 1:
            acc, tile_ = _brought_together(plan, acc, extra[0], channel0)

        def store(pixel, lane, _):
            sums, start = acc.of(pixel)
            offset = ((n * oh + row) * ow + first + pixel) * spec.oc + channel0 + lane
            T.buffer_store(y, finish(spec, sums[start + lane], extra, channel0 + lane, offset), at(y, offset))

        each(tile_, store)


def _products(spec: KernelSpec, plan: Schedule, acc, source: tuple, w, where: tuple) -> None:
    """acc += x * w over kh, taps and steps, `dot.depth` channels at a time."""
    from tvm.script.ir_builder import tirx as T

    x, rows, columns = source
    g, block, n, row, first = where
    dot, c = _dot(plan), spec.c // spec.groups
    _, blocks, _, taps, steps, _, width = packed_shape(spec, plan)
    with T.grid(spec.kh, taps) as (kh, kw):
        line = (n * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns
        packed = (((g * blocks + block) * spec.kh + kh) * taps + kw) * steps

        def run(start, count: int) -> None:
            """`count` steps from `start` on, that load their activations at once."""
            for part, vector, pixel in itertools.product(range(count), range(plan.vectors), range(plan.pixels)):
                column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
                load = loader(x, (line + column) * spec.c + g * c + start * dot.depth)
                activations = part_of(load, part, count, dot.depth)
                weights = ((packed + start + part) * plan.vectors + vector) * width
                sums, lane = acc.of(pixel)
                here = [ramp(lane + vector * plan.width, plan.width)]
                T.buffer_store(sums, dot.multiply(sums[here], activations, loader(w, weights), plan.width), here)

        whole = steps // dot.run
        with T.serial(0, whole) as turn:
            run(turn * dot.run, dot.run)
        if steps % dot.run:
            with T.serial(0, steps % dot.run) as turn:
                run(whole * dot.run + turn, 1)


def _brought_together(plan: Schedule, acc: Sums, bias, channel0) -> tuple[Sums, Schedule]:
    """Folded sums as lanes of one vector for `fold` output channels, their bias added, and the tile that they then are."""
    from tvm.script.ir_builder import tirx as T

    lanes = plan.fold
    made = replace(plan, vectors=plan.vectors // lanes, lanes=lanes, fold=1)
    whole = Sums(made, "int32")
    for pixel, vector in itertools.product(range(made.pixels), range(made.vectors)):
        sums, start = acc.of(pixel)
        folded = [sums[ramp(start + (vector * lanes + i) * plan.width, plan.width)] for i in range(lanes)]
        to, place = whole.of(pixel)
        value = added_up(folded) + bias[ramp(channel0 + vector * lanes, lanes)]
        T.buffer_store(to, value, [ramp(place + vector * lanes, lanes)])
    return whole, made


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, operands=operands_with_zero_point)
