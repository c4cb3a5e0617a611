"""Predicted cycles of a tiled kernel: the instructions of a step, and what surrounds the steps of a tile.

A tile's step takes one word, one float, or as many channels as an instruction multiplies, of each of its pixels and of its
vectors. Its operations and loads are issued side by side, so it takes as long as the longer of them, and not less than the
chain of its adds. What a step takes stands beside each family. `benchmarks/cost.py` shows predictions beside measurements on
x86; figures of other machines are from instruction tables. docs/kernels.md has the rates.
"""

from __future__ import annotations

from onnxc.codegen.kernels.spec import KernelSpec, Schedule
from onnxc.codegen.target import Target

LATENCY = 4  # cycles until a sum can be added to again
AROUND, FINISH = 12, 3  # cycles of a tile, and of a vector of results
NEAR, FETCHED = (
    1 << 19,
    40,
)  # bytes of weights that stay in a near cache; bytes a cycle of those that come from afar, once


def tiled(
    spec: KernelSpec,
    plan: Schedule,
    *,
    steps: int,
    step: float,
    groups: int = 1,
    finish: float | None = None,
    before: float = 0,
    looks_up: bool = False,
) -> float:
    """Cycles of a kernel whose tiles make `steps` steps of `step` cycles each.

    `groups` are loops of their own over blocks of channels; `finish` the cycles of a vector of results where they are others,
    `before` those ahead of all tiles. Where a step `looks_up`, its loads are among its operations and its sums have no chain.
    """
    images = 1 if spec.pointwise else spec.n * spec.oh
    tiles = images * -(-spec.row // plan.pixels) * groups * -(-spec.oc // groups // plan.block)
    finish = FINISH if finish is None else finish
    if not looks_up:
        step = max(step, (plan.pixels + plan.vectors) / 2, LATENCY)
    weights = spec.oc * spec.kh * spec.kw * (spec.c // spec.groups) * spec.weight.bits / 8
    before += max(weights - NEAR, 0) / FETCHED
    return before + tiles * (steps * step + finish * plan.tile + AROUND)


def wide(plan: Schedule, target: Target) -> float:
    """How much longer an instruction on the target's widest registers takes than on others, for 32-bit lanes."""
    return target.wide_cost if plan.width == target.lanes else 1


def wide_words(plan: Schedule, target: Target) -> float:
    """The same for lanes of 64-bit words."""
    return target.wide_cost if 2 * plan.lanes == target.lanes == 16 else 1


def packing_cycles(spec: KernelSpec) -> float:
    """Predicted cycles of quantising and packing what `spec` reads: a comparison and a store for 16 channels of a plane."""
    return spec.n * spec.h * spec.w * -(-spec.c // 16) * (1 + spec.activation.bits)
