"""Depthwise float32 convolution, channels-last: vectors over channels, a tile of pixels a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, check_float, choose_tile, each, epilogue, operands, pad_rows, shared_grid
from onnxc.codegen.target import Target

NAME = "float32.depthwise"


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes convolutions whose output channel i reads input channel i alone."""
    return tile(NAME, spec, target, check_float(NAME, spec))


def tile(rule: str, spec: KernelSpec, target: Target, refusal: Refusal | None) -> Schedule | Refusal:
    """The tile of a depthwise family, unless it is refused already."""
    if refusal:
        return refusal
    if not spec.depthwise:
        return Refusal(rule, f"needs as many groups as channels, found {spec.groups} groups of {spec.c} channels")
    return choose_tile(rule, spec.ow, spec.oc, spec.kh * spec.kw, target, most=8)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles. Nothing that is loaded is used twice: wide loads take longer than what is done with them."""
    wide = cost.wide(plan, target) > 1
    step = plan.tile * (0.5 if not wide else 1.5 if target.lanes > 1 else 1)
    return cost.tiled(spec, plan, steps=spec.kh * spec.kw, step=step)


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Weights (c, 1, kh, kw) of floats or int8 -> (kh, kw, c)."""
    return layouts.depthwise(weights)


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on: weights alone."""
    return ()


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    return (spec.kh, spec.kw, spec.c)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, the epilogue's operands, y."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.dtype))
            w = T.arg("w", T.buffer(packed_shape(spec, plan), spec.dtype))
            extra = [T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)]
            y = T.arg("y", T.buffer(spec.y_shape, spec.dtype))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            loops(
                spec, plan, pad_rows(x, spec), w, y, spec.dtype,
                begin=lambda channel: tirx.const(0, spec.dtype),
                finish=lambda acc, channel, offset: epilogue(spec, acc, extra, channel, offset),
            )  # fmt: skip
    return builder.get()


def loops(
    spec: KernelSpec, plan: Schedule, source: tuple, w, y, kind: str, *, begin: Callable, finish: Callable
) -> None:
    """y = finish(sum of x w), the sums of type `kind`; `source` is (x with its padding, rows, columns).

    begin(channel): where a sum begins. finish(sum, channel, offset in y): what is stored.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    x, rows, columns = source
    c = spec.oc
    blocks, tiles = -(-c // plan.block), -(-spec.ow // plan.pixels)

    def wide(value):
        return value if value.ty.dtype == kind else tirx.Cast(kind, value)

    with shared_grid(spec.threads, spec.n, spec.oh, tiles, blocks) as (n, row, tile, block):
        acc = T.alloc_buffer((plan.pixels * plan.block,), kind)
        first = tirx.min(tile * plan.pixels, spec.ow - plan.pixels)
        channel0 = tirx.min(block * plan.block, c - plan.block)
        each(plan, lambda p, lane, i: T.buffer_store(acc, begin(channel0 + lane), [i]))
        with T.grid(spec.kh, spec.kw) as (kh, kw):
            line = (n * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns

            def product(pixel, lane, i):
                column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
                value = wide(x[at(x, (line + column) * c + channel0 + lane)])
                weight = wide(w[at(w, (kh * spec.kw + kw) * c + channel0 + lane)])
                T.buffer_store(acc, acc[i] + value * weight, [i])

            each(plan, product)

        def store(pixel, lane, i):
            offset = ((n * spec.oh + row) * spec.ow + first + pixel) * c + channel0 + lane
            T.buffer_store(y, finish(acc[i], channel0 + lane, offset), at(y, offset))

        each(plan, store)


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key)
