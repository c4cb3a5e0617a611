"""A few-bit kernel that packs its own input, row by row: floats are read while the rows before them are counted.

    for row: pack the rows of x that its windows reach for the first time; for block, tile: ask for some of the next ones; count

The packed rows lie in the workspace, padded as `planes.packed_shape` says. Asking is a prefetch: the floats of a row are on
their way from memory while the machine counts, which a kernel of its own that packs cannot have. It serves one thread, as a row
needs the ones before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnxc.codegen.kernels import quantise
from onnxc.codegen.kernels.spec import WORD, KernelSpec, PackSpec
from onnxc.codegen.kernels.tile import CACHES, LINE_BYTES, prefetch

LEAST_ROWS = 4  # of output, below which there is little to do meanwhile
MOST_WEIGHTS = CACHES[1][0]  # bytes, read again for each row
LINE = LINE_BYTES // 4  # floats of a cache line


def reason_against(spec: KernelSpec, weights: int) -> str:
    """Why a kernel with so many bytes of weights should not pack its own input; empty if it should."""
    assert spec.source is not None
    if spec.threads > 1:
        return "packs its own input on one thread only"
    if spec.source.step != (1, 1):
        return "packs whole rows of its own input only"
    if weights > MOST_WEIGHTS:
        return f"packs its own input beside at most {MOST_WEIGHTS} bytes of weights, found {weights}"
    return "" if spec.oh >= LEAST_ROWS else f"packs its own input for {LEAST_ROWS} rows of output on, found {spec.oh}"


class Floats:
    """The operands x and the quantiser's scales, declared here as the next ones, and the packed rows, `words(bits)`."""

    def __init__(self, spec: KernelSpec):
        from tvm.script.ir_builder import tirx as T

        assert spec.source is not None
        self.spec, self.pack = spec, spec.source
        self.x = T.arg("x", T.buffer(self.pack.x_shape, "float32"))
        scales = self.pack.scales
        self.scale = T.arg("input_scale", T.buffer((scales,), "float32")) if scales else None

    def start(self) -> None:
        """Room for the packed rows, with the padding in place."""
        from tvm.script.ir_builder import tirx as T

        self.room = T.alloc_buffer(self.pack.shape, "uint64")
        self.chunks = self.words(quantise.CHUNK)
        quantise.borders(self.pack, self.chunks)

    def words(self, bits: int):
        """The packed rows as words of `bits` bits."""
        from tvm.script.ir_builder import tirx as T

        *outer, line = self.pack.shape
        return T.decl_buffer((*outer, line * (WORD // bits)), f"uint{bits}", data=self.room.data)

    @contextmanager
    def grid(self, groups: int, blocks: int, tiles: int) -> Iterator[tuple]:
        """Loops over (group, block, image, row, tile), rows outermost; a row's packing goes before its tiles."""
        from tvm.script.ir_builder import tirx as T

        spec, pack = self.spec, self.pack
        step = spec.stride[0]
        before = max((spec.kh - 1) * spec.dilation[0] + 1 - spec.pads[0] - step, 0)
        with T.serial(0, pack.n) as n:
            with T.serial(0, min(before, pack.h)) as row:
                self._row(n, row)
            with T.serial(0, spec.oh) as row:
                with T.serial(0, step) as turn:
                    with T.If(row * step + before + turn < pack.h):
                        with T.Then():
                            self._row(n, row * step + before + turn)
                with T.grid(groups, blocks, tiles) as (g, block, tile):
                    part = (g * blocks + block) * tiles + tile
                    self._ask(n, (row + 1) * step + before, part, groups * blocks * tiles)
                    yield g, block, n, row, tile

    def _row(self, n, row) -> None:
        quantise.row_of(self.pack, self.x, self.scale, self.chunks, n, row)

    def _ask(self, n, first, part, parts: int) -> None:
        """Prefetches a `part` of the rows from `first` on, which the next row of results needs."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        pack: PackSpec = self.pack
        if pack.c % LINE:
            return
        of_pixel, rows = pack.c // LINE, self.spec.stride[0]
        lines = rows * pack.w * of_pixel
        share = -(-lines // parts)
        start = quantise.source_of(pack, n, tirx.min(first, max(pack.h - rows, 0)), 0) * of_pixel
        with T.serial(0, share) as i:
            line = tirx.min(part * share + i, lines - 1)
            place = (start + line) * LINE
            prefetch(self.x, place)
