"""The axis algebra: an axis is an atom, a product (row-major, as Flatten makes it) or a sum (as Concat makes it).

Reading a graph once *ties* axes together by unification. An atom that meets a product or a sum is refined into it;
an extent that disagrees raises `Conflict`. One unfrozen atom is then one group of coupled indices: a boolean mask on it
gives the mask of every tensor axis that holds it (outer product for a product, concatenation for a sum).

    Flatten of [n, c, h, w]     c tied to the rows of a fully connected weight k:   k := c·h·w
    Concat of c1 and c2         tied to the scale of a BatchNormalization s:        s := c1+c2
    channel shuffle of 8 in 2   c := 2·4, transposed 4·2, tied to a depthwise weight
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TypeAlias, final

import numpy as np

Extent: TypeAlias = "int | str | None"
"""A number, the name of a symbolic dimension, or None where nothing is known."""


def numbers(sizes: Sequence[Extent]) -> list[int] | None:
    """The extents, where all are numbers."""
    found = [n for n in sizes if isinstance(n, int)]
    return found if len(found) == len(sizes) else None


def number(size: Extent) -> int:
    """An extent where nothing but a number can stand."""
    assert isinstance(size, int)
    return size


class Conflict(Exception):
    """Two axes that must be one have different extents."""

    def __init__(self, a: Extent, b: Extent):
        super().__init__(f"extent {a} is not {b}")
        self.a, self.b = a, b


@final
class Atom:
    """One independent extent. `frozen` is None, or the reason why it must not change.

    `soft` is None, or (kind, reason) where an operator takes a statistic over it: removing indices is then not the
    same as zeroing them. Kind "window" (a sum over neighbours) or "statistic" (a mean, a variance). `cuts`: how many
    times an axis has been cut, one cut within the last, until this was left.
    """

    __slots__ = ("__weakref__", "cuts", "frozen", "ref", "size", "soft")

    def __init__(self, size: Extent, frozen: str | None = None, soft: tuple[str, str] | None = None, cuts: int = 0):
        self.size = size
        self.cuts = cuts
        self.ref: Axis | None = None
        self.frozen = frozen
        self.soft = soft

    def __repr__(self) -> str:
        return show(self)


@final
class Prod:
    """A row-major product: index = (i * size(b) + j) for parts (a, b). `size`: its extent, once that is a number."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)
        sizes = [extent(p) for p in self.parts]
        self.size: int | None = prod(known) if (known := numbers(sizes)) is not None else None

    def __repr__(self) -> str:
        return show(self)


@final
class Sum:
    """A disjoint sum: the indices of the first part, then those of the second, and so on. `size` as in `Prod`."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)
        sizes = [extent(p) for p in self.parts]
        self.size: int | None = sum(known) if (known := numbers(sizes)) is not None else None

    def __repr__(self) -> str:
        return show(self)


@final
class Aligned:
    """The second weight axis of a grouped convolution: block j of its first axis holds the indices of parts[j].

    All parts have one extent and must keep equally many indices; which ones may differ from block to block.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Axis]):
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        return show(self)


Axis: TypeAlias = "Atom | Prod | Sum | Aligned"


def find(a: Axis) -> Axis:
    """Follow substitutions to the axis that stands for `a`, shortening the path on the way."""
    if type(a) is not Atom or a.ref is None:
        return a
    root = a.ref
    while type(root) is Atom and root.ref is not None:
        root = root.ref
    while a is not root and type(a) is Atom and a.ref is not root:
        a.ref, a = root, a.ref
    return root


def extent(a: Axis) -> Extent:
    """The number of indices of `a`; None for a product or sum with a part that is not a number."""
    a = find(a)
    if type(a) is Atom:
        return a.size
    if type(a) is Aligned:
        return extent(a.parts[0])
    if a.size is not None:  # no number changes once it is one: atoms are refined into parts of the same extent
        return a.size
    sizes = [extent(p) for p in _flat(a)]
    if len(sizes) == 1:
        return sizes[0]
    known = numbers(sizes)
    if known is not None:
        a.size = prod(known) if type(a) is Prod else sum(known)
    return a.size


def atoms(a: Axis) -> Iterator[Atom]:
    """The atoms of `a`, left to right; one that stands twice is given twice."""
    stack = [a]
    while stack:
        a = find(stack.pop())
        if type(a) is Atom:
            yield a
        else:
            stack.extend(reversed(a.parts))


def _flat(a: Prod | Sum) -> list[Axis]:
    """The parts of `a`, those of parts of its own kind in their place: an axis cut a thousand times nests as deep."""
    parts: list[Axis] = []
    stack = list(reversed(a.parts))
    while stack:
        part = find(stack.pop())
        if type(part) is type(a):
            stack.extend(reversed(part.parts))
        else:
            parts.append(part)
    return parts


def normal(a: Axis) -> Axis:
    """`a` with nested products and sums flattened, factors of extent 1 and summands of extent 0 dropped."""
    a = find(a)
    if type(a) is Atom or type(a) is Aligned:
        return a
    kind, neutral = type(a), 1 if type(a) is Prod else 0
    flat = _flat(a)
    parts: list[Axis] = []
    for part in flat:
        part = part if type(part) is Atom else normal(part)
        if type(part) is kind:
            parts += part.parts
        elif part.size != neutral if type(part) is Atom else extent(part) != neutral:
            parts.append(part)
    parts = parts or [normal(p) for p in flat[:1]]
    return parts[0] if len(parts) == 1 else kind(parts)


def settle(axes: Iterable[Axis]) -> None:
    """Make every substitution behind `axes` a flat one, so that walks from here on nest as deep as kinds alternate."""
    seen: set[Axis] = set()
    stack = list(axes)
    while stack:
        a = stack.pop()
        if a in seen:
            continue
        seen.add(a)
        if type(a) is not Atom:
            stack.extend(a.parts)
        elif a.ref is not None:
            a.ref = normal(a)
            stack.append(a.ref)


def freeze(a: Axis, reason: str) -> None:
    """Forbid any change to the atoms of `a`; the first reason given stays."""
    for atom in atoms(a):
        if atom.frozen is None:
            atom.frozen = reason


def soften(a: Axis, kind: str, reason: str) -> None:
    """Record that a statistic is taken over the atoms of `a`; "statistic" outweighs "window"."""
    for atom in atoms(a):
        if atom.soft is None or (atom.soft[0] == "window" and kind == "statistic"):
            atom.soft = (kind, reason)


def frozen(a: Axis) -> str | None:
    """The reason why some atom of `a` is frozen, or None."""
    return next((x.frozen for x in atoms(a) if x.frozen is not None), None)


def same(a: Axis, b: Axis) -> bool:
    """Whether both are known to be the same axis."""
    a, b = normal(a), normal(b)
    if a is b:
        return True
    if type(a) is Atom or type(b) is Atom or type(a) is not type(b) or len(a.parts) != len(b.parts):
        return False
    return all(same(x, y) for x, y in zip(a.parts, b.parts, strict=True))


def _known(a: Atom) -> int:
    if not isinstance(a.size, int):
        raise TypeError(f"{a} has no number of indices")
    return a.size


def mask(a: Axis, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    """The boolean mask of `a`, shape [extent(a)], from masks of atoms; atoms without one are kept whole."""
    a = find(a)
    if type(a) is Atom:
        got = keep.get(a)
        return np.ones(_known(a), bool) if got is None else got
    if type(a) is Aligned:
        raise TypeError("an aligned axis has a mask for each block, not one")
    masks = [mask(p, keep) for p in a.parts]
    if type(a) is Sum:
        return np.concatenate(masks)
    out = masks[0]
    for m in masks[1:]:
        out = np.logical_and.outer(out, m).ravel()
    return out


def kept(a: Axis, keep: Mapping[Atom, np.ndarray]) -> int:
    """How many indices of `a` stay under the masks of its atoms."""
    a = find(a)
    if type(a) is Atom:
        got = keep.get(a)
        return _known(a) if got is None else int(np.count_nonzero(got))
    sizes = [kept(p, keep) for p in a.parts]
    if type(a) is Aligned:
        return max(sizes)
    return prod(sizes) if type(a) is Prod else sum(sizes)


def touched(a: Axis, keep: Mapping[Atom, np.ndarray]) -> bool:
    """Whether any atom of `a` has a mask."""
    return any(x in keep for x in atoms(a))


def show(a: Axis) -> str:
    """`64`, `3·8`, `16+16`, `N`, `?`: how an axis stands in messages."""
    a = find(a)
    if type(a) is Atom:
        return "?" if a.size is None else str(a.size)
    if type(a) is Aligned:
        return show(a.parts[0])
    if type(a) is Prod:
        return "·".join(f"({show(p)})" if type(find(p)) is Sum else show(p) for p in a.parts)
    return "+".join(show(p) for p in a.parts)
