"""Matrix products."""

from __future__ import annotations

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, picked
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
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


@row("Einsum")
def einsum(n: Node, *xs):
    """Products summed over the labels that the result has not; "..." stands for axes that broadcast."""
    text = n.attribute("equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise Refused(f"attribute equation = {text} is for {len(terms)} tensors")
    ranks = [len(shape_of(x)) - len(term.replace("...", "")) if "..." in term else 0 for term, x in zip(terms, xs)]
    most = max(ranks)
    free = [chr(ord("À") + i) for i in range(most)]  # labels of the axes behind "..."
    terms = [term.replace("...", "".join(free[most - rank :])) for term, rank in zip(terms, ranks)]
    if arrow:
        result = right.replace("...", "".join(free))
    else:
        every = "".join(terms)
        result = "".join(free) + "".join(sorted(c for c in set(every) if every.count(c) == 1 and c not in free))
    extents: dict[str, int] = {}
    for term, x in zip(terms, xs):
        for label, extent in zip(term, shape_of(x), strict=True):
            extents[label] = max(extents.get(label, 1), extent) if extent else 0
    gone = [label for label in dict.fromkeys("".join(terms)) if label not in result]
    shape = [extents[label] for label in result]
    if 0 in extents.values():
        return n.const(np.zeros(shape), dtype_of(xs[0]))

    def compute(*tensors):
        runs = {label: tvm.te.reduce_axis((0, extents[label])) for label in gone}

        def element(*index):
            at = dict(zip(result, index, strict=True)) | runs
            value = None
            for term, tensor, x in zip(terms, tensors, xs, strict=True):
                own = [0 if extent == 1 else at[label] for label, extent in zip(term, shape_of(x), strict=True)]
                part = tensor(*own)
                value = part if value is None else value * part
            return tvm.te.sum(value, axis=list(runs.values())) if runs else value

        return tvm.te.compute(shape, element, name="einsum")

    return n.te(compute, *xs)


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
