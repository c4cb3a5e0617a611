"""The extents of a convolution or matrix product, by which the time of a kernel is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from .analysis import Analysis
from .cost import node_macs, number

ROWS = 64
"""Channels, in and out, of a product whose own are not known."""


@dataclass(frozen=True)
class Product:
    """A convolution of `images` x `c` channels to `oc` on a grid of `out` (rows, columns). kernel, stride and dilation: of rows and
    columns; groups: c and oc count those of all. A matrix product (m, c) x (c, oc) has one row of m columns."""

    images: int
    out: tuple[int, int]
    c: int
    oc: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


Predict = Callable[[Product], float]
"""Predicted time of a product, in a unit that is the same for all."""


def matrix(rows: int, c: int, oc: int, groups: int = 1) -> Product:
    """(rows, c) x (c, oc), `groups` of them side by side, c and oc those of one."""
    return Product(1, (1, rows), c * groups, oc * groups, groups=groups)


def is_planar(node: gs.Node) -> bool:
    """Whether `Product` can say where the kernel of a node goes: a convolution over two axes."""
    return node.op == "Conv" and isinstance(node.inputs[1], gs.Constant) and node.inputs[1].values.ndim == 4


def pair(node: gs.Node, key: str) -> tuple[int, int]:
    """An attribute with a number for rows and one for columns, 1 where it is not given."""
    first, second = node.attrs.get(key, (1, 1))
    return int(first), int(second)


def extents(analysis: Analysis, tensor: str) -> list[int]:
    """The extents of a tensor as numbers."""
    return [number(a, analysis.sizes) for a in analysis.known(tensor)]


def product_of(analysis: Analysis, node: gs.Node) -> Product | None:
    """What a node multiplies; None where that is nothing.

    Of operators other than Conv over two axes and products by a constant matrix the MACs alone are known.
    """
    macs = node_macs(analysis, node)
    if not macs:
        return None
    weight = node.inputs[1].values if len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant) else None
    if weight is not None and is_planar(node):
        groups = node.attrs.get("group", 1)
        c, oc = weight.shape[1] * groups, weight.shape[0]
        n, _, *grid = extents(analysis, node.outputs[0].name)
        kernel = (weight.shape[2], weight.shape[3])
        return Product(n, (grid[0], grid[1]), c, oc, kernel, pair(node, "strides"), pair(node, "dilations"), groups)
    if weight is not None and weight.ndim == 2 and node.op in ("Gemm", "MatMul"):
        turned = bool(node.attrs.get("transB", 0))
        return matrix(macs // prod(weight.shape), weight.shape[turned], weight.shape[1 - turned])
    return matrix(-(-macs // ROWS**2), ROWS, ROWS)
