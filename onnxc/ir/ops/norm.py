"""Rows of normalisations and softmax. A statistic over an axis makes it soft: zeroing is not removing there."""

from __future__ import annotations

from ..axes import extent
from ..table import Use, row
from .elementwise import broadcast_axes


@row("BatchNormalization")
def batch_normalization(use: Use) -> None:
    """n c *s; c; c; c; c -> n c *s"""
    xs = use.rank(0, 2)
    for i in range(1, 5):
        use.bind(i, xs[1])
    if use.attr("training_mode", 0) or len([t for t in use.node.outputs if t.name]) > 1:
        use.fix(*xs, why="it is in training mode")
        for j in range(1, len(use.node.outputs)):
            use.out([xs[1]], j)
    use.out(xs)


@row("InstanceNormalization")
def instance_normalization(use: Use) -> None:
    """n c *s; c; c -> n c *s"""
    xs = use.rank(0, 3)
    use.bind(1, xs[1])
    use.bind(2, xs[1])
    use.fix(*xs[2:], why="spatial")
    use.out(xs)


@row("GroupNormalization")
def group_normalization(use: Use) -> None:
    """n g·c *s; scale and bias of g (opset 18) or g·c (21) -> n g·c *s; whole groups go exactly, c is a statistic."""
    xs = use.rank(0, 3)
    g, size = use.attr("num_groups", 1), extent(xs[1])
    if not isinstance(size, int) or size % g:
        for i in range(3):
            use.fix(*use.ax(i), why="its channels are not known to be a multiple of num_groups")
        use.out(xs)
        return
    groups, c = use.divide(0, 1, g, size // g)
    use.statistic(c)
    use.fix(*xs[2:], why="spatial")
    for i in (1, 2):
        use.bind(i, xs[1] if use.shape(i) == (size,) and use.opset >= 21 else groups)
    use.follow("num_groups", groups)
    use.out(xs)


@row("LayerNormalization", "RMSNormalization")
def layer_normalization(use: Use) -> None:
    """*n *c; *c; *c -> *n *c, with statistics over *c"""
    xs = use.ax(0)
    k = use.axis(-1)
    use.statistic(*xs[k:])
    for i in (1, 2):
        if use.has(i):
            broadcast_axes(use, [(i, use.ax(i))], xs)
    use.out(xs)
    for j in (1, 2):
        if j < len(use.node.outputs):
            use.out([*xs[:k], *(use.fixed(1) for _ in xs[k:])], j)


@row("LRN")
def local_response_normalization(use: Use) -> None:
    xs = use.rank(0, 2)
    use.statistic(xs[1], kind="window")
    use.contract(0, 1)  # a sum of squares over neighbours: a zeroed channel adds nothing, as a removed one
    use.out(xs)


@row("LpNormalization")
def lp_normalization(use: Use) -> None:
    """The norm sums powers, so zeroing equals removing."""
    xs = use.ax(0)
    use.contract(0, use.axis(-1))
    use.out(xs)


@row("MeanVarianceNormalization")
def mean_variance_normalization(use: Use) -> None:
    xs = use.ax(0)
    use.statistic(*(xs[k] for k in use.attr("axes", None) or (0, 2, 3)))
    use.out(xs)


@row("Softmax", "LogSoftmax", "Hardmax")
def softmax(use: Use) -> None:
    """From opset 13 over one axis; before, over all axes from `axis` (default 1) on, flattened."""
    xs = use.ax(0)
    if use.opset >= 13:
        use.fix(xs[use.axis(-1)], why="a sum of exponentials")
    else:
        use.fix(*xs[use.axis(1) if len(xs) > 1 else 0 :], why="a sum of exponentials")
    use.out(xs)
