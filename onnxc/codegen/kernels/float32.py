"""Direct float32 convolution, channels-last, and with it every float32 matrix product.

Loops, outermost first: group, block of output channels, image, row, tile of pixels; then kh and the contiguous
(kw, c). A tile is `pixels` x `vectors` accumulators that stay in registers: pixels are broadcast from memory, weights
are vectors over output channels, read once in order from the packed layout of `codegen.pack.conv_blocks`. Where output channels do not
fill registers, input channels do (`folded.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.folded import added_up, folds, interleaved, spread
from onnxc.codegen.kernels.result import Results, packable, vector_of, wide
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import (
    Sums,
    at,
    check_float,
    choose_tile,
    each,
    epilogue,
    operands,
    pad_rows,
    shared_tiles,
)
from onnxc.codegen.target import Target

NAME = "float32.direct"
SPLIT = 1.4  # without a fused multiply-add
READ, NEAR = 6, 1 << 18  # tiles of pixels that read a block of run-time weights, and bytes of one, for it to be copied
PADDED = 2.5  # half cycles of a vector that is copied


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes every float32 convolution and product except those without products."""
    refusal = check_float(NAME, spec)
    if refusal:
        return refusal
    if not spec.macs:
        return Refusal(NAME, "has an extent of zero")
    depth = spec.kh * spec.kw * spec.c // spec.groups
    return packable(
        spec, choose_tile(NAME, spec.row, spec.oc // spec.groups, depth, target, split=True, folds=folds(spec, target))
    )


def above_and_below(spec: KernelSpec) -> bool:
    """Whether there is padding above and below alone, which is left out of sums instead of being copied around the input."""
    top, left, bottom, right = spec.pads
    return not left and not right and bool(top or bottom)


def padding_cycles(spec: KernelSpec, target: Target) -> float:
    """Predicted cycles of copying the input to where zeros are around it."""
    copied = any(spec.pads) and not above_and_below(spec)
    return PADDED * target.wide_cost * spec.n * spec.h * spec.w * -(-spec.c // target.lanes) if copied else 0


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: multiply-adds, two at a time where they are not at full width."""
    split = SPLIT if target.arch == "x86_64" and "fma" not in target.needs else 1
    step = plan.tile * cost.wide(plan, target) * split / 2
    steps = spec.kh * spec.kw * (spec.c // spec.groups // plan.fold)
    finish, before = cost.FINISH * plan.fold, padding_cycles(spec, target)
    return cost.tiled(spec, plan, steps=steps, step=step, groups=spec.groups, finish=finish, before=before)


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights (oc, c/groups, kh, kw) -> (groups, blocks, kh, kw, c/groups, block); folded as `interleaved`."""
    return interleaved(layouts.conv_blocks(weights, spec.groups, plan.block), plan.fold)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (spec.groups, plan.block, plan.fold)


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns, or of the run-time operand."""
    if spec.w_shape is not None:
        return spec.w_shape
    blocks = -(-spec.oc // spec.groups // plan.block)
    return (spec.groups, blocks, spec.kh, spec.kw, spec.c // spec.groups // plan.fold, plan.block * plan.fold)


def emit(
    spec: KernelSpec,
    plan: Schedule,
    name: str,
    kind: str = "float32",
    shape: tuple[int, ...] = (),
    load: Callable | None = None,
    panel: bool = False,
):
    """The kernel as TIR: operands x, weights, the epilogue's operands, y.

    Weights held in another way are of `kind` and `shape`; load(w, step, vector) is then a vector of them. With `panel` those
    of a block of output channels are loaded into the workspace once, and read there for all pixels.
    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.dtype))
            w = T.arg("w", T.buffer(shape or packed_shape(spec, plan), kind))
            extra = [T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)]
            out = Results(spec, plan.lanes)
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            out.start()
            source = (x, spec.h, spec.w) if above_and_below(spec) else pad_rows(x, spec)
            _loops(spec, plan, source, (w, load, panel), extra, out)
    return builder.get()


def _loops(spec: KernelSpec, plan: Schedule, source: tuple, weights: tuple, extra: list, out: Results) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    flat = spec.pointwise and not out.padded
    images, oh, ow = (1, 1, spec.n * spec.h * spec.w) if flat else (spec.n, spec.oh, spec.ow)
    x, rows, columns = (source[0], 1, ow) if flat else source
    oc = spec.oc // spec.groups
    blocks, tiles = -(-oc // plan.block), -(-ow // plan.pixels)
    w, load, panel = weights

    def one(g, block, n, row, tile, held, load) -> None:
        acc = Sums(plan, spec.dtype)
        first = tirx.min(tile * plan.pixels, ow - plan.pixels)
        channel0 = tirx.min(block * plan.block, oc - plan.block)

        def clear(pixel, lane, _) -> None:
            sums, start = acc.of(pixel)
            T.buffer_store(sums, tirx.const(0, spec.dtype), [start + lane])

        each(plan, clear)
        _products(
            spec,
            plan,
            acc,
            (x, rows, columns),
            (held, load, (panel and not alone) or gathered),
            (g, block, blocks, channel0, n, row, first),
        )

        for pixel, vector in itertools.product(range(plan.pixels), range(plan.vectors)):
            lowest = g * oc + channel0 + vector * plan.lanes
            channel = vector_of(lowest, plan.lanes)
            offset = ((n * oh + row) * ow + first + pixel) * spec.oc + channel
            sums, start = acc.of(pixel)
            value = sums[vector_of(start + vector * plan.width, plan.width)]
            value = added_up(value, plan.fold, plan.lanes)
            value = epilogue(spec, value, extra, channel, offset)
            out.store(value, offset, (n, row, first + pixel), lowest)

    gathered = held_near(spec, plan)
    if gathered:
        with (T.parallel if spec.threads > 1 else T.serial)(0, images * blocks) as turn:
            first = turn // blocks * spec.c * oc + tirx.min(turn % blocks * plan.block, oc - plan.block)

            def row_of(step, vector, first=first):
                return w[at(w, vector_of(first + step * oc + vector * plan.lanes, plan.lanes))]

            held = _held(plan, spec.c, row_of)
            with T.grid(oh, tiles) as (row, tile):
                one(0, turn % blocks, turn // blocks, row, tile, held, None)
        return
    alone = panel and spec.threads > spec.groups * blocks  # fewer blocks than threads: all are unpacked first
    if alone:
        w, load = _all_panels(spec, plan, w, load, spec.groups * blocks), None
    if not panel or alone:
        with shared_tiles(spec, blocks, images, oh, tiles) as (g, block, n, row, tile):
            one(g, block, n, row, tile, w, load)
        return
    with (T.parallel if spec.threads > 1 else T.serial)(0, spec.groups * blocks) as turn:
        held = _panel(spec, plan, w, load, turn)
        with T.grid(images, oh, tiles) as (n, row, tile):
            one(turn // blocks, turn % blocks, n, row, tile, held, None)


def held_near(spec: KernelSpec, plan: Schedule) -> bool:
    """Whether blocks of a right-hand side that is known at run time only are copied for all the rows that read them: its own rows may
    lie a power of two apart, where few lines of a cache hold them all."""
    if spec.weight_constant or plan.block * -(-spec.oc // plan.block) <= plan.block:
        return False
    turns = spec.n * -(-spec.oc // plan.block)
    return spec.ow >= READ * plan.pixels and 4 * spec.c * plan.block <= NEAR and turns >= 2 * spec.threads


def _held(plan: Schedule, steps: int, load: Callable):
    """`steps` times a block of weights as floats, in the workspace; load(step, vector)."""
    from tvm.script.ir_builder import tirx as T

    held = T.alloc_buffer((steps * plan.block,), "float32")
    with T.serial(0, steps) as step:
        _unpack(plan, held, step, lambda vector: load(step, vector))
    return held


def _panel(spec: KernelSpec, plan: Schedule, w, load: Callable, turn):
    """The weights of one block of output channels."""
    steps = spec.kh * spec.kw * (spec.c // spec.groups)
    return _held(plan, steps, lambda step, vector: load(w, turn * steps + step, vector))


def _all_panels(spec: KernelSpec, plan: Schedule, w, load: Callable, blocks: int):
    """The weights of all blocks as floats, in the workspace that the threads share."""
    from tvm.script.ir_builder import tirx as T

    steps = blocks * spec.kh * spec.kw * (spec.c // spec.groups)
    held = T.alloc_buffer((steps * plan.block,), "float32")
    with T.parallel(0, steps) as step:
        _unpack(plan, held, step, lambda vector: load(w, step, vector))
    return held


def _unpack(plan: Schedule, held, step, load: Callable) -> None:
    from tvm.script.ir_builder import tirx as T

    for vector in range(plan.vectors):
        T.buffer_store(held, load(vector), [vector_of(step * plan.block + vector * plan.lanes, plan.lanes)])


def _products(spec: KernelSpec, plan: Schedule, acc, source: tuple, weights: tuple, where: tuple) -> None:
    """acc += x * w over kh, kw, c; (kw, c) is one loop where the pixels' channels lie side by side."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    x, rows, columns = source
    w, load, panel = weights
    g, block, blocks, channel0, n, row, first = where
    c = spec.c // spec.groups
    joined = spec.groups == 1 and spec.dilation[1] == 1
    taps, depth = (1, spec.kw * c) if joined else (spec.kw, c)
    taps_down: tuple = (0, spec.kh)
    top = spec.pads[0] if above_and_below(spec) else 0
    if above_and_below(spec):  # rows of zeros are left out
        first_row, step_ = row * spec.stride[0] - top, spec.dilation[0]
        low = tirx.max(0, tirx.floordiv(step_ - 1 - first_row, step_))
        taps_down = (T.bind(low), T.bind(tirx.min(spec.kh, tirx.floordiv(spec.h - first_row + step_ - 1, step_))))
    with T.serial(*taps_down) as kh, T.grid(taps, depth // plan.fold) as (kw, k):
        line = (n * rows + row * spec.stride[0] + kh * spec.dilation[0] - top) * columns

        start = 0 if panel else g * blocks + block
        step = ((start * spec.kh + kh) * taps + kw) * (depth // plan.fold) + k

        def activation(pixel):
            column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
            index = at(x, (line + column) * spec.c + g * c + k * plan.fold)
            return x[index] if plan.fold == 1 else spread(x, index, plan.fold, plan.lanes)

        if plan.fold > 1:
            for pixel, vector in itertools.product(range(plan.pixels), range(plan.vectors)):
                sums, start = acc.of(pixel)
                i = vector_of(start + vector * plan.width, plan.width)
                place = (step * plan.vectors + vector) * plan.width
                weight = w[at(w, vector_of(place, plan.width))]
                T.buffer_store(sums, sums[i] + activation(pixel) * weight, [i])
            return
        if load is not None:
            for vector, pixel in itertools.product(range(plan.vectors), range(plan.pixels)):
                sums, start = acc.of(pixel)
                i = vector_of(start + vector * plan.lanes, plan.lanes)
                product_ = wide(activation(pixel), plan.lanes) * load(w, step, vector)
                T.buffer_store(sums, sums[i] + product_, [i])
            return

        def product(pixel, lane, _):
            sums, start = acc.of(pixel)
            value = activation(pixel)
            if spec.weight_constant or panel:
                offset = step * plan.block + lane
            else:
                offset = (n * spec.c + k) * spec.oc + channel0 + lane
            T.buffer_store(sums, sums[start + lane] + value * w[at(w, offset)], [start + lane])

        each(plan, product)


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, packs=True)
