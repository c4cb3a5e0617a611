"""Loops over contiguous elements in vectors, whatever their number: whole vectors, then halves of one, then single elements.

for i < 197 (16 lanes)   ->   12 vectors of 16, one of 4, one of 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnxc.codegen.kernels.generic import WORTH_SHARING
from onnxc.codegen.tvm_api import script_builder, tvm_modules

OPAQUE = 8  # what follows is not fused into it


def pieces(length: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """(start, lanes, count) of runs of equal vectors that cover `length` elements, the widest first."""
    start = 0
    while lanes:
        count = (length - start) // lanes
        if count:
            yield start, lanes, count
        start, lanes = start + count * lanes, lanes // 2


def sweep(length: int, lanes: int, body: Callable) -> None:
    """body(place, lanes): statements for the `lanes` elements from `place` on, over `length` elements."""
    T, _ = script_builder()
    for start, width, count in pieces(length, lanes):
        if count == 1:
            body(start, width)
        else:
            with T.serial(0, count) as turn:
                body(start + turn * width, width)


def span(start, lanes: int, stride: int = 1):
    """The indices of `lanes` elements from `start` on."""
    tirx = tvm_modules().tirx
    return start if lanes == 1 else tirx.Ramp(start, stride, lanes)


def splat(value, lanes: int):
    """A number in each lane."""
    tirx = tvm_modules().tirx
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def flat(buffer, index) -> list:
    """The indices of the element at a row-major place of a buffer, whatever its shape."""
    return [0] * (len(buffer.shape) - 1) + [index] if len(buffer.shape) else []


def shared(turns: int, elements: int):
    """A loop of `turns` that may run in parallel, where all of them touch `elements` enough to be worth it."""
    T, _ = script_builder()
    return (T.parallel if elements >= WORTH_SHARING and turns > 1 else T.serial)(0, turns)


def function(builder, args: Sequence, result: tuple[Sequence[int], str], name: str, body: Callable, notes=None):
    """A call of a new function whose statements `body(*operand buffers, result buffer)` writes; `notes` are more attributes."""
    relax = tvm_modules().relax
    T, made = script_builder()
    with made() as frame, T.prim_func(s_tir=True):
        T.func_name(name)
        given = [
            T.arg(f"a{i}", T.buffer([int(e) for e in a.ty.shape.values], str(a.ty.dtype))) for i, a in enumerate(args)
        ]
        given.append(T.arg("r", T.buffer([int(e) for e in result[0]], result[1])))
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE, **(notes or {})})
        with T.sblock("root"):
            T.reads([])
            T.writes([])
            body(*given)
    symbol = builder.add_func(frame.get(), name)
    return relax.call_tir(symbol, list(args), relax.TensorType(list(result[0]), result[1]))
