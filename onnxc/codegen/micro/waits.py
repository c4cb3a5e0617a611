"""Cycles that a processor waits for its flash: wait states of each read of what its line buffers and its cache do not hold.

A read brings `fetch` bytes and takes `waits` cycles more than RAM. Instructions and constants have a line buffer of that size each, so
that bytes in order wait once a line. Constants are read as often as a kernel goes through them; what fits the cache beside the loops
is read once, and without a cache that holds a loop instructions wait, too:

    lines = constants passes / fetch + (INSTRUCTION_BYTES instructions / fetch, where cache < LOOP)
    waits = lines (waits - what the prefetch of the next line hides: the cycles between two lines)
"""

from __future__ import annotations

from math import ceil

from onnxc.codegen.kernels.spec import KernelSpec, Schedule
from onnxc.codegen.micro import fewbit, layers
from onnxc.codegen.micro.fixed import HELIUM
from onnxc.codegen.target import Target

LOOP = 512
"""Bytes of the innermost loops of the C code and what surrounds them."""
INSTRUCTION_BYTES = 3.0
"""Of Thumb-2 code: what GCC makes of `runtime/c/micro_products.h` for a Cortex-M4 has 2.99 an instruction."""


def passes(spec: KernelSpec, plan: Schedule) -> int:
    """How often a kernel reads its constants."""
    pixels = spec.n * spec.oh * spec.ow
    if plan.family == layers.DEPTHWISE:  # a channel's stay in registers, or in RAM
        return 1
    if plan.family == layers.CONV:
        return pixels if plan.detail in (HELIUM, layers.HELD) else pixels // plan.pixels + pixels % plan.pixels
    if plan.family == fewbit.FIELDS:
        return pixels
    if plan.family == fewbit.NAME:
        pairs = spec.n * spec.oh * ceil(spec.ow / 2)
        return pairs if plan.detail == fewbit.PRODUCTS else pixels * spec.activation.bits
    return ceil(pixels / max(1, plan.pixels))


def flash_waits(spec: KernelSpec, plan: Schedule, target: Target, constants: int, instructions: float) -> float:
    """Predicted cycles that a layer with so many bytes of constants waits; 0 for targets without `waits`."""
    if not target.waits:
        return 0.0
    held = constants + LOOP <= target.cache
    lines = constants * (1 if held else passes(spec, plan)) / target.fetch
    if target.cache < LOOP:
        lines += INSTRUCTION_BYTES * instructions / target.fetch
    hidden = instructions / lines if target.prefetch and lines else 0.0
    return lines * max(0.0, target.waits - hidden)
