"""Pixels of the phases of a transposed convolution put side by side.

    parts (n, 4 c, h, w), strides (2, 2)   ->   y (n, c, 2 h, 2 w): y[.., 2 i + a, 2 j + b] = part 2 a + b [.., i, j]

Phase p of an output of `shape` starts `shifts[p]` pixels into its part. The parts are the channels (groups, phases, c / groups) of
one tensor, or a tensor each. In channels-last tensors a pixel's channels are copied in vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnxc.codegen.kernels.vectors import flat, function, shared, span, sweep
from onnxc.codegen.tvm_api import script_builder, tvm_modules

LANES = 16  # of a copy, which LLVM splits where vectors are shorter
NOTE = "onnxc.interleave"  # the attribute of a function that says what it is


@dataclass(frozen=True)
class Phases:
    """`shape` (n, c, ...) of the output."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    shifts: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        """All of it, for the attribute."""
        return repr((self.shape, self.strides, self.groups, self.shifts))


def noted(function_) -> Phases | None:
    """What a function is that `call` has made; None for any other."""
    attributes = function_.attrs or {}
    if NOTE not in attributes:
        return None
    import ast

    return Phases(*ast.literal_eval(str(attributes[NOTE])))


def call(builder, parts: Sequence, phases: Phases, last: bool):
    """The call that puts `parts` side by side, channels-last or not."""
    shape = (phases.shape[0], *phases.shape[2:], phases.shape[1]) if last else phases.shape
    kind = str(parts[0].ty.dtype)
    return function(
        builder, parts, (shape, kind), "interleave", lambda *given: _emit(given[:-1], given[-1], phases, last),
        {} if last else {NOTE: phases.text},
    )  # fmt: skip


def _emit(parts: Sequence, y, phases: Phases, last: bool) -> None:
    n, channels, *sizes = phases.shape
    each, together = channels // phases.groups, len(parts) == 1 and prod(phases.strides) > 1
    for number, place in enumerate(itertools.product(*(range(s) for s in phases.strides))):
        counts = [-(-(size - a) // s) for size, a, s in zip(sizes, place, phases.strides, strict=True)]
        if min(counts) < 1:
            continue
        part = parts[0 if together else number]
        held = [int(extent) for extent in part.shape]
        inside = held[1:-1] if last else held[2:]
        of_part = prod(phases.strides) * each if together else each  # channels of a group
        base = number * each if together else 0
        where = _Phase(n, place, counts, inside, phases.shifts[number])
        (_copy_last if last else _copy_first)(part, y, phases, where, (each, of_part, base))


@dataclass(frozen=True)
class _Phase:
    n: int
    place: tuple[int, ...]
    counts: list[int]
    inside: list[int]
    shift: tuple[int, ...]

    def pixels(self, index, sizes: Sequence[int], strides: Sequence[int], source, target):
        """Numbers of a pixel in the part and in the output, from those of their images on."""
        for d, i in enumerate(index):
            source = source * self.inside[d] + i + self.shift[d]
            target = target * sizes[d] + i * strides[d] + self.place[d]
        return source, target


def _copy_last(part, y, phases: Phases, where: _Phase, channels: tuple[int, int, int]) -> None:
    tirx = tvm_modules().tirx
    T, _ = script_builder()
    each, of_part, base = channels
    first, *rest = where.counts
    with shared(where.n * first, prod(phases.shape)) as turn, T.grid(1, *rest, 1) as (_, *inner, _):
        image, index = tirx.indexdiv(turn, first), [tirx.indexmod(turn, first), *inner]
        source, target = where.pixels(index, phases.shape[2:], phases.strides, image, image)
        for group in range(phases.groups):
            start = source * (of_part * phases.groups) + group * of_part + base
            end = target * phases.shape[1] + group * each
            sweep(
                each, LANES,
                lambda at, width, start=start, end=end: T.buffer_store(
                    y, part[tuple(flat(part, span(start + at, width)))], flat(y, span(end + at, width))
                ),
            )  # fmt: skip


def _copy_first(part, y, phases: Phases, where: _Phase, channels: tuple[int, int, int]) -> None:
    tirx = tvm_modules().tirx
    T, _ = script_builder()
    each, of_part, base = channels
    count = phases.shape[1]
    with shared(where.n * count, prod(phases.shape)) as turn, T.grid(1, *where.counts, 1) as (_, *index, _):
        image, channel = tirx.indexdiv(turn, count), tirx.indexmod(turn, count)
        own = tirx.indexdiv(channel, each) * of_part + base + tirx.indexmod(channel, each)
        source, target = where.pixels(
            index, phases.shape[2:], phases.strides, image * (of_part * phases.groups) + own, turn
        )
        T.buffer_store(y, part[tuple(flat(part, source))], flat(y, target))
