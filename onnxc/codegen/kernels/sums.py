"""Float32 activations with weights that are codes of sub-vectors (`quant.product`): products looked up, then summed.

    T[k] = sum_j x[j] centroid[k, j]          for the l inputs of a part and every centroid, once for each pixel
    y[o] = sum over parts and taps of T[code[o, part, tap]]

One look-up takes the place of l multiply-adds (Wu 2016). Lanes are pixels of a row: a code leads to as many neighbouring sums
of the table as a vector has lanes, so that look-ups are loads without a gather. A tile is `pixels` vectors, some rows of
them; part after part its pixels are transposed, their table is made, and every output adds its entries to sums in the
workspace. With strides the columns of a table stand phase by phase, so that those of a tap are neighbours again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnxc.codegen.kernels import cost
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.result import Results, vector_of, wide
from onnxc.codegen.kernels.spec import FLOAT32, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import ACCUMULATOR_BYTES, at, check_float, epilogue, operands, shared_grid
from onnxc.codegen.target import Target

NAME = "float32.sums"
TABLE_BYTES = 1 << 18
NEAREST = 1 << 15
"""Bytes of a table that stay in the first cache; beyond, a vector of it takes as long as a line from the second."""
AT_ONCE = 4
"""Centroids whose sums are made together."""
CERTAIN = 1.5
"""How much faster than the float form it has to be predicted: a machine may multiply twice as fast as its target says."""
MOVED, LOOKED_UP, STORED, EACH_SUM = 1.5, 1.0, 1.0, 1.5
"""Cycles to transpose a number, to read a code, to store a vector of a table, to write out a result (measured on Zen 4 and 5)."""


@dataclass(frozen=True)
class Coded:
    """Weights (oc, c/groups, kh, kw) as codes uint8 (oc, parts, kh, kw) and book float32 (books, centroids, length).

    Part m of a group takes its sub-vectors from book m mod books.
    """

    codes: np.ndarray
    book: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""
        oc, parts, kh, kw = self.codes.shape
        return (oc, parts * self.book.shape[2], kh, kw)


@dataclass(frozen=True)
class Tile:
    """`rows` x `across` vectors of `lanes` pixels; `images`, `oh` and `ow` are those of the loops."""

    spec: KernelSpec
    rows: int
    across: int
    lanes: int

    @property
    def flat(self) -> bool:
        return self.spec.pointwise

    @cached_property
    def extents(self) -> tuple[int, int, int]:
        """Images, rows and columns of results."""
        s = self.spec
        return (1, 1, s.n * s.h * s.w) if self.flat else (s.n, s.oh, s.ow)

    @property
    def columns(self) -> int:
        """Of results in a tile."""
        return min(self.extents[2], self.across * self.lanes)

    @property
    def starts(self) -> list[int]:
        """The first column of each vector: the last ends where the tile does."""
        return [min(j * self.lanes, self.columns - self.lanes) for j in range(self.across)]

    @property
    def read_rows(self) -> int:
        """Rows that a tile reads."""
        s = self.spec
        return (self.rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1

    @property
    def read_columns(self) -> int:
        """Columns that a tile reads."""
        s = self.spec
        return (self.columns - 1) * s.stride[1] + (s.kw - 1) * s.dilation[1] + 1

    @property
    def phase(self) -> int:
        """Columns of a phase of the stride."""
        return -(-self.read_columns // self.spec.stride[1])

    @property
    def line(self) -> int:
        """Numbers of a table's row."""
        return self.phase * self.spec.stride[1]

    @property
    def size(self) -> int:
        """Numbers of a table for one centroid, filled up to whole vectors."""
        return -(-self.read_rows * self.line // self.lanes) * self.lanes

    @property
    def centroids(self) -> int:
        return -(-self.spec.weight.centroids // AT_ONCE) * AT_ONCE

    @property
    def vectors(self) -> int:
        return self.rows * self.across

    @property
    def parts(self) -> int:
        """Of a group."""
        return self.spec.c // self.spec.groups // self.spec.weight.length

    def of_tap(self, kh: int, kw: int, row: int, vector: int) -> int:
        """Where in a centroid's table the sums of a tap for a vector of results begin."""
        s = self.spec
        column = kw * s.dilation[1]
        place = column % s.stride[1] * self.phase + column // s.stride[1]
        return (row * s.stride[0] + kh * s.dilation[0]) * self.line + place + self.starts[vector]


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes float activations with coded weights; the tile that is predicted to be fastest."""
    if spec.weight.kind != "codes":
        return Refusal(NAME, f"takes codes of sub-vectors only, not {spec.weight.text()}")
    refusal = check_float(NAME, replace(spec, weight=FLOAT32))
    if refusal:
        return refusal
    if spec.packed is not None or spec.output != FLOAT32:
        return Refusal(NAME, "does not pack its results")
    if not spec.macs:
        return Refusal(NAME, "has an extent of zero")
    plans = [Schedule(NAME, tile.vectors, tile.across, tile.lanes) for tile in _tiles(spec, target)]
    if not plans:
        return Refusal(NAME, f"its table would take more than {TABLE_BYTES} bytes")
    return min(plans, key=lambda plan: cycles(spec, plan, target))


def _tiles(spec: KernelSpec, target: Target):
    lanes = target.lanes
    _, oh, ow = Tile(spec, 1, 1, 1).extents
    while lanes > ow:
        lanes //= 2
    most = min(ACCUMULATOR_BYTES // (4 * lanes), max(1, target.registers - 4))
    for across in range(1, min(most, -(-ow // lanes)) + 1):
        for rows in range(1, min(oh, most // across) + 1):
            tile = Tile(spec, rows, across, lanes)
            if 4 * tile.centroids * tile.size <= TABLE_BYTES:
                yield tile


def tile_of(spec: KernelSpec, plan: Schedule) -> Tile:
    """The tile that a schedule stands for."""
    return Tile(spec, plan.pixels // plan.vectors, plan.vectors, plan.lanes)


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles: of each tile its transposition, tables, look-ups and results."""
    tile, half = tile_of(spec, plan), cost.wide(plan, target) / 2
    images, oh, ow = tile.extents
    tiles = images * -(-oh // tile.rows) * -(-ow // tile.columns)
    oc, taps, length = spec.oc // spec.groups, spec.kh * spec.kw, spec.weight.length
    vectors = tile.size / tile.lanes
    made = tile.centroids * vectors * (max(length * half, length * (1 + AT_ONCE) / AT_ONCE / 2) + STORED * half)
    near = 4 * tile.centroids * tile.size <= NEAREST
    load = half if near else max(half, tile.lanes / 16)
    summed = oc * (taps * (LOOKED_UP + tile.vectors * load) + tile.vectors * 3 * half)
    moved = tile.read_rows * min(tile.read_columns, spec.w if not tile.flat else tile.columns) * length * MOVED
    return tiles * spec.groups * (tile.parts * (made + summed + moved) + oc * tile.vectors * tile.lanes * EACH_SUM)


def pack(spec: KernelSpec, plan: Schedule, weights: Coded) -> np.ndarray:
    """Codes (oc, parts, kh, kw) -> (groups, parts, oc/groups, taps)."""
    oc, parts, kh, kw = weights.codes.shape
    split = weights.codes.reshape(spec.groups, oc // spec.groups, parts, kh * kw)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on."""
    return (spec.groups,)


def tables(spec: KernelSpec, plan: Schedule, weights: Coded) -> list[np.ndarray]:
    """The codebooks (books, centroids filled up, length)."""
    books, k, length = weights.book.shape
    filled = np.zeros((books, tile_of(spec, plan).centroids, length), np.float32)
    filled[:, :k] = weights.book
    return [filled]


def emit(spec: KernelSpec, plan: Schedule, name: str) -> Any:
    """The kernel as TIR: operands x, codes, codebooks, the epilogue's operands, y."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    tile = tile_of(spec, plan)
    taps, oc = spec.kh * spec.kw, spec.oc // spec.groups
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, spec.dtype))
            codes = T.arg("w", T.buffer((spec.groups, tile.parts, oc, taps), "uint8"))
            book = T.arg("book", T.buffer((spec.weight.books, tile.centroids, spec.weight.length), spec.dtype))
            extra = [T.arg(label, T.buffer(shape, spec.dtype)) for label, shape in operands(spec)]
            out = Results(spec, _channels(spec, plan))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            images, oh, ow = tile.extents
            with shared_grid(spec.threads, images, -(-oh // tile.rows), -(-ow // tile.columns)) as (n, band, strip):
                _one(tile, (x, codes, book, extra, out), _channels(spec, plan), (n, band, strip))
    return builder.get()


def _channels(spec: KernelSpec, plan: Schedule) -> int:
    """Lanes of the results, which are channels again."""
    lanes = plan.lanes
    while lanes > spec.oc // spec.groups:
        lanes //= 2
    return lanes


def _one(tile: Tile, given: tuple, channels: int, where: tuple) -> None:
    """One tile of all outputs, group by group."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    spec, (x, codes, book, extra, out) = tile.spec, given
    n, band, strip = where
    _, oh, ow = tile.extents
    oc, length = spec.oc // spec.groups, spec.weight.length
    row0, column0 = tirx.min(band * tile.rows, oh - tile.rows), tirx.min(strip * tile.columns, ow - tile.columns)
    turned = T.alloc_buffer((length * tile.size,), spec.dtype)
    table = T.alloc_buffer((tile.centroids * tile.size,), spec.dtype)
    sums = T.alloc_buffer((oc * tile.vectors * tile.lanes,), spec.dtype)
    _clear(turned, length * tile.size, tile.lanes)
    with T.serial(0, spec.groups) as g:
        _clear(sums, oc * tile.vectors * tile.lanes, tile.lanes)
        with T.serial(0, tile.parts) as part:
            _turn(tile, x, turned, n, row0, column0, g * (spec.c // spec.groups) + part * length)
            _make(tile, book, turned, table, part % spec.weight.books)
            with T.serial(0, oc) as o:
                _sum(tile, codes, table, sums, (g * tile.parts + part) * oc + o, o)
        with T.grid(-(-oc // channels), tile.rows, tile.across, tile.lanes) as (block, row, vector, lane):
            channel0 = tirx.min(block * channels, oc - channels)
            place = (channel0 * tile.vectors + row * tile.across + vector) * tile.lanes + lane
            stride = tile.vectors * tile.lanes
            value = sums[tirx.Ramp(place, stride, channels) if channels > 1 else place]
            column = column0 + tirx.min(vector * tile.lanes, tile.columns - tile.lanes) + lane
            lowest = g * oc + channel0
            channel = vector_of(lowest, channels)
            offset = ((n * oh + row0 + row) * ow + column) * spec.oc + channel
            out.store(epilogue(spec, value, extra, channel, offset), offset, (n, row0 + row, column), lowest)


def _clear(buffer, size: int, lanes: int) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    with T.serial(0, size // lanes) as i:
        T.buffer_store(buffer, wide(tirx.const(0, "float32"), lanes), [vector_of(i * lanes, lanes)])


def _turn(tile: Tile, x, turned, n, row0, column0, channel) -> None:
    """turned[j, row, column] = x of input j of a part; what lies in the padding was cleared, or is now."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    spec = tile.spec
    if tile.flat:
        with T.serial(0, tile.columns) as column:
            _move(tile, x, turned, (column0 + column) * spec.c + channel, column)
        return
    top, left, _, _ = spec.pads
    one_strip = tile.columns == tile.extents[2]  # then it is known which columns lie within
    first, last = (left, min(left + spec.w, tile.read_columns)) if one_strip else (0, tile.read_columns)
    with T.serial(0, tile.read_rows) as r:
        row = row0 * spec.stride[0] + r - top
        with T.If(tirx.all(row >= 0, row < spec.h)), T.Then(), T.serial(0, max(last - first, 0)) as i:
            column = first + i
            across = column0 * spec.stride[1] + column - left
            to = r * tile.line + column % spec.stride[1] * tile.phase + column // spec.stride[1]
            source = ((n * spec.h + row) * spec.w + across) * spec.c + channel
            if one_strip:
                _move(tile, x, turned, source, to)
            else:
                with T.If(tirx.all(across >= 0, across < spec.w)), T.Then():
                    _move(tile, x, turned, source, to)


def _move(tile: Tile, x, turned, source, to) -> None:
    """The inputs of a part of one pixel."""
    from tvm.script.ir_builder import tirx as T

    for j in range(tile.spec.weight.length):
        T.buffer_store(turned, x[at(x, source + j)], [j * tile.size + to])


def _make(tile: Tile, book, turned, table, number) -> None:
    """table[k] = sum_j book[number, k, j] turned[j], AT_ONCE centroids at a time."""
    from tvm.script.ir_builder import tirx as T

    length, lanes = tile.spec.weight.length, tile.lanes
    with T.grid(tile.size // lanes, tile.centroids // AT_ONCE) as (v, some):
        for i in range(AT_ONCE):
            k = some * AT_ONCE + i
            total = None
            for j in range(length):
                one = wide(book[at(book, (number * tile.centroids + k) * length + j)], lanes)
                product = one * turned[vector_of(j * tile.size + v * lanes, lanes)]
                total = product if total is None else total + product
            T.buffer_store(table, total, [vector_of(k * tile.size + v * lanes, lanes)])


def _sum(tile: Tile, codes, table, sums, of, o) -> None:
    """sums[o] += the table's entries for the codes of every tap."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    spec, lanes = tile.spec, tile.lanes
    taps, places = spec.kh * spec.kw, list(itertools.product(range(tile.rows), range(tile.across)))
    acc = T.alloc_buffer((tile.vectors * lanes,), spec.dtype)
    for i in range(tile.vectors):
        here = vector_of(i * lanes, lanes)
        T.buffer_store(acc, sums[vector_of((o * tile.vectors + i) * lanes, lanes)], [here])
    for tap in range(taps):
        start = T.alloc_buffer((1,), "int32")
        T.buffer_store(start, tirx.Cast("int32", codes[at(codes, of * taps + tap)]) * tile.size, [0])
        for i, (row, vector) in enumerate(places):
            here = vector_of(i * lanes, lanes)
            entry = table[vector_of(start[0] + tile.of_tap(tap // spec.kw, tap % spec.kw, row, vector), lanes)]
            T.buffer_store(acc, acc[here] + entry, [here])
    for i in range(tile.vectors):
        T.buffer_store(sums, acc[vector_of(i * lanes, lanes)], [vector_of((o * tile.vectors + i) * lanes, lanes)])


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, tables)
