"""Bit counting by a table of half bytes, for x86 before AVX-512's own counts: pshufb counts 32 halves at a time.

    acc8[b] += table[low half of byte b of x ^ w] + table[its high half]

The weights lie as halves of bytes, each in a byte of its own, and those of a broadcast word of x are shared by the vectors
of a tile: (3 + 6 v) operations for v vectors instead of the 8 v of bits.bytes, for twice the bytes of weights. Otherwise all
is as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from onnxc.codegen.kernels import bits, bytecount, cost, planes
from onnxc.codegen.kernels.count import walk
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8_dot import ramp
from onnxc.codegen.kernels.result import packable, wide
from onnxc.codegen.kernels.spec import WORD, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "bits.nibbles"
HALVES = 0x0F0F0F0F0F0F0F0F
COUNTS = (0x0302020102010100, 0x0403030203020201)  # of the numbers 0 to 7 and 8 to 15, lowest byte first
PSHUFB = {2: "llvm.x86.ssse3.pshuf.b.128", 4: "llvm.x86.avx2.pshuf.b", 8: "llvm.x86.avx512.pshuf.b.512"}
HOW = bytecount.SUMS["x86_64"]
SPARE = 8  # registers for the table, a mask, halves of x and what is on its way


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed bits on x86 machines that have pshufb and count no words."""
    able = target.arch == "x86_64" and "ssse3" in features(target)
    refusal = bytecount.check_bytes(NAME, spec, target, "" if able else "pshufb")
    if refusal:
        return refusal
    return packable(spec, min(_tiles(spec, target), key=lambda plan: cycles(spec, plan, target)))


def _tiles(spec: KernelSpec, target: Target) -> Iterator[Schedule]:
    """The tiles that fit the registers."""
    lanes, channels = target.lanes // 2, spec.oc // spec.groups
    for vectors in range(1, min(8, channels // lanes) + 1):
        for height in range(1, min(12, spec.row) + 1):
            if height * vectors <= target.registers - SPARE:
                yield Schedule(NAME, height, vectors, lanes, HOW)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: halves of a word once a pixel, then two shuffles and what surrounds them a vector."""
    step = plan.pixels * (0.75 + 1.65 * plan.vectors) * cost.wide_words(plan, target)
    return bits.few_bit_cycles(spec, plan, max(step, plan.pixels / 2 + plan.vectors))


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c/groups, kh, kw) -> words of low halves of bytes and of high ones, vector by vector."""
    packed = bits.pack(spec, plan, weights)
    vectors = packed.reshape(*packed.shape[:-1], plan.vectors, 1, plan.lanes)
    halves = np.concatenate([vectors, vectors >> np.uint64(4)], axis=-2) & np.uint64(HALVES)
    return halves.reshape(packed_shape(spec, plan))


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    *outer, block = bits.packed_shape(spec, plan)
    return (*outer, 2 * block)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (*bits.pack_key(spec, plan), plan.lanes)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y."""
    return bits.emit(spec, plan, name, pair, packed_shape(spec, plan))


def pair(spec: KernelSpec, plan: Schedule, acc, x, w, where: tuple, flat: bool, negative: bool) -> None:
    """acc +- counts of one plane of x with one of w."""
    bytecount.sum_in_bytes(spec, plan, acc, HOW, _step(spec, plan, x, w, where, flat), negative)


def _step(spec: KernelSpec, plan: Schedule, x, w, where: tuple, flat: bool) -> tuple[Callable, int, int]:
    """A function (acc8, kh, kw, k) that adds one word's counts, and the extents of k and kw."""
    from tvm import tirx

    words = walk(spec, WORD, where, flat)
    lanes, kind = plan.lanes, f"uint8x{8 * plan.lanes}"
    xor = planes.counts_xor(spec)

    def step(acc8, kh, kw, k) -> None:
        base = words.step(kh, kw, k) * (2 * plan.block)
        for pixel in range(plan.pixels):
            word = wide(x[at(x, words.source(pixel, kh, kw, k))], lanes)
            sides = [(word >> _every(shift, lanes)) & _every(HALVES, lanes) for shift in (0, 4)]
            for vector in range(plan.vectors):
                index, total = pixel * plan.vectors + vector, None
                for half, side in enumerate(sides):
                    other = w[at(w, ramp(base + (2 * vector + half) * lanes, lanes))]
                    met = tirx.reinterpret(kind, side ^ other if xor else side & other)
                    found = tirx.call_llvm_pure_intrin(kind, PSHUFB[lanes], _table(lanes), met)
                    total = found if total is None else total + found
                bytecount.store(acc8, index, plan, bytecount.load(acc8, index, plan) + total)

    return step, words.inner, words.taps


def _every(number: int, lanes: int):
    from tvm import tirx

    return wide(tirx.const(number, "uint64"), lanes)


def _table(lanes: int):
    """The counts of 0 to 15 in the bytes of each pair of lanes."""
    from tvm import tirx

    odd = tirx.Cast(f"uint64x{lanes}", ramp(0, lanes)) & _every(1, lanes)
    whole = _every(COUNTS[0], lanes) + odd * _every(COUNTS[1] - COUNTS[0], lanes)
    return tirx.reinterpret(f"uint8x{8 * lanes}", whole)


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, bits.tables, packs=True)
