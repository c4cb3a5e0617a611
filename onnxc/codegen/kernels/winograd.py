"""Winograd convolution of float32, 3 x 3 with stride 1, channels-last: F(2 x 2) and F(4 x 4) of `winograd_form`.

    V[i] = B' d B of each tile of inputs,   P[i] = V[i] U[i] for each of the (m + 2)^2 products i,   y = A' P A

Tiles of m x m outputs are taken some at a time (`turn`), so that what they become stays in a near cache: their inputs are
transformed, multiplied for one block of output channels after the other on the register tiles of `float32.direct`, and
each block's products become outputs at once, with the epilogue. Where weights outweigh activations (`whole`), all inputs are
transformed first, and a block of weights is brought once for all tiles. Tiles beyond an edge read zeros and write what is there.
Weights U = G w G' lie as (blocks, (m + 2)^2, c, block): 16 or 36 numbers for 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels import winograd_parts as parts
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.folded import folds, interleaved
from onnxc.codegen.kernels.spec import Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import BOTH, check_float, choose_tile, operands, shared_grid, start_of
from onnxc.codegen.kernels.winograd_form import F2, F4, Form
from onnxc.codegen.target import Target

NAME = "float32.winograd"
TURN = 28  # tiles of a turn: what they become stays in a cache of the second level
FAR = 4 << 20  # bytes of weights from which on twice as many tiles share what is brought of them
ENOUGH = 8  # turns a thread from which on they are what threads share
LEAST_CHANNELS = 8
NEAR = 2048  # kernels of 3 x 3 whose transforms stay in a near cache
STACK = 1024  # bytes from which on a buffer lies in the workspace, so that a part can be told where
CACHES = ((1 << 19, 64.0), (12 << 20, 16.0), (float("inf"), 4.0))  # bytes of weights, and bytes of them brought a cycle


@dataclass(frozen=True)
class Turns(Detail):
    """The form, the tiles of a turn, and whether all inputs are transformed before the first product."""

    form: Form
    turn: int
    whole: bool


def _turns(plan: Schedule) -> Turns:
    assert isinstance(plan.detail, Turns)
    return plan.detail


def _tiles(spec: KernelSpec, form: Form) -> tuple[int, int, int]:
    """Images, and rows and columns of tiles."""
    return spec.n, -(-spec.oh // form.outputs), -(-spec.ow // form.outputs)


def _count(spec: KernelSpec, form: Form) -> int:
    images, rows, columns = _tiles(spec, form)
    return images * rows * columns


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes 3 x 3 convolutions with stride 1 of whole vectors of channels; of the forms the one predicted to be faster."""
    refusal = check_float(NAME, spec)
    if refusal:
        return refusal
    reasons = {
        f"takes 3 x 3 kernels only, not {spec.kh} x {spec.kw}": (spec.kh, spec.kw) != (3, 3),
        "takes stride 1 and dilation 1 only": spec.stride != (1, 1) or spec.dilation != (1, 1),
        f"takes one group only, not {spec.groups}": spec.groups != 1,
        "needs weights that are constant": not spec.weight_constant,
        "packs no results": spec.packed is not None,
        f"needs {LEAST_CHANNELS} channels on both sides": min(spec.c, spec.oc) < LEAST_CHANNELS,
        "has an extent of zero": not spec.macs,
        "holds more weights than it is given, which are to take little": target.micro or target.compact,
    }
    for reason, holds in reasons.items():
        if holds:
            return Refusal(NAME, reason)
    plans = [plan_of(spec, target, form, name) for form, name in ((F2, "f2"), (F4, "f4"))]
    return min(plans, key=lambda plan: cycles(spec, plan, target))


def plan_of(spec: KernelSpec, target: Target, form: Form, name: str) -> Schedule:
    """The schedule of one form, called `name`."""
    tiles = _count(spec, form)
    tile = choose_tile(NAME, TURN, spec.oc, spec.c, target, folds=folds(spec, target))
    far = _weights(spec, form) > FAR
    turns = -(-tiles // (2 * TURN if far else TURN))
    runs = -(-tiles // (turns * tile.pixels))  # register tiles of a turn, as even as can be
    pixels = -(-tiles // (turns * runs))
    turn = min(tiles, pixels * runs)
    whole = (far and tiles < spec.oc) or (spec.threads > 1 and turns < ENOUGH * spec.threads)
    return Schedule(NAME, pixels, tile.vectors, tile.lanes, Turns(name, form, turn, whole), tile.fold)


def _weights(spec: KernelSpec, form: Form) -> int:
    return 4 * form.products * spec.c * spec.oc


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: both transforms, two operations at a time, the products, and the weights brought for each turn."""
    detail = _turns(plan)
    form, tiles = detail.form, _count(spec, detail.form)
    n, m, lines = form.reads, form.outputs, 2 * len(form.pairs)
    inputs = 2 * n * (4 + lines * (len(form.pairs) + 1)) + 3 * form.products
    outputs = (n + m) * (2 * lines + m * len(form.pairs)) + 2 * form.products + 6 * m * m
    around = tiles * (inputs * _vectors(spec.c, target.lanes, target) + outputs * _vectors(spec.oc, plan.lanes, target))
    turns = -(-tiles // detail.turn)
    step = max(plan.tile * cost.wide(plan, target) / 2, (plan.pixels + plan.vectors) / 2, cost.LATENCY)
    bodies = turns * -(-detail.turn // plan.pixels) * -(-spec.oc // plan.block) * form.products
    products = bodies * (spec.c // plan.fold * step + cost.FINISH * plan.fold * plan.tile + cost.AROUND / 2)
    held = _weights(spec, form)
    brought = held * (1 if detail.whole else turns) / next(rate for size, rate in CACHES if held <= size)
    return around + max(products, brought) + brought / 2


def _vectors(channels: int, lanes: int, target: Target) -> float:
    """Cycles of an operation on all channels, on vectors of at most `lanes`; narrow ones are between those of the cores of `BOTH`."""
    while lanes > channels:
        lanes //= 2
    narrow = (1 + target.wide_cost) / 2 if target.lanes == BOTH else 1
    return -(-channels // lanes) * (target.wide_cost if lanes == target.lanes else narrow) / 2


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights (oc, c, 3, 3) -> G w G' as (1, blocks, m + 2, m + 2, c, block); folded as `interleaved`."""
    form = _turns(plan).form
    both = np.kron(form.kernel(), form.kernel()).T  # (m + 2)^2 numbers of 9 in one product
    taps = weights.reshape(-1, 9)
    made, room = np.empty((len(taps), form.products), np.float32), np.empty((NEAR, form.products))
    for start in range(0, len(taps), NEAR):  # doubles that stay in a near cache, and in the same pages
        part = taps[start : start + NEAR].astype(np.float64)
        made[start : start + NEAR] = np.matmul(part, both, out=room[: len(part)])
    blocks = layouts.conv_blocks(made.reshape(*weights.shape[:2], form.reads, form.reads), 1, plan.block)
    return interleaved(blocks, plan.fold)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (plan.block, plan.fold, _turns(plan).form)


def emit(spec: KernelSpec, plan: Schedule, name: str) -> Any:
    """The kernel as TIR: operands x, weights, the epilogue's operands, y. It calls the parts of `winograd_parts`."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    form = _turns(plan).form
    shape = (1, -(-spec.oc // plan.block), form.reads, form.reads, spec.c // plan.fold, plan.block * plan.fold)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.dtype))
            w = T.arg("w", T.buffer(shape, spec.dtype))
            extra = {label: T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)}
            y = T.arg("y", T.buffer(spec.y_shape, spec.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            kernel = _Kernel(spec, plan, x, w, extra, y)
            kernel.loops()
    return builder.get().with_attr(parts.PARTS, kernel.parts)


class _Kernel:
    """The statements of one kernel, which are calls of its `parts` in loops."""

    def __init__(self, spec: KernelSpec, plan: Schedule, x, w, extra: dict, y):
        self.spec, self.plan, self.detail = spec, plan, _turns(plan)
        self.form, self.turn = self.detail.form, self.detail.turn
        self.x, self.w, self.extra, self.y = x, w, extra, y
        self.tiles, self.blocks = _count(spec, self.form), -(-spec.oc // plan.block)
        self.lanes = plan.lanes
        while self.lanes > spec.c:
            self.lanes //= 2
        self.runs = -(-self.turn // plan.pixels)  # register tiles of a turn
        self.inputs = parts.inputs(self.form, self.lanes)
        self.products = parts.products(self.form, plan, spec.c, plan.block * plan.fold // self.runs)
        self.outputs = parts.outputs(self.form, plan.lanes, spec.epilogue, tuple(extra))
        self.parts = [self.inputs, self.products, self.outputs]

    def loops(self) -> None:
        """Turns of tiles, or all tiles and then blocks of output channels by turns."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        threads, turn = self.spec.threads, self.turn
        turns = -(-self.tiles // turn)
        if not self.detail.whole:
            with (T.parallel if threads > 1 else T.serial)(0, turns) as index:
                first = T.bind(tirx.min(index * turn, self.tiles - turn))
                v = self._room(turn, self.spec.c)
                self._inputs(v, turn, first, turn, 0)
                with T.serial(0, self.blocks) as block:
                    self._outputs(v, turn, block, first, 0)
            return
        v = self._room(self.tiles, self.spec.c)
        with (T.parallel if threads > 1 else T.serial)(0, self.tiles) as tile:
            self._inputs(v, self.tiles, tile, 1, tile)
        with shared_grid(threads, self.blocks, turns) as (block, index):
            first = T.bind(tirx.min(index * turn, self.tiles - turn))
            self._outputs(v, self.tiles, block, first, first)

    def _line(self, tiles: int, width: int) -> int:
        """Floats from one product to the next, an odd number of cache lines, so that they lie in different sets."""
        return tiles * width // 16 // 2 * 32 + 16 + (32 if tiles * width % 32 > 16 else 0)

    def _room(self, tiles: int, width: int):
        from tvm.script.ir_builder import tirx as T

        return T.alloc_buffer((self.form.products * self._line(tiles, width),), "float32")

    def _between(self, lanes: int):
        from tvm.script.ir_builder import tirx as T

        return T.alloc_buffer((max(self.form.products * lanes, STACK // 4),), "float32")

    def _place(self, tile) -> tuple:
        """Image, first row and first column of the outputs of a tile."""
        _, rows, columns = _tiles(self.spec, self.form)
        m = self.form.outputs
        return tile // (rows * columns), tile // columns % rows * m, tile % columns * m

    def _inputs(self, v, tiles: int, tile, count: int, to) -> None:
        """V of `count` tiles from `tile` on, which is tile `to` of the `tiles` there; all channels."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        spec, n = self.spec, self.form.reads
        held = T.alloc_buffer((max(n * n * spec.c, STACK // 4),), "float32")
        buffers = (
            start_of(self.x),
            tirx.address_of(v[to * spec.c]),
            start_of(held),
            start_of(self._between(self.lanes)),
        )
        parts.call(
            self.inputs, buffers, *self._place(tile), count, spec.h, spec.w, spec.c, spec.oh, spec.ow, spec.pads[0],
            spec.pads[1], self._line(tiles, spec.c), n - 1,
        )  # fmt: skip

    def _outputs(self, v, tiles: int, block, first, start) -> None:
        """Products of a turn's tiles for a block of output channels, and its outputs; `start` is its first tile in V."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        spec, plan, turn = self.spec, self.plan, self.turn
        p, line = self._room(turn, plan.block), self._line(turn, plan.block)
        parts.call(
            self.products, (start_of(self.w), tirx.address_of(v[start * spec.c]), start_of(p)), block,
            self.blocks, turn, self.runs, self._line(tiles, spec.c), line,
        )  # fmt: skip
        channel0 = T.bind(tirx.min(block * plan.block, spec.oc - plan.block))
        buffers = (self.y, p, self._between(plan.lanes), *self.extra.values())
        parts.call(
            self.outputs, [*map(start_of, buffers)], *self._place(first), turn, spec.oh, spec.ow, spec.oc, line,
            plan.block, channel0, self.form.reads - 1,
        )  # fmt: skip


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, exact=False)
