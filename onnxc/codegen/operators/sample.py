"""Tensors read at coordinates that are computed: GridSample."""

from __future__ import annotations

import itertools

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, dtype_of, shape_of
from onnxc.codegen.operators.table import row


@row("GridSample")
def grid_sample(n: Node, x, places):
    """x read at `places` (n, ..., axes), whose last axis has coordinates in [-1, 1], the innermost axis of x first."""
    mode = n.choice(
        "mode", "linear" if n.opset > 19 else "bilinear", "linear", "bilinear", "nearest", "cubic", "bicubic"
    )
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    edge, corners = n.choice("padding_mode", "zeros", "border", "reflection"), bool(n.attribute("align_corners", 0))
    sizes, kind = shape_of(x)[2:], dtype_of(x)
    rank, x_ = len(sizes), tvm.tirx

    def const(value: float):
        return x_.const(value, kind)

    def pixel(v, size: int):
        return (
            (v + const(1)) * const((size - 1) / 2)
            if corners
            else ((v + const(1)) * const(size) - const(1)) * const(0.5)
        )

    def reflected(v, size: int):
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        span = high - low
        if span <= 0:
            return const(0)
        away = x_.abs(v - const(low))
        turns = x_.floor(away / const(span))
        rest = away - turns * const(span)
        odd = turns - const(2) * x_.floor(turns * const(0.5)) > const(0.5)
        return x_.Select(odd, const(high) - rest, rest + const(low))

    def inside(v, size: int):
        """A coordinate in whole pixels as an index that is safe, and whether it is one of the tensor."""
        if edge == "reflection":
            v = reflected(v, size)
        bounded = x_.max(x_.min(v, const(size - 1)), const(0))
        index = x_.min(x_.max(x_.Cast("int32", bounded), 0), size - 1)
        return index, x_.all(v >= const(0), v <= const(size - 1)) if edge == "zeros" else None

    def taps(v, size: int):
        """(coordinate in whole pixels, weight) of every pixel that counts along an axis."""
        if mode == "nearest":
            return [(x_.nearbyint(v), const(1))]
        base = x_.floor(v)
        t = v - base
        if mode == "linear":
            return [(base, const(1) - t), (base + const(1), t)]
        a = -0.75
        made = []
        for k in range(-1, 3):
            d = t + const(1) if k == -1 else t if k == 0 else const(k) - t
            if k in (0, 1):
                w = ((const(a + 2) * d - const(a + 3)) * d) * d + const(1)
            else:
                w = ((const(a) * d - const(5 * a)) * d + const(8 * a)) * d - const(4 * a)
            made.append((base + const(k), w))
        return made

    def compute(t, grid):
        out = [int(e) for e in grid.shape[1:-1]]

        def element(batch, channel, *index):
            axes = []
            for d, size in enumerate(sizes):
                v = pixel(grid(batch, *index, rank - 1 - d), size)
                if edge == "border" and mode != "cubic":
                    v = x_.max(x_.min(v, const(size - 1)), const(0))
                elif edge == "reflection" and mode != "cubic":
                    v = reflected(v, size)
                axes.append([(*inside(at, size), w) for at, w in taps(v, size)])
            total = const(0)
            for combo in itertools.product(*axes):
                value = t(batch, channel, *(at for at, _, _ in combo))
                tests = [test for _, test, _ in combo if test is not None]
                value = x_.Select(x_.all(*tests), value, const(0)) if tests else value
                for _, _, w in combo:
                    value = value * w
                total = total + value
            return total

        return tvm.te.compute((*shape_of(x)[:2], *out), element, name="sample")

    return n.te(compute, x, places if dtype_of(places) == kind else n.cast(places, kind))
