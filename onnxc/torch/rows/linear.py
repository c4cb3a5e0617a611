"""Operators that contract an axis of the input with one of a weight."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..layout import safe
from ..table import Call, row

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def text(value: str | bytes | None, default: str = "") -> str:
    """An attribute that is a string."""
    return default if value is None else value.decode() if isinstance(value, bytes) else value


def paddings(call: Call, extents, kernel, strides, dilations) -> tuple[list[int], list[int]]:
    """Pads before and after each spatial axis, by `pads` or `auto_pad`."""
    n, auto = len(kernel), text(call.get("auto_pad"), "NOTSET")
    if auto in ("NOTSET", ""):
        pads = list(call.get("pads") or [0] * 2 * n)
        return pads[:n], pads[n:]
    if auto == "VALID":
        return [0] * n, [0] * n
    before, after = [], []
    for size, k, s, d in zip(extents, kernel, strides, dilations):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return before, after


def pad_list(before: list[int], after: list[int]) -> list[int]:
    """Pads in the order of torch: the last axis first."""
    return [n for pair in zip(reversed(before), reversed(after)) for n in pair]


@row("Conv")
def conv(call: Call, x, w, b=None):
    n = x.ndim - 2
    if n not in CONV:
        raise call.refuse("a convolution of this rank", expected="1, 2 or 3 spatial axes", found=n)
    strides, dilations = call.get("strides") or [1] * n, call.get("dilations") or [1] * n
    before, after = paddings(call, x.shape[2:], w.shape[2:], strides, dilations)
    if before != after:
        x, before = F.pad(x, pad_list(before, after)), [0] * n
    return CONV[n](*safe(x, w), b, strides, before, dilations, call.get("group", 1))


@row("ConvTranspose")
def conv_transpose(call: Call, x, w, b=None):
    n = x.ndim - 2
    if n not in TRANSPOSED:
        raise call.refuse("a transposed convolution of this rank", expected="1, 2 or 3 spatial axes", found=n)
    strides, dilations = call.get("strides") or [1] * n, call.get("dilations") or [1] * n
    extra = call.get("output_padding") or [0] * n
    wide = [(i - 1) * s + (k - 1) * d + 1 for i, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations)]
    auto, wanted = text(call.get("auto_pad"), "NOTSET"), call.get("output_shape")
    pads = list(call.get("pads") or [0] * 2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [i * s for i, s in zip(x.shape[2:], strides)]
    if wanted:
        totals = [full + e - o for full, e, o in zip(wide, extra, list(wanted)[-n:])]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = small + large if auto == "SAME_UPPER" else large + small
    y = TRANSPOSED[n](*safe(x, w), b, strides, [0] * n, [0] * n, call.get("group", 1), dilations)
    # all of the sums first, then the border: pads cut it away, output_padding adds rows that see the bias alone
    cut = [-p for p in pads[:n]], [e - p for p, e in zip(pads[n:], extra)]
    if not any(cut[0] + cut[1]):
        return y
    if b is None or not any(c > 0 for c in cut[0] + cut[1]):
        return F.pad(y, pad_list(*cut))
    bias = b.reshape(1, -1, *[1] * n)
    return F.pad(y - bias, pad_list(*cut)) + bias


@row("MatMul")
def matmul(call: Call, a, b):
    return call.multiply(a, b)


@row("Gemm")
def gemm(call: Call, a, b, c=None):
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    y = call.multiply(a, b)
    y = y * alpha if alpha != 1 else y
    return y if c is None else y + (c * beta if beta != 1 else c)


@row("Einsum")
def einsum(call: Call, *x):
    return torch.einsum(text(call.get("equation")).replace(" ", ""), *x)


@row("Det")
def det(call: Call, x):
    return torch.linalg.det(x)
