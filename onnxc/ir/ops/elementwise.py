"""Rows of elementwise operators, with NumPy broadcasting, and of operators that pass their axes through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import Atom, Axis, Prod, Sum, extent, freeze, same
from ..errors import DimensionError
from ..table import Use, row


def broadcast_axes(use: Use, operands: Sequence[tuple[int, Sequence[Axis]]], base: Sequence[Axis] = ()) -> list[Axis]:
    """The axes of the broadcast result; axes of extent 1 stay untied. `base` takes part and cannot be stretched.

    Each operand is (input index, its leading-aligned axes); alignment is at the right.
    """
    rank = max([len(base), *(len(a) for _, a in operands)])
    out: list[Axis] = []
    for p in range(rank):
        here: list[tuple[int | None, int, Axis]]
        here = [(None, 0, base[p - rank + len(base)])] if p >= rank - len(base) and base else []
        for i, axes in operands:
            d = p - rank + len(axes)
            if d >= 0:
                here.append((i, d, axes[d]))
        out.append(_broadcast_one(use, here))
    return out


def _broadcast_one(use: Use, here: list[tuple[int | None, int, Axis]]) -> Axis:
    wide = [(i, d, a) for i, d, a in here if extent(a) != 1]
    if not wide:
        return here[0][2]
    numbers = [(i, d, a) for i, d, a in wide if isinstance(extent(a), int)]
    if numbers:
        first = numbers[0][2]
        for i, d, a in numbers[1:]:
            use.tie(a, first, i, d)
        if len(numbers) < len(wide):
            use.fix(first, why="broadcast with an unknown extent")  # which may be 1, or the same
        return first
    first = wide[0][2]
    if all(same(a, first) or (extent(a) is not None and extent(a) == extent(first)) for _, _, a in wide):
        for i, d, a in wide[1:]:
            if i is not None:
                use.tie(a, first, i, d)
        return first
    return Atom(None, f"{use.node.op} {use.node.name}: a broadcast of unknown extents")


@row(
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mean", "Sum", "Where", "PRelu",
)  # fmt: skip
def broadcast(use: Use) -> None:
    """Every output axis is the axis of each input whose extent there is not 1."""
    operands = [(i, use.ax(i)) for i in range(len(use.node.inputs)) if use.has(i)]
    use.out(broadcast_axes(use, operands))
    if use.node.op in ARITHMETIC and len(operands) == 2:
        _arithmetic(use)
    elif use.node.op == "Where":
        _choose(use)


ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Equal"}


def _arithmetic(use: Use) -> None:
    """Follow shape arithmetic: numbers stay numbers; a symbolic extent times or plus something is a product or sum."""
    peek = [use.analysis.values.get(t.name) if not hasattr(t, "values") else t.values for t in use.node.inputs]
    if any(v is None or v.size > 64 or v.dtype.kind not in "iO" for v in peek):
        return
    a, b = np.broadcast_arrays(*(np.asarray(use.value(i), object) for i in (0, 1)))
    out = np.empty(a.shape, object)
    for at in np.ndindex(a.shape):
        out[at] = _combine(use, a[at], b[at])
    use.result(out)


def _combine(use: Use, x, y):
    op = use.node.op
    for v in (x, y):
        if isinstance(v, (Atom, Prod, Sum)):
            freeze(v, f"its extent is used as data by {op} {use.node.name}")
    m, n = (extent(v) if isinstance(v, (Atom, Prod, Sum)) else v for v in (x, y))
    if isinstance(m, (int, np.integer)) and isinstance(n, (int, np.integer)):
        m, n = int(m), int(n)
        if op == "Equal":
            return int(m == n)
        if op == "Div":
            return None if n == 0 else int(abs(m) // abs(n)) * (1 if (m < 0) == (n < 0) else -1)
        return m + n if op == "Add" else m - n if op == "Sub" else m * n
    if x is None or y is None or op not in ("Mul", "Add"):
        if op == "Equal" and -1 in (m, n) and x is not None and y is not None:
            return 0  # no extent is -1: the test that exporters put ahead of Expand
        if (op in ("Mul", "Div") and n == 1) or (op in ("Add", "Sub") and n == 0):
            return x
        return None
    if op == "Mul" and 1 in (m, n):
        return y if m == 1 else x
    if any(isinstance(v, (int, np.integer)) and v < 0 for v in (x, y)):
        return None
    parts = [v if isinstance(v, (Atom, Prod, Sum)) else Atom(int(v), "a number in shape arithmetic") for v in (x, y)]
    return (Prod if op == "Mul" else Sum)(parts)


def _choose(use: Use) -> None:
    peek = [use.analysis.values.get(t.name) if not hasattr(t, "values") else t.values for t in use.node.inputs]
    if any(v is None or v.size > 64 or v.dtype.kind not in "iObu" for v in peek):
        return
    cond, a, b = np.broadcast_arrays(*(np.asarray(use.value(i), object) for i in range(3)))
    out = np.empty(cond.shape, object)
    for at in np.ndindex(cond.shape):
        out[at] = None if cond[at] is None else a[at] if cond[at] else b[at]
    use.result(out)


@row(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Cast", "CastLike", "Clip",
    "Dropout", "Bernoulli",
)  # fmt: skip
def unary(use: Use) -> None:
    """Axes pass through; further inputs (bounds, ratio) are scalars."""
    xs = use.ax(0)
    for i in range(1, len(use.node.inputs)):
        if use.has(i):
            for d, n in enumerate(use.shape(i)):
                if n != 1 and isinstance(n, int) and use.node.op != "CastLike":
                    raise DimensionError(
                        f"{use.node.op} takes a scalar",
                        node=use.node.name,
                        tensor=use.node.inputs[i].name,
                        axis=d,
                        expected=1,
                        found=n,
                    )
    use.out(xs)
    if len(use.node.outputs) > 1:
        use.out(xs, 1)
    name = use.node.inputs[0].name
    if use.node.op == "Identity" or (use.node.op == "Cast" and use.attr("to") in (6, 7)):
        known = use.array(0)
        if name in use.analysis.values or (known is not None and known.dtype.kind == "i" and known.size <= 64):
            use.result(use.value(0))


@row("CumSum", "CumProd")
def accumulate(use: Use) -> None:
    """Axes pass through; what is accumulated must keep its extent."""
    xs = use.ax(0)
    k = use.ints("axis", 1)
    use.fix(*([xs[k[0]]] if k else xs))
    use.out(xs)


@row("Trilu")
def triangle(use: Use) -> None:
    """Axes pass through; the last two are positions."""
    xs = use.rank(0, 2)
    use.fix(*xs[-2:])
    use.out(xs)


@row("ReverseSequence")
def reverse_sequence(use: Use) -> None:
    """Axes pass through; along time indices are positions, and the batch axis has the length of each sequence."""
    xs = use.rank(0, 2)
    use.fix(xs[use.attr("time_axis", 0)])
    use.bind(1, xs[use.attr("batch_axis", 1)])
    use.out(xs)
