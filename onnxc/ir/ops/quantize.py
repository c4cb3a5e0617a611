"""Rows of QuantizeLinear and DequantizeLinear: by tensor, by axis, by block."""

from __future__ import annotations

from ..axes import extent
from ..table import Unreadable, Use, row


@row("QuantizeLinear", "DequantizeLinear")
def linear(use: Use) -> None:
    """x; scale; zero point -> x. By axis scale is [c]; by block its axis is the number of blocks."""
    xs = use.ax(0)
    scale = use.ax(1)
    block = use.attr("block_size", 0)
    if block:
        k = use.axis(1)
        n = extent(xs[k])
        if not isinstance(n, int) or n % block or len(scale) != len(xs):
            raise Unreadable("its blocks do not divide the axis")
        blocks, inner = use.divide(0, k, n // block, block)
        use.fix(inner, why="a block of one scale")
        axes = [*xs[:k], blocks, *xs[k + 1 :]]
        for i in (1, 2):
            use.bind(i, *axes)
    elif len(scale) == 1 and (extent(scale[0]) != 1 or (len(xs) == 1 and extent(xs[0]) == 1)):
        k = use.axis(1) if len(xs) > 1 else 0
        for i in (1, 2):
            if use.has(i) and (i == 1 or use.shape(i) != ()):
                use.bind(i, xs[k])
    elif len(scale) > 1:
        raise Unreadable("its scale has a rank that no quantisation has")
    use.out(xs)


@row("DynamicQuantizeLinear")
def dynamic(use: Use) -> None:
    use.fix(*use.ax(0), why="its scale is a statistic of the whole tensor")
    use.out(use.ax(0))
    use.out([], 1)
    use.out([], 2)
