"""Rows of the functions of domain ai.onnxc: packed weights stay as they are stored, quantised activations are elementwise."""

from __future__ import annotations

from ..table import Unreadable, Use, row
from .elementwise import broadcast_axes

STORED = "the weight is stored packed"


@row("ai.onnxc.UnpackBits", "ai.onnxc.Lookup", "ai.onnxc.ProductLookup", "ai.onnxc.HashedLookup")
def packed(use: Use) -> None:
    """packed; codebook; shape -> *shape, frozen: one bit stream holds all axes, so none can be cut."""
    last = len(use.node.inputs) - 1
    shape = use.ints("shape", last)
    for i in range(last):
        use.fix(*use.ax(i), why=STORED)
    if shape is None:
        raise Unreadable("its shape is no constant")
    use.operand(last, list(shape))
    use.out([use.fixed(n, STORED) for n in shape])


@row("ai.onnxc.Binarize")
def binarize(use: Use) -> None:
    """Axes pass through: each number by itself."""
    use.out(use.ax(0))


@row("ai.onnxc.Quantize")
def quantize(use: Use) -> None:
    """x; scale, broadcast; low; high, scalars -> x"""
    use.out(broadcast_axes(use, [(1, use.ax(1))], use.ax(0)))
    for i in (2, 3):
        use.bind(i)


@row("ai.onnxc.ResidualBinarize")
def residual_binarize(use: Use) -> None:
    """x; scales [order] -> x: each number by itself, for all orders."""
    order = use.rank(1, 1)
    use.fix(*order, why="the order of the planes")
    use.out(use.ax(0))


@row("ai.onnxc.DynamicResidualBinarize")
def dynamic_residual_binarize(use: Use) -> None:
    """The same, with a mean over all axes but the first."""
    residual_binarize(use)
    use.statistic(*use.rank(0, 1)[1:])
