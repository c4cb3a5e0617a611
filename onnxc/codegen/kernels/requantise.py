"""Epilogues of kernels with int32 sums: scale to floats, float steps, round back to 8 bits.

    y = saturate(round(sum * (sx sw / sy)) + zero)

Rounding is half to even without a library call: v + 1.5 * 2^23 leaves round(v) in the low bits of the float's
significand, for |v| < 2^22; v is clipped before. The same way back makes a float of a small integer. Steps beyond those of tile.py:

("int_bias",)                    int32 by channel, which the sums start from
("rounded", low, high)           the value as it comes back from an 8-bit tensor between two layers, still a float
("int_residual", zero, scale, t) a tensor of y's shape and 8-bit type t added: (r - zero) * scale
("quantize", low, high, zero)    last: clip to low and high, round, add zero
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxc.codegen.kernels.spec import CHANNEL_STEPS, FLOAT32, INT8, UINT8, KernelSpec, Refusal
from onnxc.codegen.kernels.tile import at, float_steps

MAGIC = 1.5 * 2**23
MAGIC_BITS = 0x4B400000


def check_int8(rule: str, spec: KernelSpec) -> Refusal | None:
    """The refusal that all int8 families share."""
    if spec.activation not in (INT8, UINT8) or spec.weight.kind != "int8" or spec.output not in (INT8, UINT8, FLOAT32):
        found = f"{spec.activation.text()} x {spec.weight.text()} -> {spec.output.text()}"
        return Refusal(rule, f"takes 8-bit activations and weights only, not {found}")
    if not spec.weight_constant:
        return Refusal(rule, "needs weights that are known at compile time")
    if not spec.epilogue or spec.epilogue[0] != ("int_bias",):
        return Refusal(rule, "needs an int32 bias, as the zero point of the activations goes into it")
    return None


def operands(spec: KernelSpec) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and element type of what the epilogue reads, in the order of its steps."""
    found: list[tuple[str, tuple[int, ...], str]] = []
    for i, step in enumerate(spec.epilogue):
        match step[0]:
            case "int_bias":
                found.append((f"bias{i}", (spec.oc,), "int32"))
            case "int_residual":
                found.append((f"residual{i}", spec.y_shape, step[3]))
            case "residual":
                found.append((f"residual{i}", spec.y_shape, spec.dtype))
            case name if name in CHANNEL_STEPS:
                found.append((f"{name}{i}", (spec.oc,), spec.dtype))
    return found


def zero_point_in_bias(weights: np.ndarray, zero: int, given: list) -> list:
    """Operands whose first, the int32 bias b (oc,), becomes b - zero sum w; modulo 2^32, as the sums are."""
    sums = weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
    return [(given[0].astype(np.int64) - zero * sums).astype(np.int32), *given[1:]]


def finish(spec: KernelSpec, total, buffers: list, channel, offset):
    """What is stored for an int32 sum: `channel` indexes channel vectors, `offset` tensors of y's shape."""
    from tvm import tirx

    left: Iterator = iter(buffers)
    value = tirx.Cast("float32", total)
    for step in spec.epilogue:
        match step[0]:
            case "int_bias":
                next(left)  # already in the sum
            case "int_residual":
                other = next(left)
                bits = tirx.Cast("int32", other[at(other, offset)]) + tirx.const(MAGIC_BITS, "int32")
                exact = tirx.reinterpret("float32", bits) - tirx.const(MAGIC + step[1], "float32")
                value = value + exact * tirx.const(step[2], "float32")
            case "rounded":
                # through an integer: TVM would simplify (v + magic) - magic to v
                bits = tirx.reinterpret("int32", _clip(value, step[1], step[2]) + tirx.const(MAGIC, "float32"))
                value = tirx.reinterpret("float32", bits) - tirx.const(MAGIC, "float32")
            case "quantize":
                value = _clip(value, step[1], step[2]) + tirx.const(MAGIC, "float32")
                integer = tirx.reinterpret("int32", value) - tirx.const(MAGIC_BITS - step[3], "int32")
                return tirx.Cast(spec.output.kind, integer)
            case _:
                value = float_steps(spec.dtype, (step,), value, left, channel, offset)
    return value


def _clip(value, low: float, high: float):
    from tvm import tirx

    return tirx.min(tirx.max(value, tirx.const(low, "float32")), tirx.const(high, "float32"))
