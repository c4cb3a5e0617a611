"""Direct convolution of few-bit integers by counting bits, channels-last, and with it every few-bit matrix product.

Operands: x packed and padded (`planes.packed_shape`), weights (`planes.pack_weights`), the table of constants, the
epilogue's operands, y. Loops, outermost first: group, block of output channels, image, row, tile of pixels; then pairs of
planes from high to low, doubling the sums between (Horner), kh and the contiguous (kw, word). A tile is `pixels` x
`vectors` accumulators in registers: a word of 64 input channels is broadcast, a vector holds that word of the weights of
neighbouring output channels. docs/kernels.md derives the limits.
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, each, epilogue, operands, shared_grid
from onnxc.codegen.target import Target

NAME = "bits.direct"
UNROLL = 12  # steps of (kh, kw, word) up to which a tile is straight-line code
ACCUMULATORS = 14
FEW_PAIRS = 4  # pairs of planes up to which each has its own loop


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed activations with packed weights."""
    if spec.activation.kind != "bits" or spec.weight.kind != "bits":
        return Refusal(NAME, f"takes packed bits only, not {spec.activation.text()} x {spec.weight.text()}")
    if not spec.macs:
        return Refusal(NAME, "has an extent of zero")
    lanes, channels = max(target.lanes // 2, 1), spec.oc // spec.groups
    while lanes > channels:
        lanes //= 2
    pixels = spec.n * spec.h * spec.w if spec.pointwise else spec.ow
    best = None
    for vectors in range(1, min(8, channels // lanes) + 1):
        for height in range(1, min(16, pixels) + 1):
            if height * vectors > ACCUMULATORS or height + 2 * vectors > 28:
                continue
            cost = -(-channels // (lanes * vectors)) * -(-pixels // height) * _tile_cost(spec, height, vectors)
            if best is None or cost < best[0]:
                best = cost, Schedule(NAME, height, vectors, lanes)
    return best[1]


def _tile_cost(spec: KernelSpec, height: int, vectors: int) -> float:
    """Cycles of a tile: xor, count, add at two a cycle; loads at two a cycle; chains of adds; what surrounds them."""
    steps = spec.kh * spec.kw * planes.words(spec.c // spec.groups)
    step = max(1.5 * height * vectors, (height + vectors * 2) / 2, 4)
    return spec.activation.bits * spec.weight.bits * steps * step + 3 * height * vectors + 12


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c/groups, kh, kw) -> words."""
    return planes.pack_weights(spec, plan.block, weights)


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    blocks = -(-spec.oc // spec.groups // plan.block)
    depth = spec.kw * planes.words(spec.c // spec.groups)
    return (spec.groups, blocks, spec.weight.bits, spec.kh, depth, plan.block)


def table_dtype(spec: KernelSpec) -> str:
    """Float where every sum is exact in it."""
    return "float32" if planes.largest(spec) < 1 << 24 else "int32"


def tables(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> list[np.ndarray]:
    """What the kernel reads besides the packed weights: the constants of `planes.table`."""
    return [planes.table(spec, weights).astype(table_dtype(spec))]


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(planes.packed_shape(spec), "uint64"))
            w = T.arg("w", T.buffer(packed_shape(spec, plan), "uint64"))
            constants = T.arg("constants", T.buffer(planes.table_shape(spec), table_dtype(spec)))
            extra = [T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)]
            y = T.arg("y", T.buffer(spec.y_shape, spec.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            _loops(spec, plan, x, w, (constants, extra), y)
    return builder.get()


def _loops(spec: KernelSpec, plan: Schedule, x, w, read: tuple, y) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    constants, extra = read
    flat = spec.pointwise
    images, oh, ow = (1, 1, spec.n * spec.h * spec.w) if flat else (spec.n, spec.oh, spec.ow)
    oc = spec.oc // spec.groups
    blocks, tiles = -(-oc // plan.block), -(-ow // plan.pixels)
    with shared_grid(spec.threads, spec.groups, blocks, images, oh, tiles) as (g, block, n, row, tile):
        acc = T.alloc_buffer((plan.pixels * plan.block,), "int64")
        first = tirx.min(tile * plan.pixels, ow - plan.pixels)
        channel0 = tirx.min(block * plan.block, oc - plan.block)
        each(plan, lambda p, c, i: T.buffer_store(acc, tirx.const(0, "int64"), [i]))
        _counts(spec, plan, acc, x, w, (g, g * blocks + block, n, row, first))
        where = _class_of(spec, row, first)

        def store(pixel, lane, i):
            channel = g * oc + channel0 + lane
            offset = ((n * oh + row) * ow + first + pixel) * spec.oc + channel
            T.buffer_store(
                y,
                epilogue(spec, _sum(spec, acc[i], constants, where(pixel), channel), extra, channel, offset),
                at(y, offset),
            )

        each(plan, store)


def _sum(spec: KernelSpec, count, constants, place, channel):
    """multiplier * S + constant, as float32."""
    from tvm import tirx

    dtype = table_dtype(spec)
    value = tirx.Cast(dtype, count) * tirx.const(planes.multiplier(spec), dtype)
    value = value + constants[at(constants, place * spec.oc + channel)]
    return value if dtype == "float32" else tirx.Cast("float32", value)


def _class_of(spec: KernelSpec, row, first):
    """A function from the pixel of a tile to the row of the table of constants, in units of oc."""
    from tvm import tirx

    rows, columns = planes.borders(spec)

    def class_(border: planes.Border, position, out: int):
        if len(border.inside) == 1:
            return 0
        late = tirx.max(position - (out - border.after - 1), 0) if border.after else 0
        return tirx.min(position, border.before) + late

    return lambda pixel: class_(rows, row, spec.oh) * len(columns.inside) + class_(columns, first + pixel, spec.ow)


def _counts(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple) -> None:
    """acc = S: for the pairs of planes, for kh, kw, word."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    def double() -> None:
        each(plan, lambda p, c, i: T.buffer_store(acc, acc[i] + acc[i], [i]))

    if _pairs(spec) <= FEW_PAIRS:
        for number, level in enumerate(planes.schedule_pairs(spec)):
            if number:
                double()
            for i, j, negative in level:
                _pair(spec, plan, acc, x, w, (*where, i, j), negative)
        return
    a, b = spec.activation.bits, spec.weight.bits
    with T.serial(0, a + b - 1) as turn:
        double()
        level = a + b - 2 - turn
        first = tirx.max(level - (b - 1), 0)
        with T.serial(0, tirx.min(level, a - 1) + 1 - first) as number:
            i = first + number
            flip = _sign_mask(spec, i, level - i)
            _negate(plan, acc, flip)
            _pair(spec, plan, acc, x, w, (*where, i, level - i), False)
            _negate(plan, acc, flip)


def _pairs(spec: KernelSpec) -> int:
    return spec.activation.bits * spec.weight.bits


def _sign_mask(spec: KernelSpec, i, j):
    """-1 where a pair of planes counts negatively, else 0; None where none does."""
    from tvm import tirx

    flags = [
        tirx.Cast("int64", tirx.EQ(plane, e.bits - 1))
        for e, plane in ((spec.activation, i), (spec.weight, j))
        if e.levels == "signed"
    ]
    if not flags:
        return None
    zero = tirx.const(0, "int64")
    return zero - (flags[0] ^ flags[1] if len(flags) == 2 else flags[0])


def _negate(plan: Schedule, acc, mask) -> None:
    """acc = -acc where `mask` is -1: (a ^ -1) - -1 = -a."""
    from tvm.script.ir_builder import tirx as T

    if mask is not None:
        each(plan, lambda p, c, i: T.buffer_store(acc, (acc[i] ^ mask) - mask, [i]))


def _pair(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, negative: bool) -> None:
    """acc +- counts of one plane of x with one of w."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    g, block, n, row, first, i, j = where
    _, images, rows, columns, line = planes.packed_shape(spec)
    depth = planes.words(spec.c // spec.groups)
    joined = spec.groups == 1 and spec.dilation[1] == 1
    taps, inner = (1, spec.kw * depth) if joined else (spec.kw, depth)
    if spec.pointwise:
        rows, columns = 1, images * rows * columns
        images = 1
    xor = planes.counts_xor(spec)

    def step(kh, kw, k):
        top = ((i * images + n) * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns
        base = ((((block * spec.weight.bits + j) * spec.kh + kh) * taps + kw) * inner + k) * plan.block

        def product(pixel, lane, index):
            column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
            word, other = x[at(x, (top + column) * line + g * depth + k)], w[at(w, base + lane)]
            found = tirx.Cast("int64", tirx.popcount(word ^ other if xor else word & other))
            T.buffer_store(acc, acc[index] - found if negative else acc[index] + found, [index])

        each(plan, product)

    if spec.kh * taps * inner * _pairs(spec) <= UNROLL:
        for kh in range(spec.kh):
            for kw in range(taps):
                for k in range(inner):
                    step(kh, kw, k)
    else:
        with T.grid(spec.kh, taps, inner) as (kh, kw, k):
            step(kh, kw, k)
