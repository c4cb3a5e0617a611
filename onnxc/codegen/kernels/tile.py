"""Choice of the register tile, and the TIR pieces that every tiled kernel shares: padding, tile loops, epilogue.

Kernels are written with TVM's IR builder, already tiled. A buffer is indexed by one linear offset in its last axis
(`at`), so a kernel does not care how the graph shapes its operands. Extents that a tile does not divide are covered
by a last tile that starts earlier and overlaps the one before: it computes some elements twice and writes the same
values, so no kernel has a masked or scalar remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import Any

from onnxc.codegen.kernels.spec import CHANNEL_STEPS, FLOAT32, Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.target import Target

ACCUMULATOR_BYTES = 960  # TVM keeps a buffer of less than 1024 bytes on the stack, where LLVM turns it into registers
SPLIT_BYTES = 1024  # of sums in several such buffers: 16 full vectors of AVX-512
TURNS = 8  # of a parallel loop a thread, so that what does not divide makes little difference
FEW_TURNS = 2  # where each begins by bringing weights from a second cache
LINE_BYTES = 64
CACHES = ((1 << 15, 0.0), (1 << 19, 3.0), (float("inf"), 8.0))  # bytes, and half cycles a line from there; usual sizes
BOTH = (
    16  # lanes: of the cores with AVX-512 some multiply a full vector in a cycle, some two, so tiles are judged by both
)
LATENCY = 10  # half cycles until the result of a multiply-add can be used again


@lru_cache(1024)  # layers of a network are asked about in several forms
def choose_tile(
    family: str,
    pixels: int,
    channels: int,
    depth: int,
    target: Target,
    most: int = 16,
    least: int = 1,
    detail: Detail | None = None,
    split: bool = False,
    folds: tuple[int, ...] = (1,),
) -> Schedule:
    """The cheapest tile for `pixels` x `channels` outputs of `depth` products each, or the one of the target's `rank` behind it.

    Model, in half cycles a step: the multiply-adds (`wide_cost` at full width), the loads (one a vector of weights,
    one a broadcast pixel), and not less than the latency of one accumulator, nor than it takes to bring the weights from the
    cache that a block of them fits. To that comes the tile's epilogue.
    `most` bounds the pixels of a tile, `least` its lanes from below; `split` sums lie in several buffers (`Sums`). Where `folds`
    allows, vectors of fewer channels than a register has lanes take so many input channels a step.
    """
    ranked = []
    for lanes, fold, vectors, height in _tiles(pixels, channels, target, most, least, split, folds):
        full = lanes * fold == target.lanes
        rates = {target.wide_cost, 1 if target.lanes == BOTH else target.wide_cost} if full else {1}
        lines = lanes * fold * vectors * 4 / LINE_BYTES
        supply = lines * next(cost for size, cost in CACHES if depth // fold * lines * LINE_BYTES <= size)
        step = sum(max(height * vectors * rate, height + vectors * rate, supply, LATENCY) for rate in rates) / len(
            rates
        )
        tiles = -(-channels // (lanes * vectors)) * -(-pixels // height)
        cost = tiles * (depth // fold * step + height * vectors * 3 * fold + 12)
        ranked.append((cost, fold, -lanes, -vectors, height))
    order = sorted(ranked, key=lambda row: row[:4]) if target.rank else [min(ranked, key=lambda row: row[:4])]
    _, fold, lanes, vectors, height = order[min(target.rank, len(order) - 1)]
    return Schedule(family, height, -vectors, -lanes, detail, fold)


def _tiles(
    pixels: int, channels: int, target: Target, most: int, least: int, split: bool, folds: tuple[int, ...]
) -> Iterator[tuple[int, int, int, int]]:
    """Lanes, fold, vectors and pixels of the tiles that registers hold."""
    lanes = target.lanes
    while lanes > channels:
        lanes //= 2
    while lanes >= least:
        for fold in (f for f in folds if f == 1 or lanes * f == target.lanes):
            for vectors in range(1, min(8, channels // lanes) + 1):
                for height in range(1, min(most, pixels) + 1):
                    fits = height * vectors + vectors + 1 <= target.registers
                    held = height * vectors * lanes * fold * 4
                    if fits and held <= (SPLIT_BYTES if split else ACCUMULATOR_BYTES):
                        yield lanes, fold, vectors, height
        lanes //= 2


class Sums:
    """The accumulators of a tile, in buffers that are each small enough to become registers."""

    def __init__(self, plan: Schedule, kind: str):
        from tvm.script.ir_builder import tirx as T

        self.block = plan.vectors * plan.width
        self.each = max(1, ACCUMULATOR_BYTES // (4 * self.block))
        counts = [min(self.each, plan.pixels - first) for first in range(0, plan.pixels, self.each)]
        self.buffers = [T.alloc_buffer((count * self.block,), kind) for count in counts]

    def of(self, pixel: int) -> tuple[Any, int]:
        """The buffer that holds the sums of a pixel, and where they begin."""
        return self.buffers[pixel // self.each], pixel % self.each * self.block


def at(buffer, offset):
    """Indices of the element at a linear row-major offset."""
    return [0] * (len(buffer.shape) - 1) + [offset]


def start_of(buffer: Any) -> Any:
    """The address of a buffer's first element."""
    from tvm import tirx

    return tirx.address_of(buffer[at(buffer, 0)])


def prefetch(buffer: Any, offset: Any) -> None:
    """Asks for the cache line of the element at a linear offset, to be read soon."""
    from tvm import ir, tirx
    from tvm.script.ir_builder import tirx as T

    address = tirx.address_of(buffer[at(buffer, offset)])
    read, near, data = (tirx.const(number, "int32") for number in (0, 3, 1))
    T.evaluate(ir.Call(ir.Op.get("tirx.prefetch"), [address, read, near, data], ret_ty="void"))


def each(schedule: Schedule, body: Callable) -> None:
    """Unrolled loops over the tile: `body(pixel, channel, accumulator index)`, the lanes being one vector loop. Of a folded tile
    channels are lanes."""
    from tvm.script.ir_builder import tirx as T

    for pixel in range(schedule.pixels):
        for vector in range(schedule.vectors):
            with T.vectorized(0, schedule.width) as lane:
                channel = vector * schedule.width + lane
                body(pixel, channel, pixel * (schedule.vectors * schedule.width) + channel)


@contextmanager
def shared_grid(threads: int, *extents: int):
    """Loops over `extents`, outermost first, as `T.grid`. For several threads as many of the first as give each thread some
    turns are one parallel loop: (g, b, row, tile) -> parallel gbr: tile, with g = gbr / (blocks rows) and so on.
    """
    from tvm.script.ir_builder import tirx as T

    if threads == 1:
        with T.grid(*extents) as variables:
            yield variables
        return
    joined = next((i for i in range(1, len(extents)) if prod(extents[:i]) >= TURNS * threads), len(extents))
    with T.parallel(0, prod(extents[:joined])) as index:
        outer: list = []
        for extent in reversed(extents[1:joined]):
            outer.insert(0, index % extent)
            index = index // extent
        with T.grid(1, *extents[joined:], 1) as (_, *inner, _):
            yield (index, *outer, *inner)


@contextmanager
def shared_tiles(spec: KernelSpec, blocks: int, images: int, rows: int, tiles: int) -> Iterator[tuple[Any, ...]]:
    """Loops over groups, blocks of output channels, images, rows and tiles of pixels, outermost first, as `shared_grid`.

    Several threads share rows, or the tiles of a single one, and each goes through all channels: so what a thread reads lies mostly in
    its own cache, where it made it, and no two write into one cache line. Where weights do not stay in such a cache, or there are
    too few rows, they share blocks of channels.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    lines = images * rows if images * rows > 1 else tiles
    held = spec.oc * spec.kh * spec.kw * (spec.c // spec.groups) * spec.weight.bits // 8
    turns = min(lines, (TURNS if held <= CACHES[0][0] else FEW_TURNS) * spec.threads)
    if spec.threads == 1 or held > CACHES[1][0] or lines < FEW_TURNS * spec.threads:
        with shared_grid(spec.threads, spec.groups, blocks, images, rows, tiles) as place:
            yield place
        return
    with T.parallel(0, turns) as turn:
        first = T.bind(tirx.truncdiv(turn * lines, turns))
        count = T.bind(tirx.truncdiv((turn + 1) * lines, turns) - first)
        with T.grid(spec.groups, blocks) as (group, block), T.serial(0, count) as i:
            line = first + i
            if lines == tiles and images * rows == 1:
                yield group, block, 0, 0, line
            else:
                with T.serial(0, tiles) as tile:
                    yield group, block, tirx.truncdiv(line, rows), tirx.truncmod(line, rows), tile


def pad_rows(x, spec: KernelSpec):
    """x (n, h, w, c) -> workspace (n, h + pads, w + pads, c) with zeros around; x itself when there is no padding.

    Returns (buffer, rows, columns).
    """
    if not any(spec.pads):
        return x, spec.h, spec.w
    return copy_rows(x, spec, spec.dtype, 0)


def copy_rows(x, spec: KernelSpec, kind: str, fill: int, copy: Callable | None = None, slack: int = 0):
    """x with padding of `fill` around, as elements of `kind`, and room for `slack` more behind it.

    `copy(target, to, source, start, count)` moves a row, element by element where it is not given.
    Returns (buffer, rows, columns).
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    copy = copy or _copy_elements
    top, left, bottom, right = spec.pads
    rows, columns, c = spec.h + top + bottom, spec.w + left + right, spec.c
    padded = T.alloc_buffer((spec.n * rows * columns * c + slack,), kind)
    value = tirx.const(fill, kind)

    def clear(start, count: int) -> None:
        if count:
            with T.serial(0, count) as i:
                T.buffer_store(padded, value, [start + i])

    def one(n, row) -> None:
        start = (n * rows + top + row) * (columns * c)
        clear(start, left * c)
        copy(padded, start + left * c, x, (n * spec.h + row) * (spec.w * c), spec.w * c)
        clear(start + (left + spec.w) * c, right * c)

    if spec.threads > 1:  # any row by any thread
        with T.parallel(0, spec.n * rows) as index:
            row = index % rows - top
            with T.If(tirx.all(row >= 0, row < spec.h)):
                with T.Then():
                    one(index // rows, row)
                with T.Else():
                    clear(index * (columns * c), columns * c)
        return padded, rows, columns
    with T.serial(0, spec.n) as n:
        base = n * (rows * columns * c)
        clear(base, top * columns * c)
        with T.serial(0, spec.h) as row:
            one(n, row)
        clear(base + (top + spec.h) * columns * c, bottom * columns * c)
    return padded, rows, columns


def _copy_elements(target, to, source, start, count: int) -> None:
    from tvm.script.ir_builder import tirx as T

    with T.serial(0, count) as i:
        T.buffer_store(target, source[at(source, start + i)], [to + i])


def operands(spec: KernelSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what the epilogue reads, in the order of its steps."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for i, step in enumerate(spec.epilogue):
        if step[0] in CHANNEL_STEPS:
            found.append((f"{step[0]}{i}", (spec.oc,)))
        elif step[0] == "residual":
            found.append((f"residual{i}", spec.y_shape))
    return found


def epilogue(spec: KernelSpec, value, buffers: list, channel, offset):
    """The epilogue's steps applied to an accumulator: `channel` indexes channel vectors, `offset` the residual."""
    return float_steps(spec.dtype, spec.epilogue, value, iter(buffers), channel, offset)


def float_steps(kind: str, steps: tuple, value, left: Iterator, channel, offset):
    """`value`, of type `kind`, after `steps`; `left` iterates over the buffers that they read."""
    from tvm import tirx

    zero = tirx.const(0, kind)
    for step in steps:
        match step[0]:
            case "bias" | "add":
                value = value + next(left)[channel]
            case "mul":
                value = value * next(left)[channel]
            case "residual":
                other = next(left)
                value = value + other[at(other, offset)]
            case "relu":
                value = tirx.max(zero, value)  # of two that do not compare, NaN, it is the second
            case "clip":
                value = tirx.min(tirx.const(step[2], kind), tirx.max(tirx.const(step[1], kind), value))
            case "leaky_relu":
                value = tirx.Select(value > zero, value, value * tirx.const(step[1], kind))
            case "prelu":
                value = tirx.Select(value > zero, value, value * next(left)[channel])
            case "sigmoid":
                value = tirx.sigmoid(value)
            case "add_scalar":
                value = value + tirx.const(step[1], kind)
            case "mul_scalar":
                value = value * tirx.const(step[1], kind)
            case "gate":
                value = value * float_steps(kind, step[1], value, left, channel, offset)
            case unknown:
                raise ValueError(f"no epilogue step {unknown}")
    return value


def check_float(rule: str, spec: KernelSpec) -> Refusal | None:
    """The refusal that all float32 families share."""
    if spec.dtype != "float32":
        return Refusal(rule, f"takes float32 only, not {spec.dtype}")
    held = {"activations": spec.activation, "weights": spec.weight}
    if spec.packed is None:
        held["outputs"] = spec.output
    for what, encoding in held.items():
        if encoding != FLOAT32:
            return Refusal(rule, f"takes float32 only, not {encoding.text()} {what}")
    if spec.pad_value:
        return Refusal(rule, f"pads with 0 only, not {spec.pad_value}")
    return None
