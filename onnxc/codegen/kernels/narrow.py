"""Float32 products whose weights are read as they lie, in 2 to 16 bits, and widened in registers.

    blocks: w = (level - zero) scale, a scale for `length` weights of an output     bfloat16, float16: w as it is

A product of few rows takes as long as its weights take to come, so 4 bits take an eighth of what floats do. A word of 32 bits
holds the levels of one output for 32 / bits inputs that follow each other, a vector of words those of as many outputs as it has lanes:

    sum over blocks b of scale[b, o] sum over k in b of x[k] (level[k, o] - zero[b, o])

Levels are floats exactly, so the inner sum rounds as one with float weights does, and a scale multiplies once a block. With AVX-512
four bits become a float by one permutation of the 16 floats that they can be. The words of a block follow its scales,
in the order in which they are read. Where many rows read a block of outputs, its weights become floats in the workspace once, and
the loops are those of `float32.direct`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost, float32
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.result import vector_of, wide
from onnxc.codegen.kernels.spec import FLOAT32, Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, check_float, choose_tile, epilogue, operands, shared_grid
from onnxc.codegen.prepare.matrices import Blocks, Halves, Kernel
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "float32.narrow"
KINDS = ("blocks", "bfloat16", "float16")
WORD = 32
PERMUTE = "llvm.x86.avx512.permvar.sf.512"
MANTISSA, EXPONENT = 23, 127  # bits of float32, and the exponent of 1
MANY = 24  # rows from which a block's weights become floats in the workspace
TALLEST = 4  # rows of a tile that widens in registers
WIDENED, PERMUTED = 0.4, 0.2  # cycles of a vector of levels or halves that its multiply-adds do not cover


@dataclass(frozen=True)
class Form(Detail):
    """`panel`: weights become floats in the workspace; `permute`: a level chooses among the 16 floats of a register."""

    panel: bool
    permute: bool


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes products of matrices with narrow weights on machines with vectors."""
    if spec.weight.kind not in KINDS:
        return Refusal(NAME, f"takes weights in 2 to 16 bits that are no planes, not {spec.weight.text()}")
    refusal = check_float(NAME, replace(spec, weight=FLOAT32))
    if refusal:
        return refusal
    if not spec.pointwise or spec.packed is not None:
        return Refusal(NAME, "takes products of matrices only")
    if target.lanes == 1 or target.micro:
        return Refusal(NAME, f"needs vectors, which {target.name} lacks")
    if spec.oc < target.lanes or not spec.macs:
        return Refusal(NAME, f"needs {target.lanes} outputs, found {spec.oc}")
    if spec.weight.kind == "blocks":
        step = WORD // spec.weight.bits
        if spec.c % spec.weight.length or spec.weight.length % step:
            return Refusal(
                NAME, f"needs whole blocks of a multiple of {step} inputs, found {spec.weight.length} of {spec.c}"
            )
    if spec.weight.kind == "float16" and not _reads_half(target):
        return Refusal(NAME, f"needs an instruction that widens float16, which {target.name} lacks")
    panel = spec.row >= MANY
    if panel and spec.weight.kind != "blocks":
        return Refusal(NAME, f"takes halves for fewer than {MANY} rows, found {spec.row}: floats are faster")
    permute = target.lanes == 16 and spec.weight.bits == 4 and "avx512f" in features(target)
    detail = Form("panel" if panel else "registers", panel, permute)
    if panel:
        return choose_tile(NAME, spec.row, spec.oc, spec.c, target, least=target.lanes, detail=detail)
    held = replace(target, registers=target.registers // 2)  # sums of a block, and of all
    return choose_tile(NAME, spec.row, spec.oc, spec.c, held, most=TALLEST, least=target.lanes, detail=detail)


def _reads_half(target: Target) -> bool:
    return target.arch == "aarch64" or (target.arch == "x86_64" and "f16c" in features(target))


def _form(plan: Schedule) -> Form:
    assert isinstance(plan.detail, Form)
    return plan.detail


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: widening and multiply-adds."""
    step = plan.tile * cost.wide(plan, target) / 2
    widen = PERMUTED if _form(plan).permute else WIDENED
    if not _form(plan).panel:
        return cost.tiled(spec, plan, steps=spec.c, step=step + widen * plan.vectors)
    widened = -(-spec.oc // plan.lanes) * spec.c * (1 + widen)
    return cost.tiled(spec, plan, steps=spec.c, step=step, before=widened)


def _rows(spec: KernelSpec) -> tuple[int, int, int]:
    """Blocks of a column, and the rows of words of one: ahead of the levels, and in all."""
    ahead = 2 if spec.weight.levels else 1
    return spec.c // spec.weight.length, ahead, ahead + spec.weight.length * spec.weight.bits // WORD


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    outer = -(-spec.oc // plan.block)
    if spec.weight.kind != "blocks":
        return (outer, spec.c, plan.block)
    count, _, rows = _rows(spec)
    return (outer, count, rows, plan.block)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (packed_shape(spec, plan), spec.weight)


def pack(spec: KernelSpec, plan: Schedule, weights: Kernel) -> np.ndarray:
    """A narrow matrix (outputs, inputs) -> halves (blocks of outputs, inputs, block), as uint16, or words (blocks of outputs, blocks,
    rows, block), as int32: a row of scales, with zero points one of those, and the levels."""

    def turned(part: np.ndarray) -> np.ndarray:
        return layouts.conv_blocks(np.ascontiguousarray(part)[:, :, None, None], 1, plan.block)[0, :, 0, 0]

    matrix = weights.matrix
    if isinstance(matrix, Halves):
        return turned(matrix.values.view(np.uint16))
    assert isinstance(matrix, Blocks)
    outer, count, rows, block = packed_shape(spec, plan)
    bits, (_, ahead, _) = matrix.bits, _rows(spec)
    made = np.empty((outer, count, rows, block), np.int32)
    made[:, :, 0] = turned(matrix.scale).astype(np.float32).view(np.int32)
    if matrix.zero is not None:
        made[:, :, 1] = turned(matrix.zero.astype(np.float32)).view(np.int32)
    split = turned(matrix.levels).reshape(outer, count, rows - ahead, WORD // bits, block).astype(np.uint32)
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)[:, None]
    made[:, :, ahead:] = np.bitwise_or.reduce(split << shifts, axis=3).view(np.int32)
    return made


def _float(value, lanes: int):
    """Integers of 32 bits as the floats that their bits are."""
    from tvm import ir

    return ir.Call(ir.Op.get("tirx.reinterpret"), [value], ret_ty=f"float32x{lanes}")


def _half(spec: KernelSpec, value, lanes: int):
    """16-bit floats, as uint16, as float32."""
    from tvm import ir

    if spec.weight.kind == "bfloat16":
        return _float(value.astype(f"int32x{lanes}") << wide(_int(16), lanes), lanes)
    half = ir.Call(ir.Op.get("tirx.reinterpret"), [value], ret_ty=f"float16x{lanes}")
    return half.astype(f"float32x{lanes}")


def _int(value: int):
    from tvm import tirx

    return tirx.const(value, "int32")


def _levels(spec: KernelSpec, plan: Schedule, word, zero) -> Iterator:
    """The levels of a word less their zero, as floats, one place of the word after the other.

    By a permutation, whose indices are the lowest four bits of each lane; or a level of b bits at bit p of the mantissa of
    2^(23 - p) makes 2^(23 - p) + level, from which that number and the zero are taken away exactly: two operations a level, and a
    shift for those that lie beyond the mantissa.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    bits, lanes = spec.weight.bits, plan.lanes
    middle = 0.0 if spec.weight.levels else float(1 << bits - 1)
    if _form(plan).permute:
        table = tirx.Ramp(_int(0), _int(1), lanes).astype(f"float32x{lanes}") - wide(
            tirx.const(middle, "float32"), lanes
        )
        for j in range(WORD // bits):
            index = word >> wide(_int(j * bits), lanes)
            made = tirx.call_llvm_pure_intrin(f"float32x{lanes}", PERMUTE, table, index)
            yield made if zero is None else made - zero
        return
    together = MANTISSA // bits
    for j in range(WORD // bits):
        at_bit = j % together * bits
        if j and not at_bit:
            word = T.bind(word >> wide(_int(together * bits), lanes))
        mask, power = ((1 << bits) - 1) << at_bit, MANTISSA - at_bit
        ones = (EXPONENT + power) << MANTISSA
        made = _float((word & wide(_int(mask), lanes)) | wide(_int(ones), lanes), lanes)
        made = made - wide(tirx.const((1 << power) + middle, "float32"), lanes)
        yield made if zero is None else made - zero


def _level(spec: KernelSpec, plan: Schedule, word, j, zero):
    """The level at place `j`, an expression, of the words, less its zero."""
    from tvm import tirx

    bits, lanes = spec.weight.bits, plan.lanes
    made = (word >> wide(j * bits, lanes)) & wide(_int((1 << bits) - 1), lanes)
    middle = wide(tirx.const(float(1 << bits - 1), "float32"), lanes)
    return made.astype(f"float32x{lanes}") - (middle if zero is None else zero)


def emit(spec: KernelSpec, plan: Schedule, name: str) -> Any:
    """The kernel as TIR: operands x, weights, the epilogue's operands, y."""
    kind = "int32" if spec.weight.kind == "blocks" else "uint16"
    if _form(plan).panel:
        return float32.emit(spec, plan, name, kind, packed_shape(spec, plan), _loader(spec, plan), True)
    return _emit_registers(spec, plan, name, kind)


def _loader(spec: KernelSpec, plan: Schedule):
    """load(w, step, vector): the floats of one input, `step` counting those of all blocks of outputs."""
    from tvm import tirx

    lanes = plan.lanes

    def half(w, step, vector: int):
        return _half(spec, w[at(w, vector_of(step * plan.block + vector * lanes, lanes))], lanes)

    def level(w, step, vector: int):
        _, ahead, rows = _rows(spec)
        length, each = spec.weight.length, WORD // spec.weight.bits
        inside = tirx.floormod(step, length)
        first = tirx.floordiv(step, length) * rows

        def row(number):
            return w[at(w, vector_of((first + number) * plan.block + vector * lanes, lanes))]

        zero = _float(row(1), lanes) if spec.weight.levels else None
        word, j = row(ahead + tirx.floordiv(inside, each)), tirx.floormod(inside, each)
        return _level(spec, plan, word, j, zero) * _float(row(0), lanes)

    return level if spec.weight.kind == "blocks" else half


def _emit_registers(spec: KernelSpec, plan: Schedule, name: str, kind: str):
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    lanes, count = plan.lanes, plan.pixels * plan.vectors
    rows, outer = spec.row, -(-spec.oc // plan.block)
    tile = list(itertools.product(range(plan.pixels), range(plan.vectors)))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        x = T.arg("x", T.buffer(spec.x_shape, "float32"))
        w = T.arg("w", T.buffer(packed_shape(spec, plan), kind))
        extra = [T.arg(label, T.buffer(shape, "float32")) for label, shape in operands(spec)]
        y = T.arg("y", T.buffer(spec.y_shape, "float32"))
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        with shared_grid(spec.threads, outer, -(-rows // plan.pixels)) as (block, place):
            first = tirx.min(place * plan.pixels, rows - plan.pixels)
            acc = T.alloc_buffer((count * lanes,), "float32")

            def sums(pixel: int, vector: int):
                return vector_of((pixel * plan.vectors + vector) * lanes, lanes)

            def clear(buffer) -> None:
                for here in tile:
                    T.buffer_store(buffer, wide(tirx.const(0, "float32"), lanes), [sums(*here)])

            def add(buffer, k, vector: int, weight) -> None:
                for pixel in range(plan.pixels):
                    value = wide(x[at(x, (first + pixel) * spec.c + k)], lanes)
                    here = sums(pixel, vector)
                    T.buffer_store(buffer, buffer[here] + value * weight, [here])

            clear(acc)
            if kind == "uint16":
                with T.serial(0, spec.c) as k:
                    for vector in range(plan.vectors):
                        start = (block * spec.c + k) * plan.block + vector * lanes
                        add(acc, k, vector, _half(spec, w[at(w, vector_of(start, lanes))], lanes))
            else:
                _blocks(spec, plan, w, block, acc, (clear, add, sums))
            for pixel, vector in tile:
                lowest = tirx.min(block * plan.block, spec.oc - plan.block) + vector * lanes
                channel = vector_of(lowest, lanes)
                offset = vector_of((first + pixel) * spec.oc + lowest, lanes)
                T.buffer_store(y, epilogue(spec, acc[sums(pixel, vector)], extra, channel, offset), at(y, offset))
    return builder.get()


def _blocks(spec: KernelSpec, plan: Schedule, w, block, acc, work: tuple) -> None:
    """acc += scale times the sums of each block, block after block."""
    from tvm.script.ir_builder import tirx as T

    clear, add, sums = work
    lanes, (count, ahead, rows) = plan.lanes, _rows(spec)
    length, each = spec.weight.length, WORD // spec.weight.bits
    with T.serial(0, count) as one:
        part = T.alloc_buffer((plan.pixels * plan.block,), "float32")
        start = (block * count + one) * rows

        def row(number, vector: int):
            return w[at(w, vector_of((start + number) * plan.block + vector * lanes, lanes))]

        clear(part)
        with T.serial(0, length // each) as step:
            for vector in range(plan.vectors):
                word = T.bind(row(ahead + step, vector))
                zero = T.bind(_float(row(1, vector), lanes)) if spec.weight.levels else None
                for j, level in enumerate(_levels(spec, plan, word, zero)):
                    add(part, one * length + step * each + j, vector, level)
        for pixel, vector in itertools.product(range(plan.pixels), range(plan.vectors)):
            here = sums(pixel, vector)
            T.buffer_store(acc, acc[here] + part[here] * _float(row(0, vector), lanes), [here])


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key)
"""What `schedule` takes, as a family."""
