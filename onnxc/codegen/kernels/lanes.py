"""Whether the turns of a loop can be the lanes of a vector, or have to be unrolled.

   y[i] = x[i - 3] if 3 <= i < 8 else 0          (Pad: lanes 0 to 2 would read ahead of x)
-> y[0] = 0; y[1] = 0; y[2] = 0; y[3] = x[0]; ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Interval = tuple[int, int]


def lanes_agree(block: Any, var: Any) -> bool:
    """Whether the turns of `var` in `block` (an SBlock of s_tir) can be lanes: no branch folds by them, none reads beyond."""
    from tvm import tirx

    extents = {one.var: (int(one.dom.min), int(one.dom.min) + int(one.dom.extent) - 1) for one in block.iter_vars}
    return not any(
        _folds(value, var) or any(_reads_beyond(e, var, extents) for e in _parts(value) if isinstance(e, tirx.Select))
        for value in _values(block.body)
    )


def _values(stmt) -> Iterator:
    """What a statement stores or binds: several values where a reduction finds several."""
    for part in getattr(stmt, "seq", ()):
        yield from _values(part)
    if hasattr(stmt, "value"):
        yield stmt.value
    if hasattr(stmt, "body"):
        yield from _values(stmt.body)


def _parts(expr, loads: bool = True) -> Iterator:
    """An expression and all that it is made of; without `loads`, not what indices are made of."""
    from tvm import tirx

    if isinstance(expr, str):
        return  # the name of a function that a call goes to
    yield expr
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return  # their values are Python's
    for name in ("a", "b", "value", "condition", "true_value", "false_value"):
        if hasattr(expr, name):
            yield from _parts(getattr(expr, name), loads)
    for name in ("args", "indices") if loads else ("args",):
        for part in getattr(expr, name, ()):
            yield from _parts(part, loads)


def _folds(value, var) -> bool:
    """Whether a branch (not a Select) depends on `var` by a quotient or a remainder, as of a Concat read through a Reshape.

    TVM leaves such loops to LLVM, whose loop vectoriser (22) has made wrong numbers of them for AVX-512. Unrolled, the
    remainders of what is known fold to constants, and most branches with them.
    """
    from tvm import tirx

    def folded(expr) -> bool:
        kinds = (tirx.FloorMod, tirx.FloorDiv, tirx.Mod, tirx.Div)
        return any(isinstance(e, kinds) and any(x.same_as(var) for x in _parts(e)) for e in _parts(expr))

    ops = [(getattr(getattr(e, "op", None), "name", ""), e) for e in _parts(value)]
    return any(name == "prim.if_then_else" and folded(call.args[0]) for name, call in ops)


def _reads_beyond(select, var, extents: dict[Any, Interval]) -> bool:
    """Whether `select` reads elements that may not be there in lanes where its condition does not hold.

    A Select computes both of its values. TVM takes the condition for granted where it simplifies them, so that indices which
    were clamped are so no more; where all lanes share a condition it makes a branch of the Select, for single lanes it does not.
    """
    condition = select.condition
    if not any(e.same_as(var) for e in _parts(condition)):
        return False
    about_indices = any(e.same_as(one) for e in _parts(condition, loads=False) for one in extents)
    for load in (
        e for value in (select.true_value, select.false_value) for e in _parts(value) if hasattr(e, "indices")
    ):
        computed = any(hasattr(e, "indices") for index in load.indices for e in _parts(index))
        if (about_indices or computed) and not all(
            _within(index, extent, extents) for index, extent in zip(load.indices, load.source.ty.shape, strict=True)
        ):
            return True
    return False


def _within(index, extent, extents: dict[Any, Interval]) -> bool:
    """Whether an index is a sum of products of loops by numbers that stays below `extent`: no condition makes more of it."""
    from tvm import tirx

    if not isinstance(extent, tirx.IntImm):
        return False
    bounds = _bounds(index, extents)
    return bounds is not None and bounds[0] >= 0 and bounds[1] < int(extent)


def _bounds(expr, extents: dict[Any, Interval]) -> Interval | None:
    from tvm import tirx

    if isinstance(expr, tirx.IntImm):
        return int(expr), int(expr)
    if isinstance(expr, tirx.Cast):
        return _bounds(expr.value, extents)
    if isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul):
        a, b = _bounds(expr.a, extents), _bounds(expr.b, extents)
        if a is None or b is None:
            return None
        if isinstance(expr, tirx.Add):
            return a[0] + b[0], a[1] + b[1]
        if isinstance(expr, tirx.Sub):
            return a[0] - b[1], a[1] - b[0]
        ends = [p * q for p in a for q in b]
        return min(ends), max(ends)
    return next((bounds for var, bounds in extents.items() if var.same_as(expr)), None)
