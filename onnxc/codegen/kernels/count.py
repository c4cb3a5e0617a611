"""The inner loops of bit-counting kernels: S of `planes`, for a tile of accumulators of 64 bits, or of 32.

for pairs of planes from high to low, doubling between: for kh, (kw, word): acc += popcount(x ^ w)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import WORD, KernelSpec, Schedule, words
from onnxc.codegen.kernels.tile import at, each

FEW_PAIRS = 4  # pairs of planes up to which each has its own loop


def word_bits(plan: Schedule) -> int:
    """Bits of the words that are counted at a time, and of the accumulators."""
    return WORD if plan.lanes <= 8 else WORD // 2


def count(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, flat: bool, pair: Callable) -> None:
    """acc = S: for the pairs of planes what `pair` counts."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    def double() -> None:
        each(plan, lambda p, c, i: T.buffer_store(acc, acc[i] + acc[i], [i]))

    if pairs(spec) <= FEW_PAIRS:
        for number, level in enumerate(planes.schedule_pairs(spec)):
            if number:
                double()
            for i, j, negative in level:
                pair(spec, plan, acc, x, w, (*where, i, j), flat, negative)
        return
    a, b = spec.activation.bits, spec.weight.bits
    with T.serial(0, a + b - 1) as turn:
        double()
        level = a + b - 2 - turn
        first = tirx.max(level - (b - 1), 0)
        with T.serial(0, tirx.min(level, a - 1) + 1 - first) as number:
            i = first + number
            flip = _sign_mask(spec, i, level - i, f"int{word_bits(plan)}")
            _negate(plan, acc, flip)
            pair(spec, plan, acc, x, w, (*where, i, level - i), flat, False)
            _negate(plan, acc, flip)


def count_residual(
    spec: KernelSpec, plan: Schedule, acc, total, scales, where: tuple, source: tuple, pair: Callable
) -> None:
    """total = sum of scales[k] S_k, float32, over the planes of x; `source` is (x, w, flat)."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    x, w, flat = source
    kind = f"int{word_bits(plan)}"
    each(plan, lambda p, c, i: T.buffer_store(total, tirx.const(0.0, "float32"), [i]))
    with T.serial(0, spec.activation.bits) as plane:
        for j in range(spec.weight.bits - 1, -1, -1):
            if j == spec.weight.bits - 1:
                each(plan, lambda p, c, i: T.buffer_store(acc, tirx.const(0, kind), [i]))
            else:
                each(plan, lambda p, c, i: T.buffer_store(acc, acc[i] + acc[i], [i]))
            pair(spec, plan, acc, x, w, (*where, plane, j), flat, planes.negative(spec.weight, j))

        def add(p, c, i):
            part = tirx.Cast("float32", tirx.Cast("int32", acc[i])) * scales[plane]
            T.buffer_store(total, total[i] + part, [i])

        each(plan, add)


def pairs(spec: KernelSpec) -> int:
    """How many pairs of planes are counted: one of the activations with one of the weights each."""
    return spec.activation.bits * spec.weight.bits


def _sign_mask(spec: KernelSpec, i, j, kind: str):
    """-1 where a pair of planes counts negatively, else 0; None where none does."""
    from tvm import tirx

    flags = [
        tirx.Cast(kind, tirx.EQ(plane, e.bits - 1))
        for e, plane in ((spec.activation, i), (spec.weight, j))
        if e.levels == "signed"
    ]
    if not flags:
        return None
    zero = tirx.const(0, kind)
    return zero - (flags[0] ^ flags[1] if len(flags) == 2 else flags[0])


def _negate(plan: Schedule, acc, mask) -> None:
    """acc = -acc where `mask` is -1: (a ^ -1) - -1 = -a."""
    from tvm.script.ir_builder import tirx as T

    if mask is not None:
        each(plan, lambda p, c, i: T.buffer_store(acc, (acc[i] ^ mask) - mask, [i]))


@dataclass(frozen=True)
class Walk:
    """The words that a tile meets for one pair of planes: loops over kh, `taps` and `inner`.

    `source(pixel, kh, tap, k)` is the index of a pixel's word in x; `step(kh, tap, k)` counts the steps of the packed weights.
    """

    taps: int
    inner: int
    source: Callable
    step: Callable


def walk(spec: KernelSpec, bits: int, where: tuple, flat: bool) -> Walk:
    """The walk in words of `bits` bits. `where` is (group, block, image, row, first pixel, plane of x, plane of weights).

    kw and the words of a pixel are one loop where they lie side by side. `flat`: all pixels are one row.
    """
    g, block, n, row, first, i, j = where
    _, images, rows, columns, line = planes.packed_shape(spec)
    channels = spec.c // spec.groups
    depth, room = -(-channels // bits), words(channels) * WORD // bits
    line = line * WORD // bits
    joined = spec.groups == 1 and spec.dilation[1] == 1 and depth == room
    taps, inner = (1, spec.kw * depth) if joined else (spec.kw, depth)
    if flat:
        images, rows, columns = 1, 1, images * rows * columns

    def source(pixel: int, kh, kw, k):
        top = ((i * images + n) * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns
        column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
        return (top + column) * line + g * room + k

    def step(kh, kw, k):
        return (((block * spec.weight.bits + j) * spec.kh + kh) * taps + kw) * inner + k

    return Walk(taps, inner, source, step)


def count_words(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, flat: bool, negative: bool) -> None:
    """acc +- counts of one plane of x with one of w."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    bits = word_bits(plan)
    words = walk(spec, bits, where, flat)
    xor = planes.counts_xor(spec)
    with T.grid(spec.kh, words.taps, words.inner) as (kh, kw, k):
        base = words.step(kh, kw, k) * plan.block

        def product(pixel, lane, index):
            word, other = x[at(x, words.source(pixel, kh, kw, k))], w[at(w, base + lane)]
            found = tirx.Cast(f"int{bits}", tirx.popcount(word ^ other if xor else word & other))
            T.buffer_store(acc, acc[index] - found if negative else acc[index] + found, [index])

        each(plan, product)
