"""Predicted cycles of a tiled kernel: the instructions of a step, and what surrounds the steps of a tile.

A tile's step takes one word, one float, or as many channels as an instruction multiplies, of each of its pixels and of its
vectors. Its operations and loads are issued side by side, so it takes as long as the longer of them, and not less than the
chain of its adds. `benchmarks/cost.py` shows predictions beside measurements on x86; rows of other machines are from
instruction tables. docs/kernels.md has the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxc.codegen.kernels import lookup, planes
from onnxc.codegen.kernels.count import word_bits
from onnxc.codegen.kernels.int8_dot import DOTS
from onnxc.codegen.kernels.spec import WORD, KernelSpec, Schedule
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

LATENCY = 4  # cycles until a sum can be added to again
AROUND, FINISH = 12, 3  # cycles of a tile, and of a vector of results
SPLIT = 1.4  # without a fused multiply-add
WIDEN, LOOKED_UP = 2, 11  # cycles of emptying a vector of bytes of a lookup, and of its results
TABLE = 1.2  # cycles for a plane of four channels of a pixel
COPIED = 16  # elements that a cycle copies into the workspace

Cycles = Callable[[KernelSpec, Schedule, Target], float]


@dataclass(frozen=True)
class Row:
    """What a rule takes. step: cycles of the operations of a step; depth: channels of a step; finish: cycles of a vector of
    results; before: those ahead of all tiles."""

    step: Cycles
    depth: Callable[[Schedule], int] = lambda plan: 1
    finish: Cycles = lambda spec, plan, target: FINISH
    before: Cycles = lambda spec, plan, target: 0


def _tile(plan: Schedule) -> int:
    return plan.pixels * plan.vectors


def _wide(plan: Schedule, target: Target) -> float:
    """How much longer an instruction on the target's widest registers takes than on others."""
    return target.wide_cost if plan.lanes == target.lanes else 1


def _float(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    split = SPLIT if target.chain == "x86_64" and "fma" not in target.needs else 1
    return _tile(plan) * _wide(plan, target) * split / 2


def _depthwise(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Nothing that is loaded is used twice: wide loads take longer than what is done with them."""
    return _tile(plan) * (1.5 if _wide(plan, target) > 1 else 0.5)


def _wide_words(plan: Schedule, target: Target) -> float:
    """The same for vectors of 64-bit words."""
    return target.wide_cost if 2 * plan.lanes == target.lanes == 16 else 1


def _nibbles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    return plan.pixels * (0.75 + 1.65 * plan.vectors) * _wide_words(plan, target)


def _words(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """xor, count and add of words; machines without an instruction that counts take a dozen others."""
    if plan.lanes == 1:
        return _tile(plan) * (3 if target.chain in ("x86_64", "aarch64", "wasm32") else 14)
    if target.chain != "x86_64":
        return _tile(plan) * {"riscv64": 8, "armv7": 6}.get(target.chain, 3)
    return _tile(plan) * (1.5 if "avx512vpopcntdq" in features(target) else 2.6 * _wide_words(plan, target))


def _few_bit(step: Cycles) -> Row:
    return Row(step, lambda plan: WORD)


def _dot(name: str, cycles: float) -> Row:
    """Rows of int8.direct: cycles of one step for a vector. Activations of another type are copied first."""
    dot = DOTS[name]

    def before(spec: KernelSpec, plan: Schedule, target: Target) -> float:
        copied = dot.x not in ("", spec.activation.kind) or any(spec.pads)
        return spec.n * spec.h * spec.w * spec.c / COPIED if copied else 0

    return Row(
        lambda spec, plan, target: _tile(plan) * cycles * _wide(plan, target), lambda plan: dot.depth, before=before
    )


def _looked_up(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """A vector's bytes are emptied into 16 bits before they overflow, for each plane of weights."""
    steps = spec.kh * spec.kw * -(-(spec.c // spec.groups) // 4)
    return LOOKED_UP + WIDEN * spec.weight.bits * -(-steps // lookup.steps_of(spec))


def _tables(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    _, images, rows, columns, _ = planes.packed_shape(spec)
    return images * rows * columns * spec.groups * -(-(spec.c // spec.groups) // 4) * TABLE * spec.activation.bits


def _lookup(cycles: float) -> Row:
    return Row(lambda spec, plan, target: _tile(plan) * cycles, lambda plan: 4, _looked_up, _tables)


ROWS: dict[str, Row] = {
    "float32.direct": Row(_float),
    "float32.packed": Row(_float),
    "float32.depthwise": Row(_depthwise),
    "int8.depthwise": Row(lambda spec, plan, target: _tile(plan) * (0.5 + 0.45 * _wide(plan, target))),
    "int8.direct.vpdpbusd": _dot("vpdpbusd", 0.5),
    "int8.direct.pmaddwd": _dot("pmaddwd", 0.67),
    "int8.direct.sdot": _dot("sdot", 0.5),
    "int8.direct.smlal": _dot("smlal", 3),
    "int8.direct.vmlal": _dot("vmlal", 6),
    "int8.direct.dot": _dot("dot", 1),
    "int8.direct.smlad": _dot("smlad", 1),
    "int8.direct.plain": _dot("plain", 1.5),
    "bits.direct": Row(_words, word_bits),
    "bits.nibbles.x86_64": _few_bit(_nibbles),
    "bits.bytes.x86_64": _few_bit(lambda spec, plan, target: _tile(plan) * 2.2 * _wide_words(plan, target)),
    "bits.bytes.aarch64": _few_bit(lambda spec, plan, target: plan.pixels * (1.5 * plan.vectors + 0.5)),
    "bits.bytes.armv7": _few_bit(lambda spec, plan, target: plan.pixels * (3 * plan.vectors + 1)),
    "bits.lookup.x86_64": _lookup(0.72),
    "bits.lookup.aarch64": _lookup(1),
}


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float | None:
    """Predicted cycles on one thread, without packing of activations; None for a rule that has no row."""
    row = ROWS.get(plan.rule)
    if row is None:
        return None
    depth = 1 if plan.rule.endswith("depthwise") else spec.c // spec.groups
    joined = spec.groups == 1 and spec.dilation[1] == 1 and plan.rule.startswith("int8")
    across = -(-spec.kw * depth // row.depth(plan)) if joined else spec.kw * -(-depth // row.depth(plan))
    looks, pairs = plan.rule.startswith(lookup.NAME), 1
    if spec.activation.kind == "bits":  # a lookup takes all planes of activations at once
        pairs = spec.weight.bits * (1 if looks else spec.activation.bits)
    pixels = (
        -(-spec.n * spec.h * spec.w // plan.pixels) if spec.pointwise else spec.n * spec.oh * -(-spec.ow // plan.pixels)
    )
    groups = 1 if plan.rule.endswith("depthwise") else spec.groups
    tiles = groups * -(-spec.oc // groups // plan.block) * pixels
    loads, least = (0, 0) if looks else ((plan.pixels + plan.vectors) / 2, LATENCY)
    step = max(row.step(spec, plan, target), loads, least)
    around = row.finish(spec, plan, target) * _tile(plan) + AROUND
    return row.before(spec, plan, target) + tiles * (spec.kh * across * pairs * step + around)


def packing_cycles(spec: KernelSpec) -> float:
    """Predicted cycles of quantising and packing what `spec` reads: a comparison and a store for 16 channels of a plane."""
    return spec.n * spec.h * spec.w * -(-spec.c // 16) * (1 + spec.activation.bits)
