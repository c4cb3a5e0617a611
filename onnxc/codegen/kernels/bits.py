"""Direct convolution of few-bit integers by counting bits, channels-last, and with it every few-bit matrix product.

Operands: x packed and padded (`planes.packed_shape`), weights (`planes.pack_weights`), the table of constants, the
epilogue's operands, y. Loops, outermost first: group, block of output channels, image, row, tile of pixels; then pairs of
planes from high to low, doubling the sums between (Horner), kh and the contiguous (kw, word). A tile is `pixels` x
`vectors` accumulators in registers: a word of input channels is broadcast, a vector holds that word of the weights of
neighbouring output channels. docs/kernels.md derives the limits.

Words have 64 bits, and 32 where vectors have 16 lanes (AVX-512): a count costs the same for a bit, and a vector of results
comes of half as many vectors. The packed activations are the same bytes either way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from onnxc.codegen.kernels import cost, floats_in, planes, residual
from onnxc.codegen.kernels.count import count, count_residual, count_words, word_bits
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.result import Results, packable, vector_of, wide, wide_type
from onnxc.codegen.kernels.spec import WORD, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, each, epilogue, operands, shared_grid
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "bits.direct"
ACCUMULATORS = 14


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed activations with packed weights."""
    refusal = check_bits(NAME, spec)
    if refusal:
        return refusal
    best = min(_tiles(spec, target), key=lambda plan: cycles(spec, plan, target))
    if spec.source is not None:
        reason = floats_in.reason_against(spec, math.prod(packed_shape(spec, best)) * word_bits(best) // 8)
        if not reason and best.lanes != 16:
            reason = f"packs its own input beside vectors of 16 lanes only, not {best.lanes}"
        if reason:
            return Refusal(NAME, reason)
    return packable(spec, best)


def check_bits(rule: str, spec: KernelSpec) -> Refusal | None:
    """The refusal that all families share that count packed bits."""
    if spec.activation.kind != "bits" or spec.weight.kind != "bits":
        return Refusal(rule, f"takes packed bits only, not {spec.activation.text()} x {spec.weight.text()}")
    if not spec.macs:
        return Refusal(rule, "has an extent of zero")
    return None


def _tiles(spec: KernelSpec, target: Target) -> Iterator[Schedule]:
    """The tiles that fit the registers; those that can pack the result, if any can."""
    channels, widest = spec.oc // spec.groups, max(target.lanes // 2, 1)
    while widest > channels:
        widest //= 2
    sizes = [widest]
    if target.lanes == 16 and channels >= 16 and "avx512vpopcntdq" in features(target):
        sizes.append(16)
    if spec.packed is not None and channels % 16:
        sizes = [widest]
    for lanes in sizes:  # of equals the first wins
        for vectors in range(1, min(8, channels // lanes) + 1):
            for height in range(1, min(16, spec.row) + 1):
                if height * vectors <= ACCUMULATORS and height + 2 * vectors <= 28:
                    yield Schedule(NAME, height, vectors, lanes)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: xor, count and add of words; machines without an instruction that counts take a dozen others."""
    if plan.lanes == 1:
        word: float = 3 if target.arch in ("x86_64", "aarch64", "wasm32") else 14
    elif target.arch != "x86_64":
        word = {"riscv64": 8, "armv7": 6}.get(target.arch, 3)
    else:
        word = 1.5 if "avx512vpopcntdq" in features(target) else 2.6 * cost.wide_words(plan, target)
    loads = plan.pixels / 2 + plan.vectors  # one of 512 bits a cycle, or two smaller ones
    return few_bit_cycles(spec, plan, max(plan.tile * word, loads), word_bits(plan))


def few_bit_cycles(spec: KernelSpec, plan: Schedule, step: float, bits: int = WORD) -> float:
    """Cycles of a kernel whose steps each take a word of `bits` channels, for every pair of planes."""
    pairs = spec.activation.bits * spec.weight.bits
    steps = spec.kh * spec.kw * -(-(spec.c // spec.groups) // bits) * pairs
    return cost.tiled(spec, plan, steps=steps, step=step, groups=spec.groups)


def depth(spec: KernelSpec, plan: Schedule) -> int:
    """Words of a pixel's channels of one group."""
    return -(-(spec.c // spec.groups) // word_bits(plan))


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c/groups, kh, kw) -> words."""
    return planes.pack_weights(spec, plan.block, weights, word_bits(plan))


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (spec.groups, spec.weight, plan.block, word_bits(plan))


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    blocks = -(-spec.oc // spec.groups // plan.block)
    return (spec.groups, blocks, spec.weight.bits, spec.kh, spec.kw * depth(spec, plan), plan.block)


def table_dtype(spec: KernelSpec) -> str:
    """Float where every sum is exact in it; thresholds are compared with the counts themselves."""
    if spec.epilogue[:1] in ((("threshold", False),), (("threshold", True),)):
        return "int32"
    return "float32" if residual.is_residual(spec) or planes.largest(spec) < 1 << 24 else "int32"


def tables(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> list[np.ndarray]:
    """What the kernel reads besides the packed weights: the constants of `planes.table`.

    Residual planes have `residual.table` and their scales instead, which come with the layer.
    """
    return [planes.table(spec, weights).astype(table_dtype(spec))]


def emit(spec: KernelSpec, plan: Schedule, name: str, pair: Callable = count_words, shape: tuple[int, ...] = ()):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y, the packed result.

    `pair` writes the loops that count for one pair of planes; `shape` is that of the weights if they lie in another way.
    With a step ("threshold", flips) for its only one the constants are thresholds of counts and, if it flips, a mask.
    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = floats_in.Floats(spec) if spec.source else T.arg("x", T.buffer(planes.packed_shape(spec), "uint64"))
            w = T.arg("w", T.buffer(shape or packed_shape(spec, plan), f"uint{word_bits(plan)}"))
            read, out = declare_rest(spec, plan.lanes)
            _loops(spec, plan, x, w, read, out, pair)
    return builder.get()


def _declare_scales(spec: KernelSpec):
    from tvm.script.ir_builder import tirx as T

    return T.arg("planes", T.buffer((spec.activation.bits,), "float32")) if residual.is_residual(spec) else None


def declare_rest(spec: KernelSpec, lanes: int) -> tuple[tuple, Results]:
    """The operands after the weights: ((constants, the epilogue's operands, scales of residual planes or None), results)."""
    from tvm.script.ir_builder import tirx as T

    constants = T.arg("constants", T.buffer(planes.table_shape(spec), table_dtype(spec)))
    scales = _declare_scales(spec)
    if spec.epilogue[:1] == (("threshold", True),):
        extra = [T.arg("flip", T.buffer((spec.oc,), "int32"))]
    else:
        extra = [T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)]
    out = Results(spec, lanes)
    T.func_attr({"tirx.noalias": True, "op_pattern": 8})
    out.start()
    return (constants, extra, scales), out


def _loops(spec: KernelSpec, plan: Schedule, x, w, read: tuple, out: Results, pair: Callable) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    flat = spec.pointwise and not out.padded
    images, oh, ow = (1, 1, spec.n * spec.h * spec.w) if flat else (spec.n, spec.oh, spec.ow)
    oc = spec.oc // spec.groups
    blocks, tiles = -(-oc // plan.block), -(-ow // plan.pixels)
    kind = f"int{word_bits(plan)}"
    if isinstance(x, floats_in.Floats):
        x.start()
        grid, x = x.grid(spec.groups, blocks, tiles), x.words(word_bits(plan))
    else:
        grid = shared_grid(spec.threads, spec.groups, blocks, images, oh, tiles)
        if word_bits(plan) < WORD:
            *outer, line = planes.packed_shape(spec)
            x = T.decl_buffer((*outer, line * WORD // word_bits(plan)), f"u{kind}", data=x.data)
    with grid as (g, block, n, row, tile):
        acc = T.alloc_buffer((plan.pixels * plan.block,), kind)
        first = tirx.min(tile * plan.pixels, ow - plan.pixels)
        channel0 = g * oc + tirx.min(block * plan.block, oc - plan.block)
        place, found = (g, g * blocks + block, n, row, first), acc
        if read[2] is not None:
            found = T.alloc_buffer((plan.pixels * plan.block,), "float32")
            count_residual(spec, plan, acc, found, read[2], place, (x, w, flat), pair)
        else:
            each(plan, lambda p, c, i: T.buffer_store(acc, tirx.const(0, kind), [i]))
            count(spec, plan, acc, x, w, place, flat, pair)
        store_tile(spec, plan, lambda at_, found=found: found[at_], read, out, (n, row, first, channel0, oh, ow))


def store_tile(spec: KernelSpec, tile: Schedule, counted: Callable, read: tuple, out: Results, where: tuple) -> None:
    """Stores the results of a tile of `tile.pixels` x `tile.vectors` x `tile.lanes`; `counted(index)` is a vector of S."""
    constants, extra, _ = read
    n, row, first, channel0, oh, ow = where
    class_ = _class_of(spec, row, first)
    for pixel, vector in itertools.product(range(tile.pixels), range(tile.vectors)):
        channel = vector_of(channel0 + vector * tile.lanes, tile.lanes)
        found = counted(vector_of((pixel * tile.vectors + vector) * tile.lanes, tile.lanes))
        constant = constants[at(constants, class_(pixel) * spec.oc + channel)]
        offset = ((n * oh + row) * ow + first + pixel) * spec.oc + channel
        if spec.epilogue[:1] == (("threshold", bool(extra)),):
            tests = [_test(spec, found, constant, extra, channel)]
            out.store_tests(tests, (n, row, first + pixel), channel0 + vector * tile.lanes)
        else:
            value = epilogue(spec, _sum(spec, found, constant, tile.lanes), extra, channel, offset)
            out.store(value, offset, (n, row, first + pixel), channel0 + vector * tile.lanes)


def _sum(spec: KernelSpec, counted, constant, lanes: int):
    """multiplier * S + constant, as float32."""
    from tvm import tirx

    dtype = table_dtype(spec)
    if lanes < 8 and not residual.is_residual(spec):  # without AVX-512 no vector of int64 becomes floats
        counted = tirx.Cast(wide_type("int32", lanes), counted)
    value = tirx.Cast(wide_type(dtype, lanes), counted) * wide(tirx.const(planes.multiplier(spec), dtype), lanes)
    return value + constant if dtype == "float32" else tirx.Cast(wide_type("float32", lanes), value + constant)


def _test(spec: KernelSpec, counted, threshold, extra: list, channel):
    """Whether a count passes its threshold; counts of channels that fall where others rise are complemented first."""
    from tvm import tirx

    if extra:
        counted = counted ^ tirx.Cast(counted.ty.dtype, extra[0][channel])
    threshold = tirx.Cast(counted.ty.dtype, threshold)
    return counted <= threshold if planes.multiplier(spec) < 0 else counted >= threshold


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


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, tables, packs=True, takes_floats=True)
