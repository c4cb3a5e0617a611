"""Rows of the operators that contract: convolutions, Gemm, MatMul, Einsum, and their quantised forms."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from ..axes import Aligned, Atom, Axis, Prod, Sum, extent
from ..errors import DimensionError
from ..masks import Count
from ..table import Unreadable, Use, row
from .elementwise import broadcast_axes
from .window import conv_extents, transposed_extents


def convolution(use: Use, x: int, w: int, bias: int | None = None, zero_point: int | None = None) -> None:
    """n g·c *s; g·o c *k; g·o -> n g·o *t, contracting c and *k."""
    xs, ws = use.rank(x, 3), use.rank(w, 3)
    g = use.attr("group", 1)
    if len(xs) != len(ws):
        raise DimensionError(
            f"{use.node.op} does not fit",
            node=use.node.name,
            tensor=use.node.inputs[w].name,
            expected=f"rank {len(xs)}",
            found=f"rank {len(ws)}",
        )
    kernel = tuple(extent(a) for a in ws[2:])
    if g == 1:
        use.tie(ws[1], xs[1], w, 1)
    else:
        outs, ins = extent(ws[0]), extent(ws[1])
        if not isinstance(outs, int) or not isinstance(ins, int):
            raise Unreadable("the extents of its weight are not known")
        if outs % g:
            raise DimensionError(
                "the groups do not divide the output channels",
                node=use.node.name,
                tensor=use.node.inputs[w].name,
                axis=0,
                expected=f"a multiple of {g}",
                found=outs,
            )
        if ins == 1:  # depthwise: a group is a channel
            groups, _ = use.divide(x, 1, g, 1)
            use.tie(ws[0], Prod((groups, Atom(outs // g))), w, 0)
            use.follow("group", groups)
        else:
            makes = _groups(use, w, 0, g, outs // g)
            takes = _groups(use, x, 1, g, ins)
            _align(use, w, takes)
            use.follow("group", Count(makes))
    if bias is not None:
        use.bind(bias, ws[0])
    use.fix(*xs[2:], *ws[2:], why="spatial")
    sizes = conv_extents(use, tuple(extent(a) for a in xs[2:]), kernel)
    spatial = [use.fixed(s, "spatial") for s in sizes]
    use.contract(x, 1, zero_point)
    use.out([xs[0], ws[0], *spatial])
    use.iterate(xs[0], ws[0], *spatial, ws[1], *ws[2:])


def _groups(use: Use, i: int, d: int, g: int, size: int) -> tuple[Axis, ...]:
    """Axis `d` of input `i` as `g` ranges of `size` that may keep different, but equally many, indices."""
    parts = tuple(Atom(size) for _ in range(g))
    use.tie(use.ax(i)[d], Sum(parts), i, d)
    use.balance(parts)
    return parts


def _align(use: Use, w: int, parts: tuple[Axis, ...]) -> None:
    """The second axis of a grouped weight holds, block by block, the indices of `parts`."""
    if not _stored(use.node.inputs[w]):
        for p in parts[1:]:
            use.tie(p, parts[0], w, 1)  # computed on the way: only one mask for all blocks reaches it
        use.tie(use.ax(w)[1], parts[0], w, 1)
    else:
        use.tie(use.ax(w)[1], Aligned(parts), w, 1)


def _stored(t) -> bool:
    if isinstance(t, gs.Constant):
        return True
    return bool(t.inputs) and t.inputs[0].op == "DequantizeLinear" and isinstance(t.inputs[0].inputs[0], gs.Constant)


@row("Conv")
def conv(use: Use) -> None:
    convolution(use, 0, 1, 2)


@row("DeformConv")
def deform_conv(use: Use) -> None:
    """As Conv; the axes of offsets and mask stay, and with several offset groups so do the input channels."""
    convolution(use, 0, 1, 3)
    if use.attr("offset_group", 1) != 1:
        use.fix(use.ax(0)[1], why="its channels are grouped by offset")
    use.tie(use.ax(2)[0], use.ax(0)[0], 2, 0)
    use.fix(*use.ax(2)[1:])
    if use.has(4):
        use.tie(use.ax(4)[0], use.ax(0)[0], 4, 0)
        use.fix(*use.ax(4)[1:])


@row("ConvInteger")
def conv_integer(use: Use) -> None:
    convolution(use, 0, 1, zero_point=2)
    _zero_point(use, 3, 0)


@row("QLinearConv")
def qlinear_conv(use: Use) -> None:
    convolution(use, 0, 3, 8, zero_point=2)
    channels = use.ax(3)[0]
    for i in (4, 5):
        if use.has(i) and use.shape(i) not in ((), (1,)):
            use.bind(i, channels)


@row("ConvTranspose")
def conv_transpose(use: Use) -> None:
    """n g·c *s; g·c o *k; g·o -> n g·o *t, contracting c and *k."""
    xs, ws = use.rank(0, 3), use.rank(1, 3)
    g = use.attr("group", 1)
    use.tie(ws[0], xs[1], 1, 0)
    channels: Axis = ws[1]
    if g != 1:
        ins = extent(ws[0])
        if not isinstance(ins, int) or not isinstance(extent(ws[1]), int):
            raise Unreadable("the extents of its weight are not known")
        if ins % g:
            raise DimensionError(
                "the groups do not divide the input channels",
                node=use.node.name,
                tensor=use.node.inputs[1].name,
                axis=0,
                expected=f"a multiple of {g}",
                found=ins,
            )
        if ins == g:  # depthwise: a group is a channel
            groups, _ = use.divide(1, 0, g, 1)
            channels = Prod((groups, ws[1]))
            use.follow("group", groups)
        else:
            takes = _groups(use, 1, 0, g, ins // g)
            outs = extent(ws[1])
            makes = tuple(Atom(outs) for _ in range(g))
            use.balance(makes)
            _align(use, 1, makes)
            channels = Sum(makes)
            use.follow("group", Count(takes))
    use.bind(2, channels)
    use.fix(*xs[2:], *ws[2:], why="spatial")
    sizes = transposed_extents(use, tuple(extent(a) for a in xs[2:]), tuple(extent(a) for a in ws[2:]))
    spatial = [use.fixed(s, "spatial") for s in sizes]
    use.contract(0, 1)
    use.out([xs[0], channels, *spatial])
    use.iterate(xs[0], xs[1], *xs[2:], ws[1], *ws[2:])


@row("Gemm")
def gemm(use: Use) -> None:
    """m k; k n; broadcast to m n -> m n, contracting k; transA and transB swap."""
    a, b = use.rank(0, 2), use.rank(1, 2)
    m, k = a[::-1] if use.attr("transA", 0) else a
    rows, n = b[::-1] if use.attr("transB", 0) else b
    use.tie(rows, k, 1, 1 if use.attr("transB", 0) else 0)
    if use.has(2):
        broadcast_axes(use, [(2, use.ax(2))], [m, n])
    use.contract(0, 0 if use.attr("transA", 0) else 1)
    use.out([m, n])
    use.iterate(m, n, k)


def matrix_product(use: Use, i: int, j: int, zero_point: int | None = None) -> None:
    """... m k; ... k n -> ... m n, contracting k; a vector has no m (or n)."""
    a, b = use.rank(i, 1), use.rank(j, 1)
    k = a[-1]
    use.tie(b[-2] if len(b) > 1 else b[-1], k, j, max(len(b) - 2, 0))
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    batch = broadcast_axes(use, [(i, a[:-2]), (j, b[:-2])])
    use.contract(i, len(a) - 1, zero_point)
    use.out([*batch, *rows, *columns])
    use.iterate(*batch, *rows, *columns, k)


@row("MatMul")
def matmul(use: Use) -> None:
    matrix_product(use, 0, 1)


@row("MatMulInteger")
def matmul_integer(use: Use) -> None:
    matrix_product(use, 0, 1, zero_point=2)
    if use.has(2) and use.shape(2) not in ((), (1,)):
        raise Unreadable("the left side has a zero point by row")
    _zero_point(use, 3, -1)


@row("QLinearMatMul")
def qlinear_matmul(use: Use) -> None:
    matrix_product(use, 0, 3, zero_point=2)
    for i in (1, 2):
        if use.has(i) and use.shape(i) not in ((), (1,)):
            raise Unreadable("the left side is quantised by row")
    for i in (4, 5):
        if use.has(i) and use.shape(i) not in ((), (1,)):
            if len(use.ax(i)) != 1:
                raise Unreadable("the right side is quantised by matrix")
            use.bind(i, use.ax(3)[-1])


def _zero_point(use: Use, i: int, axis: int) -> None:
    if use.has(i) and use.shape(i) not in ((), (1,)):
        if len(use.ax(i)) != 1:
            raise Unreadable("zero points are given by matrix")
        use.bind(i, use.ax(1)[axis])


@row("Einsum")
def einsum(use: Use) -> None:
    """Contractions without ellipsis and without an index repeated in one term."""
    equation = str(use.attr("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(t)) != len(t) for t in terms) or len(terms) != len(use.node.inputs):
        raise Unreadable(f"equation {equation} is no plain contraction")
    if not arrow:
        letters = sorted(set(left) - {","})
        right = "".join(c for c in letters if left.count(c) == 1)
    axes: dict[str, Axis] = {}
    for i, term in enumerate(terms):
        if len(term) != len(use.ax(i)):
            raise DimensionError(
                "Einsum does not fit",
                node=use.node.name,
                tensor=use.node.inputs[i].name,
                expected=f"rank {len(term)}",
                found=f"rank {len(use.ax(i))}",
            )
        for d, letter in enumerate(term):
            if letter not in axes:
                axes[letter] = use.ax(i)[d]
            else:
                use.tie(use.ax(i)[d], axes[letter], i, d)
    for letter in dict.fromkeys("".join(terms)):
        if letter not in right:
            i = next(i for i, t in enumerate(terms) if letter in t)
            use.contract(i, terms[i].index(letter))
    use.out([axes[c] for c in right])
    use.iterate(*axes.values())
