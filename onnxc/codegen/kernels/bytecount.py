"""Bit counting in byte lanes, where there is no instruction that counts 64-bit lanes: AVX2, SSSE3, AVX-512BW, NEON.

    acc8[b] += popcount8(byte b of x ^ w), at most 31 times (31 x 8 = 248); then acc[lane] += sum of its eight bytes

A step is exclusive or, count, add: three operations of NEON (eor, cnt, add); eight where a count is two vpshufb of nibbles.
The sum of eight bytes costs one instruction on x86 (vpsadbw) and three on Arm (uaddlp twice, uadalp), once in 31 steps.
Layouts, tables and epilogues are those of bits.direct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from onnxc.codegen.kernels import bits, cost, planes
from onnxc.codegen.kernels.count import walk
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8_dot import ramp
from onnxc.codegen.kernels.result import packable
from onnxc.codegen.kernels.spec import WORD, Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import ACCUMULATOR_BYTES, at
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "bits.bytes"
MOST = 31  # counts of a byte that a byte can hold
PSADBW = {2: "llvm.x86.sse2.psad.bw", 4: "llvm.x86.avx2.psad.bw", 8: "llvm.x86.avx512.psad.bw.512"}


@dataclass(frozen=True)
class ByteSum(Detail):
    """How a machine sums eight bytes: `total(counts, lanes)` makes int64 lanes of uint8 ones.

    `spare` registers are for constants, broadcasts and what is on its way; `step(plan, target)` is the cycles of a step.
    """

    spare: int
    step: Callable[[Schedule, Target], float]
    total: Callable


def _psadbw(counts, lanes: int):
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(f"int64x{lanes}", PSADBW[lanes], counts, _zeros(lanes))


def _pairwise(name: str) -> Callable:
    """Three sums of neighbours, each twice as wide."""

    def total(counts, lanes: int):
        from tvm import tirx

        halves = tirx.call_llvm_pure_intrin("int16x8", f"{name}.v8i16.v16i8", counts)
        words = tirx.call_llvm_pure_intrin("int32x4", f"{name}.v4i32.v8i16", halves)
        return tirx.call_llvm_pure_intrin("int64x2", f"{name}.v2i64.v4i32", words)

    return total


def _operations(plan: Schedule, each: float, broadcast: float) -> float:
    """Cycles of a step: `each` for a vector of counts, a `broadcast` a pixel, a load a vector of weights."""
    return each * plan.tile + broadcast * plan.pixels + plan.vectors / 4


SUMS = {
    how.name: how
    for how in (
        ByteSum("x86_64", 7, lambda plan, target: _operations(plan, 1.9, 0.35) * cost.wide_words(plan, target), _psadbw),
        ByteSum("aarch64", 6, lambda plan, target: _operations(plan, 1.5, 0.5),
                _pairwise("llvm.aarch64.neon.uaddlp")),
        ByteSum("armv7", 6, lambda plan, target: 2 * _operations(plan, 1.5, 0.5), _pairwise("llvm.arm.neon.vpaddlu")),
    )
}  # fmt: skip


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed bits on machines that count bytes and not words."""
    able = target.arch in SUMS and target.lanes >= 4 and bool(features(target) & {"ssse3", "neon"})
    refusal = check_bytes(NAME, spec, target, "" if able else "vectors whose bytes can be counted")
    if refusal:
        return refusal
    return packable(spec, min(_tiles(spec, target), key=lambda plan: cycles(spec, plan, target)))


def check_bytes(rule: str, spec: KernelSpec, target: Target, lacks: str) -> Refusal | None:
    """The refusal that families share that count in bytes; `lacks`: what they need and `target` has not."""
    refusal = bits.check_bits(rule, spec)
    if refusal:
        return refusal
    if lacks:
        return Refusal(rule, f"needs {lacks}, which {target.name} lacks")
    if "avx512vpopcntdq" in features(target):
        return Refusal(rule, "counts of 64-bit lanes are faster here")
    lanes, channels = target.lanes // 2, spec.oc // spec.groups
    return Refusal(rule, f"needs {lanes} output channels, found {channels}") if channels < lanes else None


def _tiles(spec: KernelSpec, target: Target) -> Iterator[Schedule]:
    """The tiles that fit the registers."""
    how, lanes, channels = SUMS[target.arch], target.lanes // 2, spec.oc // spec.groups
    for vectors in range(1, min(6, channels // lanes) + 1):
        for height in range(1, min(12, spec.row) + 1):
            fits = height * vectors + vectors <= target.registers - how.spare
            if fits and 8 * lanes * height * vectors <= ACCUMULATOR_BYTES:
                yield Schedule(NAME, height, vectors, lanes, how)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: exclusive or, count and add of bytes."""
    return bits.few_bit_cycles(spec, plan, _how(plan).step(plan, target))


def _how(plan: Schedule) -> ByteSum:
    assert isinstance(plan.detail, ByteSum)
    return plan.detail


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y."""
    return bits.emit(spec, plan, name, pair)


def pair(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, flat: bool, negative: bool) -> None:
    """acc +- counts of one plane of x with one of w."""
    sum_in_bytes(spec, plan, acc, _how(plan), _step(spec, plan, x, w, where, flat), negative)


def sum_in_bytes(
    spec: KernelSpec, plan: Schedule, acc, how: ByteSum, stepper: tuple[Callable, int, int], negative: bool
) -> None:
    """acc +- what `stepper`'s step(acc8, kh, kw, k) adds to bytes, at most 8 a step; with it the extents of k and kw."""
    from tvm.script.ir_builder import tirx as T

    step, inner, taps = stepper
    acc8 = T.alloc_buffer((plan.pixels * plan.block * 8,), "uint8")

    def chunk(rows: tuple, columns: tuple, depth: tuple) -> None:
        _each_vector(plan, lambda i: store(acc8, i, plan, _zeros(plan.lanes)))
        with T.grid(rows[1], columns[1], depth[1]) as (kh, kw, k):
            step(acc8, rows[0] + kh, columns[0] + kw, depth[0] + k)
        _each_vector(plan, lambda i: _flush(plan, acc, acc8, i, negative, how))

    if taps * inner <= MOST:
        height = MOST // (taps * inner)
        for start in range(0, spec.kh, height):
            chunk((start, min(height, spec.kh - start)), (0, taps), (0, inner))
        return
    parts = -(-inner // MOST)
    size = -(-inner // parts)
    whole, rest = divmod(inner, size)
    with T.grid(spec.kh, taps) as (kh, kw):
        with T.serial(0, whole) as part:
            chunk((kh, 1), (kw, 1), (part * size, size))
        if rest:
            chunk((kh, 1), (kw, 1), (whole * size, rest))


def _step(spec: KernelSpec, plan: Schedule, x, w, where: tuple, flat: bool) -> tuple[Callable, int, int]:
    """A function (acc8, kh, kw, k) that adds one word's counts, and the extents of k and kw."""
    from tvm import tirx

    words = walk(spec, WORD, where, flat)
    lanes, kind = plan.lanes, f"uint8x{8 * plan.lanes}"
    xor = planes.counts_xor(spec)

    def step(acc8, kh, kw, k) -> None:
        base = words.step(kh, kw, k) * plan.block
        for pixel in range(plan.pixels):
            word = tirx.Broadcast(x[at(x, words.source(pixel, kh, kw, k))], lanes)
            for vector in range(plan.vectors):
                other = w[at(w, ramp(base + vector * lanes, lanes))]
                met = tirx.reinterpret(kind, word ^ other if xor else word & other)
                index = pixel * plan.vectors + vector
                store(acc8, index, plan, load(acc8, index, plan) + tirx.popcount(met))

    return step, words.inner, words.taps


def _each_vector(plan: Schedule, body: Callable) -> None:
    for index in range(plan.pixels * plan.vectors):
        body(index)


def _zeros(lanes: int):
    from tvm import tirx

    return tirx.Broadcast(tirx.const(0, "uint8"), 8 * lanes)


def load(acc8: Any, index: int, plan: Schedule) -> Any:
    """Vector `index` of the sums in bytes: 8 bytes for each lane."""
    return acc8[ramp(index * 8 * plan.lanes, 8 * plan.lanes)]


def store(acc8: Any, index: int, plan: Schedule, value: Any) -> None:
    """Store a vector of sums in bytes where `load` finds it."""
    from tvm.script.ir_builder import tirx as T

    T.buffer_store(acc8, value, [ramp(index * 8 * plan.lanes, 8 * plan.lanes)])


def _flush(plan: Schedule, acc, acc8, index: int, negative: bool, how: ByteSum) -> None:
    """acc[lane] +- the sum of the lane's eight bytes."""
    from tvm.script.ir_builder import tirx as T

    here = [ramp(index * plan.lanes, plan.lanes)]
    total = how.total(load(acc8, index, plan), plan.lanes)
    T.buffer_store(acc, acc[here] - total if negative else acc[here] + total, here)


FAMILY = Family(NAME, schedule, emit, bits.pack, cycles, bits.pack_key, bits.tables, packs=True)
