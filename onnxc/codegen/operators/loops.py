"""Functions written as plain loops, for what is no map of indices: scattering, sorting, recurrences.

    loops(n, [x, i], [((4, 5), "float32")], body)   ->   call_tir of a function whose statements `body` writes

`body(T, x, i, y)` gets TVM's script builder and a buffer for each operand and result, and emits statements into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, dtype_of, shape_of

OPAQUE = 8  # what follows is not fused into it


def loops(n: Node, args: Sequence, results: Sequence[tuple[tuple[int, ...], str]], body: Callable, name: str = ""):
    """An expression for each of `results` (shape, dtype); one alone is not a tuple."""
    name = name or n.op.lower()
    T, builder = tvm.script_builder()
    with builder() as made, T.prim_func(s_tir=True):
        T.func_name(name)
        given = [T.arg(f"a{i}", T.buffer(shape_of(arg), dtype_of(arg))) for i, arg in enumerate(args)]
        given += [T.arg(f"r{i}", T.buffer(shape, dtype)) for i, (shape, dtype) in enumerate(results)]
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        with T.sblock("root"):
            T.reads([])
            T.writes([])
            body(T, *given)
    relax = tvm.tvm_modules().relax
    function = n.builder.add_func(made.get(), name)
    types = [relax.TensorType(shape, dtype) for shape, dtype in results]
    call = n.emit(relax.call_tir(function, list(args), types if len(types) > 1 else types[0]))
    return call if len(types) == 1 else tuple(n.emit(relax.TupleGetItem(call, i)) for i in range(len(types)))


@contextmanager
def when(T, condition):
    """Statements that run where the condition holds."""
    with T.If(condition), T.Then():
        yield


def grid(T, shape: Sequence[int]):
    """Loops over all places of a shape; a scalar has one turn."""
    return T.grid(*(shape or (1,)))


def picked(index, shape: Sequence[int]):
    """The variables of `grid` as a tuple for a buffer of that shape."""
    found = (index,) if len(shape) < 2 else tuple(index)
    return found if shape else (0,)
