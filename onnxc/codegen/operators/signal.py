"""Transforms of signals as products with constant matrices, and patches put together again.

DFT: y[k] = sum over n of x[n] exp(-2 pi i k n / N): for a real x the products with cos and -sin, for a complex one both parts
with both. The length is known, so the matrix is a constant, and the product runs on the kernels of MatMul.
"""

from __future__ import annotations

from math import prod
from typing import cast

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of, within
from onnxc.codegen.operators.shape import cut
from onnxc.codegen.operators.table import row


def _matrix(length: int, rows: int, columns: int, sign: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """cos and sign * sin of 2 pi n k / length, (rows, columns); the product is reduced in whole numbers."""
    turn = np.outer(np.arange(rows), np.arange(columns)) % length * (2 * np.pi / length)
    return np.cos(turn).astype(kind), (sign * np.sin(turn)).astype(kind)


def _pairs(x, y, n: Node):
    """Real and imaginary parts as the last axis."""
    shape = shape_of(x)
    return n.do("concat", [n.reshape(x, (*shape, 1)), n.reshape(y, (*shape, 1))], len(shape))


@row("DFT")
def dft(n: Node, x, *_):
    """The transform along an axis, forward or back, whole or the half that a real signal has."""
    shape, kind = shape_of(x), dtype_of(x)
    rank = len(shape)
    axis = within(int(n.attribute("axis", 1)) if n.opset < 20 else int(n.number(2, "axis", -2)), rank)
    inverse, half = bool(n.attribute("inverse", 0)), bool(n.attribute("onesided", 0))
    length = int(n.number(1, "length", 2 * (shape[axis] - 1) if inverse and half else shape[axis]))
    if axis == rank - 1:
        raise Refused("the axis of real and imaginary parts is transformed")
    order = [d for d in range(rank - 1) if d != axis]
    parts = [n.reshape(cut(n, x, {rank - 1: (i, 1, 1)}), shape[:-1]) for i in range(shape[-1])]
    parts = [n.do("permute_dims", part, [*order, axis]) if rank > 2 else part for part in parts]
    have = shape[axis]
    if inverse and half:
        made = _real_inverse(n, parts, length, kind)
        back = made
        results = [back]
    else:
        count = length // 2 + 1 if half else length
        used = min(have, length)
        parts = [cut(n, part, {rank - 2: (0, 1, used)}) for part in parts]
        cos, sin = _matrix(length, used, count, 1.0 if inverse else -1.0, kind)
        scale = np.asarray(1 / length if inverse else 1, kind)
        real, other = (n.weight(m * scale) for m in (cos, sin))
        results = [n.do("matmul", parts[0], real), n.do("matmul", parts[0], other)]
        if len(parts) > 1:
            results[0] = n.do("subtract", results[0], n.do("matmul", parts[1], other))
            results[1] = n.do("add", results[1], n.do("matmul", parts[1], real))
    perm = [(order + [axis]).index(d) for d in range(rank - 1)]
    results = [n.do("permute_dims", part, perm) if rank > 2 else part for part in results]
    if len(results) == 1:
        return n.reshape(results[0], (*shape_of(results[0]), 1))
    return _pairs(results[0], results[1], n)


def _real_inverse(n: Node, parts: list, length: int, kind: str):
    """The real signal of `length` whose half spectrum is given: what is left out is its mirror image."""
    used = min(shape_of(parts[0])[-1], length // 2 + 1)
    parts = [cut(n, part, {len(shape_of(part)) - 1: (0, 1, used)}) for part in parts]
    cos, sin = _matrix(length, used, length, 1.0, "float64")
    twice = np.full((used, 1), 2.0)
    twice[0] = 1
    if length % 2 == 0 and used == length // 2 + 1:
        twice[-1] = 1
    made = n.do("matmul", parts[0], n.weight((cos * twice / length).astype(kind)))
    if len(parts) < 2:
        return made
    return n.do("subtract", made, n.do("matmul", parts[1], n.weight((sin * twice / length).astype(kind))))


@row("STFT")
def stft(n: Node, x, *_):
    """The transform of frames of a signal (batch, length, 1 or 2), each times a window."""
    batch, size, width = shape_of(x)
    step, half = int(n.number(1, "frame step")), bool(n.attribute("onesided", 1))
    window = n.args[2] if n.given(2) else None
    length = int(n.number(3, "frame length", shape_of(window)[0] if window is not None else size))
    count, frames, kind = length // 2 + 1 if half else length, (size - length) // step + 1, dtype_of(x)

    def compute(t, *weights):
        def element(b, frame, i, part):
            value = t(b, frame * step + i, part)
            return value * weights[0](i) if weights else value

        return tvm.te.compute((batch, frames, length, width), element, name="frames")

    made = n.te(compute, x, *([] if window is None else [window]))
    cos, sin = (n.weight(m) for m in _matrix(length, length, count, -1.0, kind))
    parts = [n.reshape(cut(n, made, {3: (i, 1, 1)}), (batch, frames, length)) for i in range(width)]
    real, other = n.do("matmul", parts[0], cos), n.do("matmul", parts[0], sin)
    if width > 1:
        real = n.do("subtract", real, n.do("matmul", parts[1], sin))
        other = n.do("add", other, n.do("matmul", parts[1], cos))
    return _pairs(real, other, n)


@row("Col2Im")
def col_to_im(n: Node, x, *_):
    """Patches (n, channels * places of a block, blocks) summed where they overlap."""
    sizes, block = (
        [int(v) for v in cast(np.ndarray, n.array(i, what))] for i, what in ((1, "image shape"), (2, "block shape"))
    )
    rank, kind = len(sizes), dtype_of(x)
    strides, dilations = (list(n.attribute(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = list(n.attribute("pads") or [0] * 2 * rank)
    counts = [
        (s + pads[d] + pads[rank + d] - (block[d] - 1) * dilations[d] - 1) // strides[d] + 1
        for d, s in enumerate(sizes)
    ]
    batch, channels = shape_of(x)[0], shape_of(x)[1] // prod(block)

    def compute(t):
        runs = [tvm.te.reduce_axis((0, b)) for b in block]

        def element(b, c, *index):
            tests, place, tap = [], 0, 0
            for d, i in enumerate(index):
                at = i + pads[d] - runs[d] * dilations[d]
                step = tvm.tirx.indexdiv(tvm.tirx.max(at, 0), strides[d])
                tests += [at >= 0, tvm.tirx.indexmod(tvm.tirx.max(at, 0), strides[d]) == 0, step < counts[d]]
                place = place * counts[d] + tvm.tirx.min(step, counts[d] - 1)
                tap = tap * block[d] + runs[d]
            value = tvm.tirx.Select(tvm.tirx.all(*tests), t(b, c * prod(block) + tap, place), tvm.tirx.const(0, kind))
            return tvm.te.sum(value, axis=runs)

        return tvm.te.compute((batch, channels, *sizes), element, name="image")

    return n.te(compute, x)
