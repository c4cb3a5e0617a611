"""Depthwise convolution of 8-bit integers with int32 sums, channels-last: vectors over channels, a tile of pixels a step.

Activations stay as they come (padding holds their zero point, which the bias takes away again); LLVM widens them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxc.codegen.kernels import cost, depthwise
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8 import SCALAR_REGISTERS, stage
from onnxc.codegen.kernels.requantise import check_int8, finish, operands, zero_point_in_bias
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.target import Target

NAME = "int8.depthwise"


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes 8-bit convolutions whose output channel i reads input channel i alone."""
    machine = replace(target, registers=SCALAR_REGISTERS) if target.lanes == 1 else target
    return depthwise.tile(NAME, spec, machine, check_int8(NAME, spec))


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: loads that widen, and a multiply-add."""
    return cost.tiled(spec, plan, steps=spec.kh * spec.kw, step=plan.tile * (0.5 + 0.45 * cost.wide(plan, target)))


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
            w = T.arg("w", T.buffer(depthwise.packed_shape(spec, plan), "int8"))
            extra = [T.arg(label, T.buffer(shape, kind)) for label, shape, kind in operands(spec)]
            y = T.arg("y", T.buffer(spec.y_shape, spec.output.kind))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            depthwise.loops(
                spec, plan, stage(x, spec, plan, spec.activation.kind), w, y, "int32",
                begin=lambda channel: extra[0][channel],
                finish=lambda acc, channel, offset: finish(spec, acc, extra, channel, offset),
            )  # fmt: skip
    return builder.get()


FAMILY = Family(NAME, schedule, emit, depthwise.pack, cycles, depthwise.pack_key, operands=operands_with_zero_point)
