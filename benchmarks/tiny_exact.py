"""What an 8-bit network's integers are by exact arithmetic: sums of integers, scales as float64, each result rounded once, halves to even."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def _along(values, rank: int, axis: int | None) -> np.ndarray:
    values = np.asarray(values)
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == (1 if axis is None else axis) % rank else 1 for i in range(rank)])


class DequantizeLinear(OpRun):
    """(x - zero point) * scale, the difference in integers and the product in float64."""

    op_domain = ""

    def _run(self, x, scale, zero=None, axis=None, **_):
        less = 0 if zero is None else _along(zero, x.ndim, axis).astype(np.int64)
        return ((x.astype(np.int64) - less) * _along(scale, x.ndim, axis).astype(np.float64),)


class QuantizeLinear(OpRun):
    """x / scale in float64, rounded, and the zero point."""

    op_domain = ""

    def _run(self, x, scale, zero, axis=None, **_):
        limits = np.iinfo(zero.dtype)
        made = np.rint(x / _along(scale, x.ndim, axis).astype(np.float64)) + _along(zero, x.ndim, axis)
        return (np.clip(made, limits.min, limits.max).astype(zero.dtype),)


def exact(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The output of each sample, (samples, elements)."""
    session = ReferenceEvaluator(model, new_ops=[DequantizeLinear, QuantizeLinear])
    ((key, x),) = feeds.items()
    return np.concatenate([session.run(None, {key: row[None]})[0].reshape(1, -1) for row in x])


def apart(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """The share of integers that differ, that of two steps and more, and the most steps."""
    steps = np.abs(found.astype(int) - wanted.astype(int))
    return {
        "differing": float((steps > 0).mean()),
        "beyond_one": float((steps > 1).mean()),
        "most_steps": int(steps.max()),
    }
