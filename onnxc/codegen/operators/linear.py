"""Matrix products."""

from __future__ import annotations

from onnxc.codegen.operators.node import Node
from onnxc.codegen.operators.table import row


@row("MatMul")
def matmul(n: Node, a, b):
    """The product of the last two axes, the axes before them broadcast."""
    return n.do("matmul", a, b)


@row("Gemm")
def gemm(n: Node, a, b, c=None):
    """alpha a' b' + beta c, where a' and b' may be transposed."""
    alpha, beta = n.attribute("alpha", 1.0), n.attribute("beta", 1.0)
    if alpha != 1:
        a = n.do("multiply", a, n.like(alpha, a))
    if n.attribute("transA", 0):
        a = n.do("permute_dims", a, [1, 0])
    if n.attribute("transB", 0):
        b = n.do("permute_dims", b, [1, 0])
    made = n.do("matmul", a, b)
    if c is None:
        return made
    return n.do("add", made, n.do("multiply", c, n.like(beta, c)) if beta != 1 else c)
