"""Predicted cycles of a tiled kernel: the instructions of a step, and what surrounds the steps of a tile.

A tile's step takes one word, or one float, of each of its pixels and of its vectors. Its operations and loads are issued side
by side, so it takes as long as the longer of them, and not less than the chain of its adds. docs/kernels.md has the rates.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxc.codegen.kernels.count import word_bits
from onnxc.codegen.kernels.spec import KernelSpec, Schedule, words
from onnxc.codegen.target import Target

LATENCY = 4  # cycles until a sum can be added to again
AROUND, FINISH = 12, 3  # cycles of a tile, and of a vector of results


def _float(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    return plan.pixels * plan.vectors * (target.wide_cost if plan.lanes == target.lanes else 1) / 2


STEP: dict[str, Callable[[KernelSpec, Schedule, Target], float]] = {
    "float32.direct": _float,
    "float32.depthwise": _float,
    "bits.direct": lambda spec, plan, target: plan.pixels * plan.vectors * (1.5 if plan.lanes > 1 else 3),
    "bits.nibbles.x86_64": lambda spec, plan, target: plan.pixels * (3 + 6 * plan.vectors) / 4,
    "bits.bytes.x86_64": lambda spec, plan, target: plan.pixels * plan.vectors * 2,
    "bits.bytes.aarch64": lambda spec, plan, target: plan.pixels * (1.5 * plan.vectors + 0.5),
    "bits.bytes.armv7": lambda spec, plan, target: plan.pixels * (3 * plan.vectors + 1),
}
"""Rule -> cycles of the operations of a step."""


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float | None:
    """Predicted cycles on one thread, without packing of activations; None for a rule that has no row."""
    operations = STEP.get(plan.rule)
    if operations is None:
        return None
    few = spec.activation.kind == "bits"
    depth = spec.c // spec.groups
    counted = -(-depth // word_bits(plan)) if plan.rule == "bits.direct" else words(depth)
    steps = spec.kh * spec.kw * (counted * spec.activation.bits * spec.weight.bits if few else depth)
    loads = (plan.pixels + plan.vectors) / 2
    pixels = (
        -(-spec.n * spec.h * spec.w // plan.pixels) if spec.pointwise else spec.n * spec.oh * -(-spec.ow // plan.pixels)
    )
    groups = 1 if plan.rule == "float32.depthwise" else spec.groups
    tiles = groups * -(-spec.oc // groups // plan.block) * pixels
    step = max(operations(spec, plan, target), loads, LATENCY)
    return tiles * (steps * step + FINISH * plan.pixels * plan.vectors + AROUND)


def packing_cycles(spec: KernelSpec) -> float:
    """Predicted cycles of quantising and packing what `spec` reads: a comparison and a store for 16 channels of a plane."""
    return spec.n * spec.h * spec.w * -(-spec.c // 16) * (1 + spec.activation.bits)
