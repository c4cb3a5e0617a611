"""Depthwise convolution of 8-bit integers with int32 sums, channels-last: vectors over channels, a tile of pixels a step.

Activations stay as they come (padding holds their zero point, which the bias takes away again); LLVM widens them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8 import SCALAR_REGISTERS, stage
from onnxc.codegen.kernels.requantise import check_int8, finish, operands, zero_point_in_bias
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, choose_tile, each, shared_grid
from onnxc.codegen.target import Target

NAME = "int8.depthwise"


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes 8-bit convolutions whose output channel i reads input channel i alone."""
    refusal = check_int8(NAME, spec)
    if refusal:
        return refusal
    if not spec.depthwise:
        return Refusal(NAME, f"needs as many groups as channels, found {spec.groups} groups of {spec.c} channels")
    machine = replace(target, registers=SCALAR_REGISTERS) if target.lanes == 1 else target
    return choose_tile(NAME, spec.ow, spec.oc, spec.kh * spec.kw, machine, most=8)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: loads that widen, and a multiply-add."""
    return cost.tiled(spec, plan, steps=spec.kh * spec.kw, step=plan.tile * (0.5 + 0.45 * cost.wide(plan, target)))


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights int8 (c, 1, kh, kw) -> (kh, kw, c)."""
    return layouts.depthwise(weights)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on: weights alone."""
    return ()


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    return (spec.kh, spec.kw, spec.c)


def operands_with_zero_point(spec: KernelSpec, plan: Schedule, weights: np.ndarray, given: list) -> list:
    """The epilogue's operands with the activations' zero point brought into the bias."""
    return zero_point_in_bias(weights, spec.pad_value, given)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, the epilogue's operands, y."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.activation.kind))
            w = T.arg("w", T.buffer(packed_shape(spec, plan), "int8"))
            extra = [T.arg(label, T.buffer(shape, kind)) for label, shape, kind in operands(spec)]
            y = T.arg("y", T.buffer(spec.y_shape, spec.output.kind))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            _loops(spec, plan, stage(x, spec, plan, spec.activation.kind), w, extra, y)
    return builder.get()


def _loops(spec: KernelSpec, plan: Schedule, source: tuple, w, extra: list, y) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    x, rows, columns = source
    c = spec.oc
    blocks, tiles = -(-c // plan.block), -(-spec.ow // plan.pixels)
    with shared_grid(spec.threads, spec.n, spec.oh, tiles, blocks) as (n, row, tile, block):
        acc = T.alloc_buffer((plan.pixels * plan.block,), "int32")
        first = tirx.min(tile * plan.pixels, spec.ow - plan.pixels)
        channel0 = tirx.min(block * plan.block, c - plan.block)
        each(plan, lambda p, lane, i: T.buffer_store(acc, extra[0][channel0 + lane], [i]))
        with T.grid(spec.kh, spec.kw) as (kh, kw):
            line = (n * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns

            def product(pixel, lane, i):
                column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
                value = tirx.Cast("int32", x[at(x, (line + column) * c + channel0 + lane)])
                weight = tirx.Cast("int32", w[at(w, (kh * spec.kw + kw) * c + channel0 + lane)])
                T.buffer_store(acc, acc[i] + value * weight, [i])

            each(plan, product)

        def store(pixel, lane, i):
            offset = ((n * spec.oh + row) * spec.ow + first + pixel) * c + channel0 + lane
            T.buffer_store(y, finish(spec, acc[i], extra, channel0 + lane, offset), at(y, offset))

        each(plan, store)


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, operands=operands_with_zero_point)
