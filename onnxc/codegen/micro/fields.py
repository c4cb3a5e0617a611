"""Weights of few bits as Helium multiplies them: fields of bytes (`runtime/c/micro_helium_few.h`).

A window's numbers, of channels up to a multiple of 32, lie in parts of 16 (8 / f) bytes, f being the bits of a field: byte b of a
vector has field k for number 16 k + b of its part. For each four output channels there are four int32, what their sums are too
large by, then the first vector of each, then the second.
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import Detail, KernelSpec, Schedule

WHOLE, MASKED = Detail("fields"), Detail("masked")
"""Sums of whole bytes, whose lower fields cancel out, or of masked fields."""
FOURS, VECTOR, WORD = 4, 16, 32
MOST = 32000
"""Numbers of a window whose products, of bytes, do not leave 32 bits."""


def detail(spec: KernelSpec) -> Detail | None:
    """How the products of a few-bit layer are summed; None where they cannot be."""
    low, high = _range(spec)
    plain = spec.groups == 1 and spec.weight.bits <= 4 and spec.activation.levels != "residual"
    if not plain or high - low > 255 or _numbers(spec) > MOST:
        return None
    return WHOLE if ((1 << field(spec)) + 1) * (high - low) <= 255 else MASKED


def field(spec: KernelSpec) -> int:
    """Bits of a field: 1, 2 or 4."""
    return next(f for f in (1, 2, 4) if f >= spec.weight.bits)


def _range(spec: KernelSpec) -> tuple[int, int]:
    """The least and the greatest number of a window: codes, or what sums of +-1 by planes make."""
    most = (1 << spec.activation.bits) - 1
    if planes.counts_xor(spec):
        return -most, most
    low = spec.activation.low if spec.activation.levels == "signed" else 0
    return low, low + most


def key(spec: KernelSpec) -> tuple:
    """What `pack` depends on beside the weights' encoding."""
    return (_range(spec), spec.oc, spec.c, spec.kh, spec.kw)


def _numbers(spec: KernelSpec) -> int:
    """Of a window."""
    return spec.kh * spec.kw * -(-spec.c // WORD) * WORD


def vectors(spec: KernelSpec) -> int:
    """Vectors of an output channel's weights."""
    return -(-_numbers(spec) * field(spec) // (8 * VECTOR))


def shape(spec: KernelSpec) -> tuple[int, int, int]:
    """Of packed weights, 32-bit words."""
    return (1, -(-spec.oc // FOURS), FOURS + FOURS * vectors(spec) * VECTOR // 4)


def scratch(spec: KernelSpec) -> int:
    """Words of work: a window's numbers, and what stands for them."""
    return 2 * vectors(spec) * (8 // field(spec)) * VECTOR // 4


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integer weights (oc, c, kh, kw) -> words of `shape`."""
    f = field(spec)
    codes = planes.codes_of(spec.weight, weights.transpose(0, 2, 3, 1))
    if spec.weight.levels == "signed":
        codes = codes ^ np.uint8(1 << (spec.weight.bits - 1))
    codes = np.pad(codes, [(0, -spec.oc % FOURS), (0, 0), (0, 0), (0, -spec.c % WORD)])
    codes, parts = codes.reshape(len(codes), -1), vectors(spec)
    codes = np.pad(codes, [(0, 0), (0, parts * VECTOR * (8 // f) - codes.shape[1])])
    fields = codes.reshape(len(codes), parts, 8 // f, VECTOR).astype(np.int64)
    shifts = f * np.arange(8 // f)[:, None]
    held = (fields << shifts).sum(2)  # oc, part, byte
    low, high = _range(spec)
    if plan.detail == WHOLE:
        more = (high - (low << f)) * (held[:, :, None] << shifts & 255).sum((1, 2, 3))
    else:
        more = -(low << (8 - f)) * codes.sum(1, dtype=np.int64)
    first = more.astype("<i4").view("<u4").reshape(-1, 1, FOURS)
    rest = (
        held.astype(np.uint8)
        .reshape(len(first), FOURS, parts, VECTOR)
        .swapaxes(1, 2)
        .reshape(len(first), -1)
        .view("<u4")
    )
    return np.concatenate([first, rest[:, None]], axis=2).reshape(shape(spec))


def function(spec: KernelSpec, plan: Schedule) -> str:
    """Of C, for the sums of a pixel."""
    return f"onnxc_by_{'whole' if plan.detail == WHOLE else 'masked'}{field(spec)}"


def instructions(spec: KernelSpec, plan: Schedule) -> float:
    """Of a pixel: a vector of four channels takes 9 for each field, 13 where those are masked; 22 and 3 a plane for 16 numbers of a
    window; 46 for a result that is a float first, 24 for one that is compared."""
    count, parts = 8 // field(spec), vectors(spec)
    each = parts * (count * (9 if plan.detail == WHOLE else 13) + 1) + 40
    after = 24 if spec.epilogue and spec.epilogue[0][0] == "threshold" else 46
    return -(-spec.oc // FOURS) * each + parts * count * (22 + 3 * spec.activation.bits) + after * spec.oc
