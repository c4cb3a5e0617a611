"""An epilogue followed by Binarize as one comparison of a count: bit = S <= T[class, oc].

y = f(multiplier * S + constant) is binarised, f being the epilogue's steps of one channel. Where f's sign changes at most
once over all integers that the sum can be, bit = 1 from some sum t on (or up to some t: a falling channel). Then
multiplier * S + constant >= t is S <= floor((constant - t) / |multiplier|), or S >= ceil((t - constant) / multiplier).
Falling channels compare the complement: S >= a just when -1 - S <= -1 - a. f is evaluated as the kernel would, in float32,
so the result is that of the separate steps to the bit, up to fused multiply-adds. NumPy only.
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import KernelSpec

MOST = 1 << 24  # numbers evaluated
ALWAYS = 1 << 30  # beyond every count


def evaluate(epilogue: tuple, operands: list, sums: np.ndarray) -> np.ndarray | None:
    """The epilogue in float32 on sums (..., oc); None where a step reads other data than its channel's constants."""
    value, left = sums.astype(np.float32), iter(operands)
    for step in epilogue:
        match step[0]:
            case "bias" | "add":
                value = value + next(left)
            case "mul":
                value = value * next(left)
            case "relu":
                value = np.maximum(value, np.float32(0))
            case "clip":
                value = np.clip(value, np.float32(step[1]), np.float32(step[2]))
            case "prelu":
                value = np.where(value > 0, value, value * next(left))
            case "leaky_relu":
                value = np.where(value > 0, value, value * np.float32(step[1]))
            case _:
                return None
    return value


def thresholds(spec: KernelSpec, table: np.ndarray, operands: list) -> tuple[np.ndarray, np.ndarray] | str:
    """T (row classes, column classes, oc) and the mask of falling channels (oc,), -1 or 0, int32; or why there are none.

    `table` are the constants of `planes.table`, `operands` those of the spec's epilogue.
    """
    x, w = (max(-e.low, e.high) for e in (spec.activation, spec.weight))
    bound = spec.kh * spec.kw * (spec.c // spec.groups) * x * w
    if (2 * bound + 1) * spec.oc > MOST:
        return f"sums up to {bound} are too many to tabulate"
    sums = np.arange(-bound, bound + 1)
    values = evaluate(spec.epilogue, operands, np.broadcast_to(sums[:, None], (len(sums), spec.oc)))
    if values is None:
        return "a step of the epilogue reads other data"
    bits = values >= 0
    rises, falls = ((np.diff(bits.astype(np.int8), axis=0) == sign).sum(axis=0) for sign in (1, -1))
    if ((rises > 0) & (falls > 0)).any():
        return "the epilogue is not monotone"
    falling = falls > 0
    first = np.where(bits.any(axis=0), bits.argmax(axis=0), len(sums)) - bound  # rising: 1 from here on
    last = len(sums) - 1 - bits[::-1].argmax(axis=0) - bound  # falling: 1 up to here
    scale = abs(planes.multiplier(spec))
    constant = table.astype(np.int64)
    never = ~bits.any(axis=0)
    every = bits.all(axis=0)
    if (
        planes.multiplier(spec) < 0
    ):  # sum >= first: S <= (constant - first) / scale; sum <= last: S >= (constant - last) / scale
        found = np.where(falling, -1 - -((last - constant) // scale), (constant - first) // scale)
        found = np.where(every, ALWAYS, np.where(never, -ALWAYS, found))
    else:  # sum >= first: S >= (first - constant) / scale; sum <= last: S <= (last - constant) / scale
        found = np.where(falling, -1 - (last - constant) // scale, -((constant - first) // scale))
        found = np.where(every, -ALWAYS, np.where(never, ALWAYS, found))
    return found.astype(np.int32), np.where(falling, -1, 0).astype(np.int32)
