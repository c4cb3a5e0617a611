"""The planes of a tensor that each plane of a convolution over three axes reads, side by side as channels.

    x (n, 8, h, w, c), 3 taps of stride 1, padding 1   ->   (n, 8, h, w, 3 c): planes d - 1, d, d + 1, zeros beyond the ends

So it is a convolution over two axes with three times the channels, which has a kernel. What is copied is one of kh kw oc
parts of what is computed.
"""

from __future__ import annotations

from onnxc.codegen.kernels.vectors import flat, function, shared, span, splat, sweep
from onnxc.codegen.match.products import Depth
from onnxc.codegen.tvm_api import script_builder, tvm_modules

LANES = 16  # of a copy, which LLVM splits where vectors are shorter


def gathered(builder, source, depth: Depth, groups: int):
    """The call that makes (n, out, h, w, groups, taps, c / groups) of `source` (n, size, h, w, c)."""
    tirx = tvm_modules().tirx
    T, _ = script_builder()
    n, size, h, w, c = (int(extent) for extent in source.ty.shape.values)
    kind, each = str(source.ty.dtype), c // groups

    def body(x, y) -> None:
        with (
            shared(n * depth.out, n * depth.out * h * w * c * depth.taps) as turn,
            T.grid(depth.taps, h * w) as (tap, pixel),
        ):
            plane = tirx.indexmod(turn, depth.out) * depth.stride + tap * depth.dilation - depth.before
            start = ((tirx.indexdiv(turn, depth.out) * size + plane) * (h * w) + pixel) * c
            target = ((turn * (h * w) + pixel) * groups * depth.taps + tap) * each

            def copy(inside: bool) -> None:
                for group in range(groups):

                    def one(place, width, group=group) -> None:
                        there = flat(y, span(target + group * depth.taps * each + place, width))
                        read = x[tuple(flat(x, span(start + group * each + place, width)))]
                        T.buffer_store(y, read if inside else splat(tirx.const(0, kind), width), there)

                    sweep(each, LANES, one)

            with T.If(tirx.all(plane >= 0, plane < size)):
                with T.Then():
                    copy(True)
                with T.Else():
                    copy(False)

    shape = (n, depth.out, h, w, groups * depth.taps * each)
    return function(builder, [source], (shape, kind), "planes", body)
