"""Matrix products."""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, picked
from onnxc.codegen.operators.node import Node, dtype_of, shape_of
from onnxc.codegen.operators.table import row


@row("MatMul")
def matmul(n: Node, a, b):
    """The product of the last two axes, the axes before them broadcast."""
    if dtype_of(a) != "float32" or 0 in (*shape_of(a), *shape_of(b)) or not shape_of(a) or not shape_of(b):
        return n.do("matmul", a, b)
    left, right = shape_of(a), shape_of(b)
    a = n.reshape(a, (1, *left)) if len(left) == 1 else a
    b = n.reshape(b, (*right, 1)) if len(right) == 1 else b
    lead = np.broadcast_shapes(shape_of(a)[:-2], shape_of(b)[:-2])
    made = _batched(n, a, b, lead)
    result = (*lead, *left[:-1][-1:], *(right[-1:] if len(right) > 1 else ()))
    return n.reshape(made, result)


def _batched(n: Node, a, b, lead: tuple[int, ...]):
    """The product of matrices that stand in the same places of both tensors, which has a kernel, or of all with one."""
    (*one, rows, k), (*other, _, columns) = shape_of(a), shape_of(b)
    if prod(other) == 1:  # rows of all matrices are rows of one
        if n.known(1) is None:
            a, b = n.reshape(a, (1, prod(one) * rows, k)), n.reshape(b, (1, k, columns))
        return n.do("matmul", a, b)
    return n.do("matmul", n.broadcast(a, (*lead, rows, k)), n.broadcast(b, (*lead, k, columns)))


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


@row("Det")
def determinant(n: Node, x):
    """The determinant of each matrix, by elimination with the largest pivot of a column."""
    shape, kind = shape_of(x), dtype_of(x)
    size, lead = shape[-1], shape[:-2] or (1,)

    def body(T, t, made):
        zero, one = (tvm.tirx.const(v, kind) for v in (0, 1))
        with T.grid(*lead) as index:
            index = picked(index, lead)
            source = index if shape[:-2] else ()
            m = T.alloc_buffer((size, size), kind)
            best = T.alloc_buffer((1,), "int32")
            held = T.alloc_buffer((2,), kind)
            with T.grid(size, size) as (i, j):
                T.buffer_store(m, t[(*source, i, j)], (i, j))
            T.buffer_store(held, one, (0,))
            with T.serial(0, size) as c:
                T.buffer_store(best, tvm.tirx.Cast("int32", c), (0,))
                with (
                    T.serial(0, size) as i,
                    T.If(tvm.tirx.all(i > c, tvm.tirx.abs(m[i, c]) > tvm.tirx.abs(m[best[0], c]))),
                    T.Then(),
                ):
                    T.buffer_store(best, tvm.tirx.Cast("int32", i), (0,))
                with T.If(best[0] != c), T.Then():
                    T.buffer_store(held, zero - held[0], (0,))
                    with T.serial(0, size) as j:
                        T.buffer_store(held, m[c, j], (1,))
                        T.buffer_store(m, m[best[0], j], (c, j))
                        T.buffer_store(m, held[1], (best[0], j))
                T.buffer_store(held, held[0] * m[c, c], (0,))
                with T.serial(0, size) as i, T.If(tvm.tirx.all(i > c, m[c, c] != zero)), T.Then():
                    T.buffer_store(held, m[i, c] / m[c, c], (1,))
                    with T.serial(0, size) as j:
                        T.buffer_store(m, m[i, j] - held[1] * m[c, j], (i, j))
            T.buffer_store(made, held[0], index if shape[:-2] else ())

    return loops(n, [x], [(shape[:-2], kind)], body)
