"""Window arithmetic, and the rows of pooling and resampling operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ..axes import Atom, Axis, Extent, Prod, Sum, extent, same
from ..table import Unreadable, Use, row


def _spatial(use: Use, rank: int, name: str, default: int) -> list[int]:
    values = use.attr(name) or [default] * rank
    if len(values) != rank:
        raise Unreadable(f"{name} has {len(values)} entries for {rank} spatial axes")
    return list(values)


def conv_extents(use: Use, sizes: tuple[Extent, ...], kernel: tuple[Extent, ...], ceil: bool = False) -> list[Extent]:
    """Output extents of a sliding window: floor((x + pads - dilation*(k-1) - 1) / stride) + 1, ONNX operator Conv.

    With auto_pad SAME, ceil(x / stride). With ceil_mode a window that would start in the end padding is dropped.
    """
    rank = len(sizes)
    strides, dilations = _spatial(use, rank, "strides", 1), _spatial(use, rank, "dilations", 1)
    pads = use.attr("pads") or [0] * (2 * rank)
    auto = use.attr("auto_pad", "NOTSET")
    if len(pads) != 2 * rank or min(strides) < 1:
        raise Unreadable("pads or strides do not fit the spatial rank")
    out: list[Extent] = []
    for d, (x, k) in enumerate(zip(sizes, kernel, strict=True)):
        s = strides[d]
        reach = dilations[d] * (k - 1) + 1 if isinstance(k, int) else None
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(-(-x // s) if isinstance(x, int) else x if s == 1 else None)
            continue
        begin, end = (0, 0) if auto == "VALID" else (pads[d], pads[d + rank])
        if reach is None or not isinstance(x, int):
            out.append(x if s == 1 and reach == begin + end + 1 else None)
            continue
        span = x + begin + end - reach
        if span < 0:
            raise Unreadable("the window is larger than its input")
        n = (-(-span // s) if ceil else span // s) + 1
        if ceil and (n - 1) * s >= x + begin:
            n -= 1
        out.append(n)
    return out


def transposed_extents(use: Use, sizes: tuple[Extent, ...], kernel: tuple[Extent, ...]) -> list[Extent]:
    """Output extents of ConvTranspose: stride*(x-1) + output_padding + dilation*(k-1) + 1 - pads, or `output_shape`."""
    rank = len(sizes)
    if use.attr("output_shape"):
        return list(use.attr("output_shape"))[-rank:]
    strides, dilations = _spatial(use, rank, "strides", 1), _spatial(use, rank, "dilations", 1)
    extra = _spatial(use, rank, "output_padding", 0)
    pads = use.attr("pads") or [0] * (2 * rank)
    auto = use.attr("auto_pad", "NOTSET")
    out: list[Extent] = []
    for d, (x, k) in enumerate(zip(sizes, kernel, strict=True)):
        if not isinstance(x, int) or not isinstance(k, int):
            out.append(None)
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(x * strides[d])
        else:
            lost = 0 if auto == "VALID" else pads[d] + pads[d + rank]
            out.append(strides[d] * (x - 1) + extra[d] + dilations[d] * (k - 1) + 1 - lost)
    return out


def explicit_pads(
    node: gs.Node, xs: Sequence[Extent], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int] | None:
    """Pads (begins, then ends) as the attribute or auto_pad gives them; None where auto_pad follows an unknown extent.

    xs: the spatial extents of the input; size: of the kernel.
    """
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list((node.attrs.get("pads") if auto == "NOTSET" else None) or [0] * (2 * len(size)))
    begins, ends = [], []
    for x, k, stride, dilation in zip(xs, size, strides, dilations, strict=True):
        reach = dilation * (k - 1) + 1
        if stride == 1:
            lost = reach - 1
        elif isinstance(x, int):
            lost = max((-(-x // stride) - 1) * stride + reach - x, 0)
        else:
            return None
        half, more = lost // 2, lost - lost // 2
        begins.append(half if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else half)
    return begins + ends


@row("MaxPool", "AveragePool", "LpPool")
def pool(use: Use) -> None:
    """n c *s -> n c *t"""
    xs = use.rank(0, 3)
    kernel = use.attr("kernel_shape")
    if not kernel or len(kernel) != len(xs) - 2:
        raise Unreadable("kernel_shape does not fit the spatial rank")
    use.fix(*xs[2:], why="spatial")
    sizes = conv_extents(use, tuple(map(extent, xs[2:])), tuple(kernel), use.attr("ceil_mode", 0) == 1)
    out = [*xs[:2], *(use.fixed(s, "spatial") for s in sizes)]
    use.out(out)
    if len(use.node.outputs) > 1 and use.node.outputs[1].name:
        use.fix(*xs, why="its indices count all elements of the input")
        use.out(out, 1)


@row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(use: Use) -> None:
    """n c *s -> n c 1 ..."""
    xs = use.rank(0, 2)
    use.fix(*xs[2:], why="spatial")
    use.out([*xs[:2], *(use.fixed(1, "spatial") for _ in xs[2:])])


@row("RoiAlign")
def roi_align(use: Use) -> None:
    """n c h w; r 4; r -> r c y x"""
    xs, rois = use.rank(0, 4), use.rank(1, 2)
    use.fix(xs[0], *xs[2:], *rois)
    use.bind(2, rois[0])
    use.out([rois[0], xs[1], use.fixed(use.attr("output_height", 1)), use.fixed(use.attr("output_width", 1))])


@row("MaxRoiPool")
def max_roi_pool(use: Use) -> None:
    """n c h w; r 5 -> r c y x"""
    xs, rois = use.rank(0, 4), use.rank(1, 2)
    use.fix(xs[0], *xs[2:], *rois)
    use.out([rois[0], xs[1], *map(use.fixed, use.attr("pooled_shape") or ())])


@row("GridSample")
def grid_sample(use: Use) -> None:
    """n c *s; n *t len(s) -> n c *t"""
    xs, grid = use.rank(0, 3), use.rank(1, 3)
    use.tie(grid[0], xs[0], 1, 0)
    use.fix(*xs[2:], *grid[1:], why="spatial")
    use.out([*xs[:2], *grid[1:-1]])


@row("Col2Im")
def col2im(use: Use) -> None:
    """n c·k l -> n c *s, where k counts the positions of a block"""
    xs = use.rank(0, 3)
    image, block = use.ints("image_shape", 1), use.ints("block_shape", 2)
    size = extent(xs[1])
    if image is None or block is None or not isinstance(size, int) or size % math.prod(block):
        raise Unreadable("its shapes are computed at run time")
    c, k = use.divide(0, 1, size // math.prod(block), math.prod(block))
    use.fix(k, xs[2], why="spatial")
    use.out([xs[0], c, *(use.fixed(n, "spatial") for n in image)])


@row("Resize", "Upsample")
def resize(use: Use) -> None:
    """Axes with scale 1 pass through; the others get floor(extent * scale), or the size given."""
    xs = use.ax(0)
    at = [k % len(xs) for k in use.attr("axes", None) or range(len(xs))]
    if use.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Unreadable("it crops by a region of interest")
    if use.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unreadable("it keeps the aspect ratio")
    index = 1 if use.node.op == "Upsample" or use.opset < 11 else 2
    scales = use.attr("scales")
    if scales is None and use.has(index):
        scales = use.value(index)
    out: list[Axis] = list(xs)
    if scales is not None and np.size(scales):
        for k, s in zip(at, np.ravel(scales), strict=True):
            if not isinstance(s, (int, float, np.number)):
                raise Unreadable("its scales are computed at run time")
            if float(s) != 1.0:
                use.fix(xs[k])
                n = extent(xs[k])
                out[k] = use.fixed(math.floor(n * float(np.float32(s))) if isinstance(n, int) else None)
    else:
        sizes = use.value(3)
        if sizes is None:
            raise Unreadable("its sizes are computed at run time")
        template = []
        for k, n in zip(at, sizes.ravel(), strict=True):
            if not (n is None or isinstance(n, (int, np.integer, Atom, Prod, Sum))):
                raise Unreadable("its sizes are no integers")
            if isinstance(n, (int, np.integer)):
                keeps = n == extent(xs[k])
            else:
                keeps = n is not None and same(n, xs[k])
            if not keeps:
                use.fix(xs[k], *([n] if isinstance(n, (Atom, Prod, Sum)) else []))
                out[k] = use.fixed(int(n) if isinstance(n, (int, np.integer)) else extent(n) if n is not None else None)
            elif isinstance(n, (int, np.integer)) and use.array(3) is None:
                use.fix(xs[k], why="its size is computed")
            template.append(xs[k] if keeps else int(n) if isinstance(n, (int, np.integer)) else 0)
        if use.array(3) is not None:
            use.operand(3, template)
    use.out(out)


@row("DepthToSpace")
def depth_to_space(use: Use) -> None:
    """n b·b·c h w -> n c h·b w·b  (CRD: c·b·b)"""
    n, c, h, w = use.rank(0, 4)
    b, size = use.attr("blocksize", 1), extent(c)
    if not isinstance(size, int):
        use.fix(c, h, w, why="its channels are not known")
        sides = [extent(a) * b if isinstance(extent(a), int) else None for a in (h, w)]
        use.out([n, use.fixed(None), *map(use.fixed, sides)])
        return
    if size % (b * b):
        raise Unreadable("its channels are no multiple of the square of blocksize")
    if use.attr("mode", "DCR") == "DCR":
        b1, b2, c = use.divide(0, 1, b, b, size // (b * b))
    else:
        c, b1, b2 = use.divide(0, 1, size // (b * b), b, b)
    use.fix(b1, b2, h, w)
    use.out([n, c, Prod((h, b1)), Prod((w, b2))])


@row("SpaceToDepth")
def space_to_depth(use: Use) -> None:
    """n c h·b w·b -> n b·b·c h w"""
    n, c, h, w = use.rank(0, 4)
    b = use.attr("blocksize", 1)
    use.fix(h, w)
    sides = [extent(a) // b if isinstance(extent(a), int) else None for a in (h, w)]
    use.out([n, Prod((use.fixed(b), use.fixed(b), c)), *map(use.fixed, sides)])
