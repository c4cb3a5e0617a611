"""Tensors read between their elements at places that other tensors name: RoiAlign, DeformConv.

    value(y, x) = sum over the four elements around (y, x) of (1 - |y - i|) (1 - |x - j|) t[i, j]

Whatever the places hold, an element is read at an index that is kept within the tensor.
"""

from __future__ import annotations

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops
from onnxc.codegen.operators.narrow import Steps
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.select import checked, wrapped
from onnxc.codegen.operators.table import row
from onnxc.codegen.operators.window import Window


def _index(v, size: int):
    """A coordinate cut to an index of an axis, NaN to one too."""
    kind = str(v.ty.dtype)
    bounded = tvm.tirx.Select(v > tvm.tirx.const(0, kind), v, tvm.tirx.const(0, kind))
    bounded = tvm.tirx.Select(bounded < tvm.tirx.const(size - 1, kind), bounded, tvm.tirx.const(size - 1, kind))
    return tvm.tirx.min(tvm.tirx.max(tvm.tirx.Cast("int32", bounded), 0), size - 1)


@row("RoiAlign")
def roi_align(n: Node, x, regions, batches):
    """Each region (x1, y1, x2, y2) of one batch cut into bins; a bin is the mean, or the largest, of its samples.

    `max` takes the largest of the weighted elements of all samples, as ONNX's reference does.
    """
    mode = n.choice("mode", "avg", "max")
    half = (
        n.opset >= 16 and n.choice("coordinate_transformation_mode", "half_pixel", "output_half_pixel") == "half_pixel"
    )
    high, wide = int(n.attribute("output_height", 1)), int(n.attribute("output_width", 1))
    samples, scale = int(n.attribute("sampling_ratio", 0)), float(n.attribute("spatial_scale", 1.0))
    shape, kind, count = shape_of(x), dtype_of(x), shape_of(regions)[0]
    sizes, x_ = shape[2:], tvm.tirx
    checked(n, batches, (shape[0],), 2)

    def const(value: float):
        return x_.const(value, kind)

    def body(T, t, rois, which, made):
        let, total = Steps(T), T.alloc_buffer((1,), kind)
        with T.serial(0, count) as r:
            batch = let(x_.Cast("int32", wrapped(which[r], shape[0])))
            starts, spans, grids = [], [], []
            for axis, bins in ((1, high), (0, wide)):
                offset = const(0.5 if half else 0.0)
                start = let(rois[r, axis] * const(scale) - offset)
                span = let(rois[r, axis + 2] * const(scale) - offset - start)
                span = span if half else let(x_.Select(span > const(1), span, const(1)))
                each = let(span / const(bins))
                starts.append(start)
                spans.append(each)
                many = x_.Select(x_.all(each > const(0), each < const(1e6)), x_.ceil(each), const(0))
                grids.append(samples if samples > 0 else let(x_.Cast("int32", many)))
            with T.grid(shape[1], high, wide) as (channel, i, j):
                T.buffer_store(total, const(0), (0,))
                with T.serial(0, grids[0]) as a, T.serial(0, grids[1]) as b:
                    at = [
                        let(
                            start
                            + x_.Cast(kind, bin_) * span
                            + (x_.Cast(kind, k) + const(0.5)) * span / x_.Cast(kind, few)
                        )
                        for start, span, bin_, k, few in zip(starts, spans, (i, j), (a, b), grids, strict=True)
                    ]
                    outside = x_.any(*(x_.any(v < const(-1), v > const(size)) for v, size in zip(at, sizes)))
                    parts = _corners(t, (batch, channel), at, sizes, let)
                    if mode == "avg":
                        value = sum(parts[1:], parts[0])
                        T.buffer_store(total, total[0] + x_.Select(outside, const(0), value), (0,))
                    else:
                        best = let(x_.Select(outside, const(0), x_.max(x_.max(*parts[:2]), x_.max(*parts[2:]))))
                        first = x_.all(a == 0, b == 0)
                        T.buffer_store(total, x_.Select(x_.any(first, best > total[0]), best, total[0]), (0,))
                divisor = x_.max(x_.Cast(kind, grids[0] * grids[1]), const(1))
                T.buffer_store(made, total[0] / divisor if mode == "avg" else total[0], (r, channel, i, j))

    regions = n.cast(regions, kind)
    return loops(n, [x, regions, batches], [((count, shape[1], high, wide), kind)], body)


def _corners(t, lead: tuple, at: list, sizes, let: Steps) -> list:
    """The four elements around a place that is moved onto the tensor, each with its weight."""
    x_, kind = tvm.tirx, str(at[0].ty.dtype)
    ways = []
    for v, size in zip(at, sizes, strict=True):
        low = let(_index(v, size))
        inner = let(x_.Select(v > x_.const(0, kind), v, x_.const(0, kind)))
        share = let(x_.Select(low >= size - 1, x_.const(0, kind), inner - x_.Cast(kind, low)))
        ways.append([(low, x_.const(1, kind) - share), (x_.min(low + 1, size - 1), share)])
    return [let(wy * wx * t[(*lead, y, x)]) for y, wy in ways[0] for x, wx in ways[1]]


@row("DeformConv")
def deform_conv(n: Node, x, w, offset, b=None, mask=None):
    """A convolution whose window's places are moved by `offset` (n, groups * kernel * 2, ...), y first, and weighted by `mask`."""
    shape, weights, kind = shape_of(x), shape_of(w), dtype_of(x)
    if len(shape) != 4:
        raise Refused(f"there is no deformable convolution over {len(shape) - 2} axes, only over 2")
    given = n.attribute("kernel_shape")
    if given and tuple(given) != weights[2:]:
        raise Refused(f"attribute kernel_shape = {given} is not that of its weight {list(weights[2:])}")
    window = Window(n, shape[2:], weights[2:])
    groups, moved = int(n.attribute("group", 1)), int(n.attribute("offset_group", 1))
    kernel, out, x_ = weights[2:], tuple(window.out), tvm.tirx
    taps = kernel[0] * kernel[1]

    def const(value: float):
        return x_.const(value, kind)

    def sampled(T, t, places, *rest):
        """made[n, c, tap, ...]: what each tap of the window reads."""
        factors, made = (rest[0], rest[1]) if mask is not None else (None, rest[0])
        let = Steps(T)
        with T.grid(shape[0], shape[1], kernel[0], kernel[1], *out) as (batch, c, i, j, p, q):
            tap = let(i * kernel[1] + j)
            group = let(x_.floordiv(c, shape[1] // moved) * taps)
            ways = []
            for d, (k, place) in enumerate(((i, p), (j, q))):
                start = place * window.strides[d] - window.before[d] + k * window.dilations[d]
                v = let(x_.Cast(kind, start) + places[batch, (group + tap) * 2 + d, p, q])
                low = let(x_.floor(v))
                size, ends = shape[2 + d], []
                for at, weight in ((low, const(1) - (v - low)), (low + const(1), v - low)):
                    inside = x_.all(at >= const(0), at <= const(size - 1))
                    ends.append((let(_index(at, size)), let(x_.Select(inside, weight, const(0)))))
                ways.append(ends)
            value = const(0)
            for y, wy in ways[0]:
                for z, wz in ways[1]:
                    value = let(value + wy * wz * t[batch, c, y, z])
            if factors is not None:
                value = value * factors[batch, group + tap, p, q]
            T.buffer_store(made, value, (batch, c, tap, p, q))

    parts = [x, n.cast(offset, kind), *([n.cast(mask, kind)] if mask is not None else [])]
    taken = loops(n, parts, [((shape[0], shape[1], taps, *out), kind)], sampled, name="sampled")
    each = shape[1] // groups * taps
    left = n.reshape(w, (groups, weights[0] // groups, each))
    right = n.reshape(taken, (shape[0], groups, each, out[0] * out[1]))
    made = n.reshape(n.do("matmul", left, right), (shape[0], weights[0], *out))
    return made if b is None else n.do("add", made, n.reshape(b, (1, weights[0], 1, 1)))
