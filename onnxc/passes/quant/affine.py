"""Affine quantisation in NumPy: from a range to scale and zero point, from real numbers to stored ones and back.

real = scale * (stored - zero_point), as in QuantizeLinear and DequantizeLinear (Jacob 2018). Arithmetic in float32, the
order of operations ORT's: the fake-quantised twin must agree with ORT to the bit.
"""

from __future__ import annotations

import numpy as np

from ...ir.qtype import QType

TINY = np.float32(2.0**-60)
"""The least scale; products of two of them, and quotients by them, must stay normal numbers."""
BIAS_LIMIT = float(2**30)
"""Bound on a stored bias: half of int32, so that the sum of products has the other half."""


def affine(low: float, high: float, *, bits: int = 8, symmetric: bool = False) -> QType:
    """The quantiser of activations for the range [low, high], widened to hold 0.

    Unsigned with a zero point; symmetric: signed, zero point 0, and the range the larger of both sides. The zero point
    is a stored number, so that 0 is exact; the scale then covers both ends as far as its rounding allows, and where an
    end is 0 the other end is never passed (so that a Clip to the same range is redundant).
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        half = float((1 << (bits - 1)) - 1)
        scale = _below(max(-low, high), half)
        return QType(bits, True, scale, np.zeros((), np.int8))
    levels = float((1 << bits) - 1)
    scale = _below(high - low, levels)
    zero = int(np.clip(np.rint(-low / float(scale)), 0, levels))
    return QType(bits, False, scale, np.array(zero, np.uint8))


def _below(span: float, levels: float) -> np.ndarray:
    """The largest float32 scale with scale * levels (in float32) at most span; 1 for an empty span."""
    if span <= 0.0:
        return np.array(1.0, np.float32)
    scale = np.maximum(np.float32(span / levels), TINY)
    while scale > TINY and np.float32(levels) * scale > np.float32(span):
        scale = np.nextafter(scale, np.float32(0))
    return np.array(scale, np.float32)


def weight_scales(values: np.ndarray, axis: int | None, bits: int = 8) -> np.ndarray:
    """Symmetric scales, float32: [values.shape[axis]], or [] for the whole tensor. Channels of zeros get the least."""
    others = tuple(d for d in range(values.ndim) if d != axis)
    top = np.maximum(values.max(axis=others), -values.min(axis=others)) if values.size else np.zeros(())
    return np.maximum(np.asarray(top, np.float32) / np.float32((1 << (bits - 1)) - 1), TINY)


def room_for_bias(scales: np.ndarray, bias: np.ndarray, x_scale: np.ndarray) -> np.ndarray:
    """Weight scales raised where bias / (x_scale * scale) would not fit: channels of (nearly) zero weights and a bias.

    The bias is stored as int32 at the scale of the products. Where it outweighs them by 2^30 / (127 * 255 * terms),
    coarser weights cost nothing that 8 bits of output could show.
    """
    need = np.abs(bias.astype(np.float64)) / (float(x_scale) * BIAS_LIMIT)
    need = need if scales.ndim else need.max(initial=0.0)
    return np.maximum(scales, np.asarray(need, np.float32))


def parameters(q: QType) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a quantiser, which has both."""
    assert q.scale is not None and q.zero_point is not None
    return q.scale, q.zero_point


def quantise(values: np.ndarray, q: QType) -> np.ndarray:
    """Stored numbers: round to even of values / scale, plus the zero point, saturated. Same shape as `values`."""
    scale, zero = (q.along(v, values.shape) for v in parameters(q))
    low = q.low + 1 if q.signed else q.low  # signed numbers stay symmetric
    stored = np.rint(values / scale) + zero.astype(np.float32)
    return np.clip(stored, low, q.high).astype(np.int8 if q.signed else np.uint8)


def quantise_bias(bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int32 bias at `scale` (one per channel, or one)."""
    return np.clip(np.rint(bias.astype(np.float64) / scale), -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)


def dequantise(stored: np.ndarray, q: QType) -> np.ndarray:
    """Real numbers, float32, of stored ones."""
    return q.real(stored)
