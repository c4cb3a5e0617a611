"""Shapes that are computed from lengths that data decide: Expand, Tile, ConstantOfShape, Reshape, Flatten.

What counts stays where it is as long as axes come and go with an extent of 1, or only the first one is of a length that data decide;
else it is brought side by side first (`Sized.packed`).
"""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen.prepare.extents import Extent, Result, Sized, rule
from onnxc.codegen.prepare.numbers import Num


def _moving(n: Sized, wanted: tuple[Num, ...] | None) -> bool:
    """Whether the node has to do with lengths that data decide."""
    return n.node.input[0] in n.walk.actual or (wanted is not None and any(v.symbol for v in wanted))


@rule("Expand")
def _expand(n: Sized) -> Result:
    x, wanted = n.needs(0), n.nums(n.input(1))
    if n.walk.shape(x) is None or wanted is None or not _moving(n, wanted):
        return None
    new = max(len(wanted) - len(n.shape(x)), 0)
    shape: list[int] = [1] * new + list(n.shape(x))
    extents: list[Extent | None] = [*([None] * new), *n.extents(x)]
    wanted = (Num("", 1),) * (len(shape) - len(wanted)) + wanted
    for axis, (target, bound, extent) in enumerate(zip(wanted, shape, extents)):
        if extent is not None:
            if target not in (Num("", 1), extent.num):
                raise n.refusal("an axis whose length data decide would have to be as long as another", tensor=x)
        elif not target.symbol:
            shape[axis] = max(target.offset, bound) if bound != 0 else 0
        elif bound == 1:
            shape[axis] = n.bound(target)
            extents[axis] = n.extent(target, shape[axis])
        else:
            raise n.refusal("an axis would have to be as long as a number that is computed", tensor=x)
    return [n.mark(n("Expand", x, n.constant(shape, np.int64)), extents)]


@rule("Tile")
def _tile(n: Sized) -> Result:
    x, wanted = n.needs(0), n.nums(n.input(1))
    if n.walk.shape(x) is None or wanted is None or len(wanted) != len(n.shape(x)) or not _moving(n, wanted):
        return None
    shape, extents, still = list(n.shape(x)), list(n.extents(x)), []
    for axis, times in enumerate(wanted):
        if times == Num("", 1):
            still.append(1)
        elif not times.symbol and extents[axis] is None:
            still.append(times.offset)
        elif shape[axis] == 1 and extents[axis] is None:
            still.append(n.bound(times))
            extents[axis] = n.extent(times, still[-1])
        else:
            raise n.refusal("it repeats an axis a number of times that is computed", tensor=x)
    return [n.mark(n("Tile", x, n.constant(still, np.int64)), extents)]


@rule("ConstantOfShape")
def _filled(n: Sized) -> Result:
    wanted = n.nums(n.needs(0))
    if wanted is None or not any(v.symbol for v in wanted):
        return None
    shape = [n.bound(v) for v in wanted]
    extents = [n.extent(v, bound) if v.symbol else None for v, bound in zip(wanted, shape)]
    value = next((a.t for a in n.node.attribute if a.name == "value"), None)
    return [n.mark(n("ConstantOfShape", n.constant(shape, np.int64), value=value), extents)]


@rule("Reshape")
def _reshape(n: Sized) -> Result:
    x, wanted = n.needs(0), n.nums(n.input(1))
    if n.walk.shape(x) is None or wanted is None or not _moving(n, wanted):
        return None
    shape, extents = n.shape(x), n.extents(x)
    if not n.attribute("allowzero", 0):
        wanted = tuple(
            (Num("", shape[i]) if (extent := extents[i]) is None else extent.num) if v == Num("", 0) else v
            for i, v in enumerate(wanted)
        )
    return [_viewed(n, x, list(wanted))]


@rule("Flatten")
def _flatten(n: Sized) -> Result:
    x = n.needs(0)
    if x not in n.walk.actual:
        return None
    axis, shape, extents = n.attribute("axis", 1), n.shape(x), n.extents(x)
    axis = axis + len(shape) if axis < 0 else axis
    tail = Num("", prod(shape[axis:]))
    if any(extent is not None for extent in extents[axis:]):
        if any(extent is not None for extent in extents[:axis]):
            raise n.refusal("lengths on both sides of it are decided by data", tensor=x)
        return [_viewed(n, x, [Num("", prod(shape[:axis])), Num("", -1)])]
    return [_viewed(n, x, [Num("", -1), tail])]


def _viewed(n: Sized, x: str, wanted: list[Num]) -> str:
    """x in another shape; one number may be -1."""
    shape, extents = n.shape(x), n.extents(x)
    dims = [Num("", bound) if extent is None else extent.num for bound, extent in zip(shape, extents)]
    long = [(dim, bound, extent) for dim, bound, extent in zip(dims, shape, extents) if dim != Num("", 1)]
    asked = [v for v in wanted if v != Num("", 1)]
    if len(asked) == len(long) and sum(v == Num("", -1) or v == dim for v, (dim, _, _) in zip(asked, long)) == len(
        long
    ):
        places = iter(long)  # axes of extent 1 come and go
        now = [next(places)[1:] if v != Num("", 1) else (1, None) for v in wanted]
        return n.mark(n.reshape(x, [bound for bound, _ in now]), [extent for _, extent in now])
    if all(extent is None for extent in extents):
        raise n.refusal("its shape is computed at run time", tensor=n.input(1))
    flat, total = n.packed(x)
    bound = n.shape(flat)[0]
    moving = [i for i, v in enumerate(wanted) if v.symbol or v == Num("", -1)]
    still = prod(v.offset for i, v in enumerate(wanted) if i not in moving)
    if len(moving) != 1 or prod(v.offset for v in wanted[: moving[0]]) != 1 or still < 1:
        raise n.refusal("lengths that data decide are parted or merged in its shape", tensor=x)
    place, rows = moving[0], -(-bound // still)
    if rows * still > bound:
        pads = n.like(np.zeros(rows * still - bound), x)
        flat = n("Concat", flat, pads, axis=0)
    extent: Extent | None = total
    if still > 1:
        extent = n.counted(n("Div", total.scalar, n.constant(still, np.int64)), rows)
    made = [rows if i == place else v.offset for i, v in enumerate(wanted)]
    return n.mark(n.reshape(flat, made), [extent if i == place else None for i in range(len(made))])
