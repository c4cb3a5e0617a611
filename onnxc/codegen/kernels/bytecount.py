"""Bit counting in byte lanes, where there is no instruction that counts 64-bit lanes: AVX2, SSSE3, AVX-512BW, NEON.

    acc8[b] += popcount8(byte b of x ^ w), at most 31 times (31 x 8 = 248); then acc[lane] += sum of its eight bytes

A step is exclusive or, count, add: three operations of NEON (eor, cnt, add); eight where a count is two vpshufb of nibbles.
The sum of eight bytes costs one instruction on x86 (vpsadbw) and three on Arm (uaddlp twice, uadalp), once in 31 steps.
Layouts, tables and epilogues are those of bits.direct.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen.kernels import bits, planes
from onnxc.codegen.kernels.int8_dot import ramp
from onnxc.codegen.kernels.result import packable
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule, words
from onnxc.codegen.kernels.tile import ACCUMULATOR_BYTES, at
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "bits.bytes"
PACKS = True  # its own result, where the spec says so and vectors are wide enough
MOST = 31  # counts of a byte that a byte can hold
PSADBW = {2: "llvm.x86.sse2.psad.bw", 4: "llvm.x86.avx2.psad.bw", 8: "llvm.x86.avx512.psad.bw.512"}
SPARE = {"x86_64": 7, "aarch64": 6, "armv7": 6}  # registers for constants, broadcasts and what is on its way


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed bits on machines that count bytes and not words."""
    if spec.activation.kind != "bits" or spec.weight.kind != "bits":
        return Refusal(NAME, f"takes packed bits only, not {spec.activation.text()} x {spec.weight.text()}")
    if not spec.macs:
        return Refusal(NAME, "has an extent of zero")
    has = features(target)
    if target.chain not in SPARE or target.lanes < 4 or not has & {"ssse3", "neon"}:
        return Refusal(NAME, f"needs vectors whose bytes can be counted, which {target.name} lacks")
    if "avx512vpopcntdq" in has:
        return Refusal(NAME, "counts of 64-bit lanes are faster here")
    lanes, channels = target.lanes // 2, spec.oc // spec.groups
    if channels < lanes:
        return Refusal(NAME, f"needs {lanes} output channels, found {channels}")
    pixels = spec.n * spec.h * spec.w if spec.pointwise else spec.ow
    best = None
    for vectors in range(1, min(6, channels // lanes) + 1):
        for height in range(1, min(12, pixels) + 1):
            bytes_ = 8 * lanes * height * vectors
            if height * vectors + vectors > target.registers - SPARE[target.chain] or bytes_ > ACCUMULATOR_BYTES:
                continue
            cost = -(-channels // (lanes * vectors)) * -(-pixels // height) * _tile_cost(spec, target, height, vectors)
            if best is None or cost < best[0]:
                best = cost, Schedule(f"{NAME}.{target.chain}", height, vectors, lanes)
    return packable(spec, best[1])


def _tile_cost(spec: KernelSpec, target: Target, height: int, vectors: int) -> float:
    """Half cycles of a tile: operations on two pipes (four on x86), a broadcast a pixel, a load a vector."""
    steps = spec.kh * spec.kw * words(spec.c // spec.groups)
    operations = (8 / 2 if target.chain == "x86_64" else 3) * height * vectors + height + vectors / 2
    return spec.activation.bits * spec.weight.bits * steps * max(operations, 8) + 8 * height * vectors + 24


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c/groups, kh, kw) -> words, as bits.direct reads them."""
    return bits.pack(spec, plan, weights)


def tables(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> list[np.ndarray]:
    """What the kernel reads besides the packed weights: that of bits.direct."""
    return bits.tables(spec, plan, weights)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y."""
    return bits.emit(spec, plan, name, pair)


def pair(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, flat: bool, negative: bool) -> None:
    """acc +- counts of one plane of x with one of w."""
    sum_in_bytes(spec, plan, acc, _step(spec, plan, x, w, where, flat), negative)


def sum_in_bytes(spec: KernelSpec, plan: Schedule, acc, stepper: tuple[Callable, int, int], negative: bool) -> None:
    """acc +- what `stepper`'s step(acc8, kh, kw, k) adds to bytes, at most 8 a step; with it the extents of k and kw."""
    from tvm.script.ir_builder import tirx as T

    step, inner, taps = stepper
    acc8 = T.alloc_buffer((plan.pixels * plan.block * 8,), "uint8")

    def chunk(rows: tuple, columns: tuple, depth: tuple) -> None:
        _each_vector(plan, lambda i: store(acc8, i, plan, _zeros(plan)))
        with T.grid(rows[1], columns[1], depth[1]) as (kh, kw, k):
            step(acc8, rows[0] + kh, columns[0] + kw, depth[0] + k)
        _each_vector(plan, lambda i: _flush(plan, acc, acc8, i, negative))

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

    g, block, n, row, first, i, j = where
    _, images, rows, columns, line = planes.packed_shape(spec)
    depth = words(spec.c // spec.groups)
    joined = spec.groups == 1 and spec.dilation[1] == 1
    taps, inner = (1, spec.kw * depth) if joined else (spec.kw, depth)
    if flat:
        rows, columns = 1, images * rows * columns
        images = 1
    lanes, kind = plan.lanes, f"uint8x{8 * plan.lanes}"
    xor = planes.counts_xor(spec)

    def step(acc8, kh, kw, k) -> None:
        top = ((i * images + n) * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns
        base = ((((block * spec.weight.bits + j) * spec.kh + kh) * taps + kw) * inner + k) * plan.block
        for pixel in range(plan.pixels):
            column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
            word = tirx.Broadcast(x[at(x, (top + column) * line + g * depth + k)], lanes)
            for vector in range(plan.vectors):
                other = w[at(w, ramp(base + vector * lanes, lanes))]
                met = tirx.reinterpret(kind, word ^ other if xor else word & other)
                index = pixel * plan.vectors + vector
                store(acc8, index, plan, load(acc8, index, plan) + tirx.popcount(met))

    return step, inner, taps


def _each_vector(plan: Schedule, body: Callable) -> None:
    for index in range(plan.pixels * plan.vectors):
        body(index)


def _zeros(plan: Schedule):
    from tvm import tirx

    return tirx.Broadcast(tirx.const(0, "uint8"), 8 * plan.lanes)


def load(acc8, index: int, plan: Schedule):
    return acc8[ramp(index * 8 * plan.lanes, 8 * plan.lanes)]


def store(acc8, index: int, plan: Schedule, value) -> None:
    from tvm.script.ir_builder import tirx as T

    T.buffer_store(acc8, value, [ramp(index * 8 * plan.lanes, 8 * plan.lanes)])


def _flush(plan: Schedule, acc, acc8, index: int, negative: bool) -> None:
    """acc[lane] +- the sum of the lane's eight bytes."""
    from tvm.script.ir_builder import tirx as T

    here = [ramp(index * plan.lanes, plan.lanes)]
    total = _sums(plan, load(acc8, index, plan))
    T.buffer_store(acc, acc[here] - total if negative else acc[here] + total, here)


def _sums(plan: Schedule, counts):
    """uint8 (8 lanes) -> int64 (lanes): the sum of eight neighbours."""
    from tvm import tirx

    machine, lanes = plan.rule.rsplit(".", 1)[1], plan.lanes
    if machine == "x86_64":
        return tirx.call_llvm_pure_intrin(f"int64x{lanes}", PSADBW[lanes], counts, _zeros(plan))
    name = "llvm.aarch64.neon.uaddlp" if machine == "aarch64" else "llvm.arm.neon.vpaddlu"
    halves = tirx.call_llvm_pure_intrin("int16x8", f"{name}.v8i16.v16i8", counts)
    words = tirx.call_llvm_pure_intrin("int32x4", f"{name}.v4i32.v8i16", halves)
    return tirx.call_llvm_pure_intrin("int64x2", f"{name}.v2i64.v4i32", words)
