"""Rows of com.microsoft: what ONNX Runtime's optimiser and quantisers write."""

from __future__ import annotations

from ..axes import Atom, Prod, Sum, extent
from ..table import Unreadable, Use, row
from .elementwise import broadcast_axes
from .linear import convolution, matrix_product


@row("com.microsoft.Gelu", "com.microsoft.QuickGelu")
def activation(use: Use) -> None:
    """Axes pass through."""
    use.out(use.ax(0))


@row("com.microsoft.FastGelu", "com.microsoft.BiasGelu")
def biased(use: Use) -> None:
    """x; bias of its last axis -> x"""
    xs = use.ax(0)
    use.bind(1, xs[-1])
    use.out(xs)


@row("com.microsoft.FusedConv")
def fused_conv(use: Use) -> None:
    """As Conv; what is added has the axes of the result."""
    convolution(use, 0, 1, 2)
    if use.has(3):
        broadcast_axes(use, [(3, use.ax(3))], use.outs[0])


@row("com.microsoft.FusedMatMul")
def fused_matmul(use: Use) -> None:
    """As MatMul, of operands whose last two axes may be swapped."""
    if use.attr("transBatchA", 0) or use.attr("transBatchB", 0):
        raise Unreadable("its batch axes are moved")
    sides = []
    for i, name in ((0, "transA"), (1, "transB")):
        axes = use.rank(i, 2)
        swapped = bool(use.attr(name, 0))
        sides.append(((*axes[:-2], axes[-1], axes[-2]) if swapped else axes, swapped))
    (a, turned), (b, turned_b) = sides
    use.tie(b[-2], a[-1], 1, len(b) - (1 if turned_b else 2))
    batch = broadcast_axes(use, [(0, a[:-2]), (1, b[:-2])])
    use.contract(0, len(a) - (2 if turned else 1))
    use.out([*batch, a[-2], b[-1]])
    use.iterate(*batch, a[-2], b[-1], a[-1])


@row("com.microsoft.MatMulNBits")
def matmul_nbits(use: Use) -> None:
    """... k; the weight packed in blocks; -> ... n: nothing of it can be cut."""
    xs = use.rank(0, 1)
    for i in range(len(use.node.inputs)):
        if use.has(i):
            use.fix(*(use.ax(i)[-1:] if i == 0 else use.ax(i)), why="the weight is stored packed")
    n, k = (use.fixed(use.attr(name), "the weight is stored packed") for name in ("N", "K"))
    use.tie(xs[-1], k, 0, len(xs) - 1)
    use.out([*xs[:-1], n])
    use.iterate(*xs[:-1], n, k)


@row("com.microsoft.DynamicQuantizeMatMul")
def dynamic_matmul(use: Use) -> None:
    """As MatMul; the left side is quantised by a statistic of the whole tensor."""
    use.fix(*use.ax(0), why="its scale is a statistic of the whole tensor")
    matrix_product(use, 0, 1)
    n = use.ax(1)[-1]
    for i in (2, 3, 4):
        if use.has(i) and use.shape(i) not in ((), (1,)):
            use.bind(i, n)


@row("com.microsoft.QGemm")
def qgemm(use: Use) -> None:
    """m k; k n; n -> m n, as Gemm on integers; scales behind each operand."""
    a, b = use.rank(0, 2), use.rank(3, 2)
    m, k = a[::-1] if use.attr("transA", 0) else a
    rows, n = b[::-1] if use.attr("transB", 0) else b
    use.tie(rows, k, 3, 1 if use.attr("transB", 0) else 0)
    for i in (4, 5):
        if use.has(i) and use.shape(i) not in ((), (1,)):
            use.bind(i, n)
    if use.has(6):
        broadcast_axes(use, [(6, use.ax(6))], [m, n])
    use.contract(0, 0 if use.attr("transA", 0) else 1, zero_point=2)
    use.out([m, n])
    use.iterate(m, n, k)


@row("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def quantised_arithmetic(use: Use) -> None:
    """Broadcasting of inputs 0 and 3; scales and zero points are scalars."""
    use.out(broadcast_axes(use, [(0, use.ax(0)), (3, use.ax(3))]))


@row("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def quantised_activation(use: Use) -> None:
    """Axes pass through; scales and zero points are scalars."""
    use.out(use.ax(0))


@row("com.microsoft.QLinearSoftmax")
def quantised_softmax(use: Use) -> None:
    """Axes pass through; all from `axis` on stay."""
    xs = use.ax(0)
    use.fix(*xs[use.axis(-1) :], why="a sum of exponentials")
    use.out(xs)


@row("com.microsoft.QLinearGlobalAveragePool")
def quantised_global_pool(use: Use) -> None:
    """n c *s -> n c *1, or channels last."""
    xs = use.rank(0, 3)
    last = bool(use.attr("channels_last", 0))
    spatial = xs[1:-1] if last else xs[2:]
    use.fix(*spatial, why="spatial")
    ones = [use.fixed(1) for _ in spatial]
    use.out([xs[0], *ones, xs[-1]] if last else [xs[0], xs[1], *ones])


@row("com.microsoft.QLinearConcat")
def quantised_concat(use: Use) -> None:
    """Inputs 2, 5, 8, ... joined along `axis`; each has its scale and zero point behind it."""
    places = range(2, len(use.node.inputs), 3)
    parts = [use.ax(i) for i in places]
    k = use.axis(0, rank=len(parts[0]))
    for i, axes in zip(places, parts, strict=True):
        for d, (a, b) in enumerate(zip(axes, parts[0], strict=True)):
            if d != k:
                use.tie(a, b, i, d)
    out = list(parts[0])
    out[k] = Sum([axes[k] for axes in parts])
    use.out(out)


@row("com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization")
def skip_layer_normalization(use: Use) -> None:
    """x; what is added, broadcast; scale, shift and bias of the last axis -> x, -, -, their sum"""
    xs = use.ax(0)
    use.statistic(xs[-1])
    out = broadcast_axes(use, [(1, use.ax(1))], xs)
    for i in range(2, len(use.node.inputs)):
        use.bind(i, xs[-1])
    use.out(out)
    for j in range(1, len(use.node.outputs)):
        if use.node.outputs[j].name and j < 3:
            raise Unreadable("its mean is an output")
        use.out(out, j)


@row("com.microsoft.Attention")
def attention(use: Use) -> None:
    """b s c; c 3·h·w; 3·h·w -> b s h·w: one weight for queries, keys and values; heads and their width stay."""
    if any(use.has(i) for i in (4, 6)) or use.attr("qkv_hidden_sizes") or any(t.name for t in use.node.outputs[1:]):
        raise Unreadable("it has a cache or widths of its own")
    (b, s, c), width = use.rank(0, 3), extent(use.ax(1)[1])
    if not isinstance(width, int) or width % 3:
        raise Unreadable("the width of its weight is not known")
    use.fix(s, *use.ax(1)[1:], why="a sum of exponentials; its heads stand side by side")
    use.tie(use.ax(1)[0], c, 1, 0)
    use.bind(2, use.ax(1)[1])
    for i in (3, 5):
        if use.has(i):
            use.fix(*use.ax(i), b, why="its mask")
    hidden = use.fixed(width // 3)
    use.contract(0, 2)
    use.out([b, s, hidden])
    # projections of width 3h over c, then scores and sums of width h each over s
    use.iterate(b, s, hidden, Sum((Prod((Atom(3, "queries, keys and values"), c)), s, s)))
