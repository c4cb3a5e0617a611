"""Float32 activations with weights of 1 to 4 bits that stay packed.

    1-bit bipolar: w = bit ? 1 : -1       more planes: the sum of bit ? 2^j : -2^j, bit ? 2^j : 0, or -2^j for a sign

The loops are those of `float32.direct`. Where many pixels read a block of weights, its bits become floats in the workspace
once; where few do, in registers, which saves bringing floats from memory. A mask is the bit of 8 or 16 output channels: with
AVX-512 it is a register and a plane a blend; elsewhere LLVM tests the bits of a broadcast. The scales of the output
channels are a step of the epilogue, so sums of weights +-1 are sums of the very activations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxc.codegen import pack as layouts
from onnxc.codegen.kernels import float32, planes
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.result import packable
from onnxc.codegen.kernels.spec import FLOAT32, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at, check_float, choose_tile
from onnxc.codegen.target import Target

NAME = "float32.packed"
LEAST = 8  # lanes: a mask is a byte or two
FAR = (1 << 20, 1 << 22)  # bytes of float weights from which bringing them costs more than unpacking 1 bit, 2 bits
MANY = 6  # tiles of pixels that share the unpacking of a block


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes float activations with packed weights where unpacking them takes less than it saves, or next to nothing."""
    if spec.weight.kind != "bits":
        return Refusal(NAME, f"takes packed weights only, not {spec.weight.text()}")
    refusal = check_float(NAME, replace(spec, weight=FLOAT32))
    if refusal:
        return refusal
    channels, pixels = spec.oc // spec.groups, spec.row
    if not spec.macs or channels < LEAST:
        return Refusal(NAME, f"needs {LEAST} output channels of a group, found {channels}")
    if target.lanes == 1:
        return Refusal(NAME, f"needs vectors, which {target.name} lacks")
    doubled = LEAST // target.lanes
    if doubled > 1:  # a vector of 8 is two registers
        wide = replace(target, lanes=LEAST, registers=target.registers // doubled, wide_cost=target.wide_cost * doubled)
    else:
        wide = target
    depth = spec.kh * spec.kw * spec.c // spec.groups
    plan = choose_tile(NAME, pixels, channels, depth, wide, least=LEAST)
    far = spec.weight.bits <= len(FAR) and depth * spec.oc * 4 > FAR[spec.weight.bits - 1]
    if not _panel(spec, plan) and not far:
        return Refusal(NAME, f"unpacks for {MANY} tiles of pixels on, or few bits from {FAR[0]} bytes of floats on")
    return packable(spec, plan)


def _panel(spec: KernelSpec, plan: Schedule) -> bool:
    """Whether blocks of weights are unpacked for all their pixels, and not in registers for each tile."""
    if spec.pointwise:
        return spec.n * spec.h * spec.w >= MANY * plan.pixels
    return spec.n * spec.oh * -(-spec.ow // plan.pixels) >= MANY


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integers (oc, c/groups, kh, kw) -> masks (groups, blocks, kh, kw, c/groups, vectors x planes) of `lanes` bits."""
    codes = layouts.conv_blocks(planes.codes_of(spec.weight, weights), spec.groups, plan.block)
    lanes = codes.reshape(*codes.shape[:-1], plan.vectors, 1, plan.lanes)
    bits = (lanes >> np.arange(spec.weight.bits, dtype=np.uint8)[:, None]) & 1
    masks = np.packbits(bits, axis=-1, bitorder="little").view(f"<u{plan.lanes // 8}")
    return np.ascontiguousarray(masks.reshape(packed_shape(spec, plan)))


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (spec.groups, spec.weight, plan.vectors, plan.lanes)


def packed_shape(spec: KernelSpec, plan: Schedule) -> tuple[int, ...]:
    """Shape of what `pack` returns."""
    blocks = -(-spec.oc // spec.groups // plan.block)
    return (spec.groups, blocks, spec.kh, spec.kw, spec.c // spec.groups, plan.vectors * spec.weight.bits)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, masks, the epilogue's operands, y."""

    def load(w, step, vector: int):
        first = (step * plan.vectors + vector) * spec.weight.bits
        return unpacked(spec.weight, [w[at(w, first + j)] for j in range(spec.weight.bits)], plan.lanes)

    return float32.emit(spec, plan, name, f"uint{plan.lanes}", packed_shape(spec, plan), load, _panel(spec, plan))


def unpacked(encoding, masks: list, lanes: int):
    """The float vector of `lanes` weights whose bits are `masks`, one for each plane."""
    from tvm import ir, tirx

    def const(number: int):
        return tirx.Broadcast(tirx.const(float(number), "float32"), lanes)

    total = None
    for j, mask in enumerate(masks):
        up = -(1 << j) if planes.negative(encoding, j) else 1 << j
        down = -(1 << j) if encoding.levels == "bipolar" else 0
        test = ir.Call(ir.Op.get("tirx.reinterpret"), [mask], ret_ty=f"boolx{lanes}")
        value = tirx.Select(test, const(up), const(down))
        total = value if total is None else total + value
    return total


FAMILY = Family(NAME, schedule, emit, pack, float32.cycles, pack_key, packs=True)
