"""Transposition in registers: the axis that lies side by side becomes another.

    x (64, 1024) -> y (1024, 64)   ->   tiles of 16 x 16: 16 vectors read, 64 shuffles, 16 vectors written
    x (3, 1000)  -> y (1000, 3)    ->   3 vectors read, interleaved, 3 written

A tile of n x n is transposed in log2(n) steps: step h exchanges bit h of the row's number with that of the lane. Axes that stay
together count as one. Tiles that do not divide an extent overlap the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnxc.codegen.kernels.vectors import flat, function, shared, span
from onnxc.codegen.tvm_api import script_builder, tvm_modules

FEW = 8  # an axis of fewer elements is interleaved whole


@dataclass(frozen=True)
class Merged:
    """A transposition of as few axes as say it: y axis i is x axis order[i]."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def strides(self) -> tuple[list[int], list[int]]:
        """Of each axis of x: elements between neighbours in x, and in y."""
        own = [prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        other = [0] * len(self.shape)
        for place, axis in enumerate(self.order):
            other[axis] = prod(self.shape[a] for a in self.order[place + 1 :])
        return own, other


def merged(shape: Sequence[int], order: Sequence[int]) -> Merged:
    """Without extents of 1, and with axes that stay side by side as one."""
    kept = [axis for axis in order if shape[axis] != 1]
    runs: list[list[int]] = []
    alive = sorted(kept)
    for axis in kept:
        if runs and alive.index(axis) == alive.index(runs[-1][-1]) + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    by_place = sorted(runs)
    return Merged(tuple(prod(shape[a] for a in run) for run in by_place), tuple(by_place.index(run) for run in runs))


def legalise(lanes: int, builder, call):
    """permute_dims with such tiles; TVM's own way where the last axis stays, or is too short for a tile."""
    x = call.args[0]
    shape, kind = [int(extent) for extent in x.ty.shape.values], str(x.ty.dtype)
    axes = call.attrs.axes
    order = [int(a) % len(shape) for a in axes] if axes is not None else list(range(len(shape)))[::-1]
    found = merged(shape, order)
    plan = None if kind == "bool" or 0 in shape or lanes < 2 else _plan(found, lanes)
    if plan is None:
        return call.op.get_attr("FLegalize")(builder, call)
    return function(builder, [x], ([shape[a] for a in order], kind), "transpose", lambda a, b: plan.emit(a, b))


def _plan(found: Merged, lanes: int):
    """How, None where it is not worth it."""
    if len(found.order) < 2 or found.order[-1] == len(found.order) - 1:
        return None
    into, out = found.order[-1], len(found.order) - 1  # the axis that becomes the last, and the one that was
    rows, columns = found.shape[into], found.shape[out]
    if min(rows, columns) >= FEW:
        while lanes > min(rows, columns):
            lanes //= 2
        return _Tiles(found, into, out, lanes, lanes)
    if rows < FEW <= lanes <= columns and found.order[-2] == out:
        return _Tiles(found, into, out, rows, lanes)
    if columns < FEW <= lanes <= rows and into == out - 1:
        return _Tiles(found, into, out, lanes, columns)
    return None


@dataclass(frozen=True)
class _Tiles:
    """Tiles of `height` elements of axis `into` by `width` of axis `out`."""

    found: Merged
    into: int
    out: int
    height: int
    width: int

    def emit(self, x, y) -> None:
        """All tiles, those of one row of tiles together."""
        tirx = tvm_modules().tirx
        T, _ = script_builder()
        shape = self.found.shape
        own, other = self.found.strides()
        outer = [axis for axis in range(len(shape)) if axis not in (self.into, self.out)]
        outer.sort(key=self.found.order.index)
        down, across = -(-shape[self.into] // self.height), -(-shape[self.out] // self.width)
        extents = [shape[axis] for axis in outer]
        with shared(prod(extents) * down, prod(shape)) as turn, T.serial(0, across) as column:
            rest, source, target = tirx.indexdiv(turn, down), 0, 0
            for axis, extent in reversed(list(zip(outer, extents, strict=True))):
                place = tirx.indexmod(rest, extent)
                rest = tirx.indexdiv(rest, extent)
                source, target = source + place * own[axis], target + place * other[axis]
            row = tirx.min(tirx.indexmod(turn, down) * self.height, shape[self.into] - self.height)
            first = tirx.min(column * self.width, shape[self.out] - self.width)
            source = source + row * own[self.into] + first * own[self.out]
            target = target + row * other[self.into] + first * other[self.out]
            self._tile(x, y, source, target, own[self.into], other[self.out])

    def _tile(self, x, y, source, target, apart: int, spread: int) -> None:
        T, _ = script_builder()
        if self.height == self.width:
            vectors = [_read(x, source + i * apart, self.width) for i in range(self.height)]
            for i, vector in enumerate(_square(vectors, self.width)):
                T.buffer_store(y, vector, flat(y, span(target + i * spread, self.height)))
            return
        few, lanes = min(self.height, self.width), max(self.height, self.width)
        if self.height == few:  # rows far apart, put side by side
            vectors = [_read(x, source + i * apart, lanes) for i in range(few)]
            picks = [[(e % few) * lanes + e // few for e in range(j * lanes, (j + 1) * lanes)] for j in range(few)]
            places = [target + j * lanes for j in range(few)]
        else:
            vectors = [_read(x, source + j * lanes, lanes) for j in range(few)]
            picks = [[t * few + j for t in range(lanes)] for j in range(few)]
            places = [target + j * spread for j in range(few)]
        for place, pick in zip(places, picks, strict=True):
            T.buffer_store(y, shuffled(vectors, pick), flat(y, span(place, lanes)))


def _read(x, start, lanes: int):
    T, _ = script_builder()
    return T.bind(x[tuple(flat(x, span(start, lanes)))])


def shuffled(vectors: list, picks: list[int]):
    """The elements `picks` of the vectors one after the other."""
    tirx = tvm_modules().tirx
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", pick) for pick in picks])


def _square(rows: list, lanes: int) -> list:
    T, _ = script_builder()
    half = 1
    while half < lanes:
        new = list(rows)
        for i in range(lanes):
            if not i & half:
                pair = [rows[i], rows[i + half]]
                low = [j if not j & half else j - half + lanes for j in range(lanes)]
                high = [j + half if not j & half else j + lanes for j in range(lanes)]
                new[i], new[i + half] = (T.bind(shuffled(pair, picks)) for picks in (low, high))
        rows, half = new, 2 * half
    return rows
