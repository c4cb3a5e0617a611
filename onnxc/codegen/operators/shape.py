"""The same elements in other places: reshapes, transposes, joins, cuts, repeats, padding."""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of, within
from onnxc.codegen.operators.table import row


def wanted_shape(n: Node) -> tuple[int, ...]:
    """The shape that the model gives to the first result."""
    if n.results[0] is None:
        raise Refused("the model does not say its shape")
    return n.results[0][0]


@row("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(n: Node, x, *_):
    """The same elements in order; the shape follows from the operand or the attributes, as given by ONNX's inference."""
    for name in ("allowzero", "axis", "axes", "shape"):
        n.attribute(name)
    return n.reshape(x, wanted_shape(n))


@row("Transpose")
def transpose(n: Node, x):
    """Axes in another order."""
    rank = len(shape_of(x))
    perm = list(n.attribute("perm", range(rank)[::-1]))
    return n.do("permute_dims", x, perm) if rank > 1 else x


@row("Concat")
def concat(n: Node, *xs):
    """Tensors put one after the other along an axis."""
    axis = n.axis("axis", 1, len(shape_of(xs[0])))
    parts = [x for x in xs if shape_of(x)[axis] > 0] or [xs[0]]
    return n.do("concat", parts, axis) if len(parts) > 1 else parts[0]


@row("Split")
def split(n: Node, x, *_):
    """A tensor cut along an axis, at sizes that are given or as equal as can be."""
    axis = n.axis("axis", 0, len(shape_of(x)))
    sizes = n.axes_of(1, "split", None, 13)
    n.attribute("num_outputs")
    extent, count = shape_of(x)[axis], len(n.outputs)
    if sizes is None:
        size = -(-extent // count)
        sizes = [min(size, extent - i * size) for i in range(count)]
    if count == 1:
        return (x,)
    if 0 in sizes:
        ends = np.cumsum(sizes)
        return tuple(cut(n, x, {axis: (int(end - size), 1, int(size))}) for end, size in zip(ends, sizes))
    made = n.do("split", x, [int(at) for at in np.cumsum(sizes)[:-1]], axis)
    return tuple(n.emit(tvm.tvm_modules().relax.TupleGetItem(made, i)) for i in range(count))


def cut(n: Node, x, parts: dict[int, tuple[int, int, int]]):
    """x[..., start : : step, ...] with `count` elements, for axis -> (start, step, count)."""
    parts = {axis: part for axis, part in parts.items() if part != (0, 1, shape_of(x)[axis])}
    if not parts:
        return x
    if any(count == 0 for _, _, count in parts.values()):
        return n.const(np.zeros([parts.get(i, (0, 1, e))[2] for i, e in enumerate(shape_of(x))]), dtype_of(x))
    axes = sorted(parts)
    starts, steps = [parts[axis][0] for axis in axes], [parts[axis][1] for axis in axes]
    if min(steps) > 0:
        ends = [s + (parts[axis][2] - 1) * step + 1 for axis, s, step in zip(axes, starts, steps, strict=True)]
        return n.do("strided_slice", x, axes, starts, ends, steps)

    def backward(t):
        shape = [parts.get(i, (0, 1, int(extent)))[2] for i, extent in enumerate(t.shape)]

        def element(*index):
            at = [i * parts[axis][1] + parts[axis][0] if axis in parts else i for axis, i in enumerate(index)]
            return t(*at)

        return tvm.te.compute(shape, element, name="slice")

    return n.te(backward, x)


@row("Slice")
def slices(n: Node, x, *_):
    """x[start : end : step] on some axes, bounds clipped to the tensor as ONNX says."""
    rank = len(shape_of(x))
    if n.opset < 10:
        starts, ends = n.attribute("starts"), n.attribute("ends")
        axes, steps = n.attribute("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = ([int(v) for v in n.numbers(i, what)] for i, what in ((1, "starts"), (2, "ends")))
        axes, steps = ([int(v) for v in found] if (found := n.array(i, what)) is not None else default
                       for i, what, default in ((3, "axes", list(range(len(starts)))), (4, "steps", [1] * len(starts))))  # fmt: skip
    parts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = within(axis, rank)
        extent = shape_of(x)[axis]
        low, high = (0, extent) if step > 0 else (-1, extent - 1)  # where an end may lie
        first = min(max(start + extent if start < 0 else start, 0), high)  # NumPy lets a start lie before the axis
        last = min(max(end + extent if end < 0 else end, low), high)
        parts[axis] = (first, step, len(range(first, last, step)))
    return cut(n, x, parts)


@row("Expand")
def expand(n: Node, x, shape):
    """x repeated to a shape."""
    return n.broadcast(x, wanted_shape(n))


@row("Tile")
def tile(n: Node, x, *_):
    """x put beside itself along each axis."""
    counts = n.numbers(1, "repeats")
    return n.do("tile", x, [int(count) for count in counts]) if len(counts) else x


@row("Pad")
def pad(n: Node, x, *_):
    """A tensor with values around it, or less of it where a width is negative."""
    rank, shape = len(shape_of(x)), shape_of(x)
    mode = n.choice("mode", "constant", "reflect", "edge", "wrap")
    if n.opset < 11:
        widths, value = n.attribute("pads"), n.attribute("value", 0.0)
    else:
        widths, value = [int(v) for v in n.numbers(1, "pads")], 0
        if n.given(2):
            fill = n.known(2)
            value = fill.reshape(-1)[0].item() if fill is not None else n.reshape(n.args[2], ())
    axes = [within(int(axis), rank) for axis in n.numbers(3, "axes")] if n.given(3) else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = int(widths[i]), int(widths[len(axes) + i])
    if (
        mode == "constant"
        and isinstance(value, float | int)
        and min(*before, *after, 0) >= 0
        and dtype_of(x) == "float32"
    ):
        if rank == 4 and np.isfinite(value):
            pairs = [width for axis in range(4) for width in (before[axis], after[axis])]
            return n.do("nn.pad", x, pairs, "constant", float(value))
    if min(before) < 0 or min(after) < 0:
        parts = {d: (max(-b, 0), 1, shape[d] - max(-b, 0) - max(-a, 0)) for d, (b, a) in enumerate(zip(before, after))}
        x, before, after = cut(n, x, parts), [max(b, 0) for b in before], [max(a, 0) for a in after]
    return _padded(n, x, before, after, mode, value)


def _padded(n: Node, x, before: list[int], after: list[int], mode: str, value):
    inside, tirx = shape_of(x), tvm.tirx

    def place(i, extent: int, shift: int, more: int):
        at = i - shift
        if not shift and not more:
            return at
        if mode == "wrap":
            return tirx.floormod(at, extent)
        if mode == "reflect" and extent > 1:
            period = 2 * extent - 2
            folded = tirx.floormod(at, period)
            return tirx.min(folded, period - folded)
        return tirx.min(tirx.max(at, 0), extent - 1)

    def compute(t, *fill):
        def element(*index):
            at = tuple(place(i, *rest) for i, *rest in zip(index, inside, before, after, strict=True))
            if mode != "constant":
                return t(*at)
            tests = [test for i, e, b, a in zip(index, inside, before, after, strict=True)
                     for test in ([i >= b] if b else []) + ([i < b + e] if a else [])]  # fmt: skip
            other = fill[0]() if fill else tirx.const(value, t.dtype)
            return tirx.Select(tirx.all(*tests), t(*at), other) if tests else t(*at)

        outer = [e + b + a for e, b, a in zip(inside, before, after, strict=True)]
        return tvm.te.compute(outer, element, name="pad")

    if 0 in inside:
        outer = [e + b + a for e, b, a in zip(inside, before, after, strict=True)]
        return n.const(np.full(outer, value), dtype_of(x))
    return n.te(compute, x, *([] if isinstance(value, float | int) else [value]))


@row("Shape", "Size")
def extents(n: Node, x):
    """The shape, or the number of elements: known here, so a constant."""
    shape = shape_of(x)
    if n.op == "Size":
        return n.const(prod(shape), "int64")
    start, end = n.attribute("start", 0), n.attribute("end")
    return n.const(np.asarray(shape[start:end], np.int64), "int64")


@row("DepthToSpace")
def depth_to_space(n: Node, x):
    """Channels become squares of pixels; mode says whether the square or the channel varies slowest among channels."""
    batch, c, h, w = shape_of(x)
    b, mode = n.attribute("blocksize"), n.choice("mode", "DCR", "CRD")
    c //= b * b
    split, order = ((b, b, c), [0, 3, 4, 1, 5, 2]) if mode == "DCR" else ((c, b, b), [0, 1, 4, 2, 5, 3])
    made = n.do("permute_dims", n.reshape(x, (batch, *split, h, w)), order)
    return n.reshape(made, (batch, c, h * b, w * b))


@row("SpaceToDepth")
def space_to_depth(n: Node, x):
    """Squares of pixels become channels, the square varying slowest."""
    batch, c, h, w = shape_of(x)
    b, mode = n.attribute("blocksize"), n.choice("mode", "DCR", "CRD")
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    made = n.do("permute_dims", n.reshape(x, (batch, c, h // b, b, w // b, b)), order)
    return n.reshape(made, (batch, c * b * b, h // b, w // b))


@row("ConstantOfShape", "Range", "EyeLike", "Constant")
def constants(n: Node, *_):
    """Fills known when compiling; others are refused, as their shapes would be computed."""
    shape = wanted_shape(n)
    kind = held(n.results[0][1]) if n.results[0] is not None else ""
    if n.op == "EyeLike":
        n.attribute("dtype")
        return n.const(np.eye(shape[0], shape[1], k=n.attribute("k", 0)), kind)
    raise Refused("its operands are computed at run time", "make them constants")
