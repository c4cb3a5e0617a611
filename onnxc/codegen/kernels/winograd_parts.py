"""The parts of Winograd's kernels: functions of their own within an object, which all layers that can share one call.

    inputs    V[i] = B' d B of a run of tiles           one for each form and number of lanes
    products  P[i] = V[i] U[i] for a block of outputs   one for each register tile and number of input channels
    outputs   y = A' P A and the epilogue               one for each form, number of lanes and epilogue

Extents and strides are arguments (int64: addresses need no conversion), so that the code of a network's layers is compiled once.
Tiles follow each other by row and column; which comes next is counted, not divided for.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

from onnxc.codegen.kernels.folded import added_up, spread
from onnxc.codegen.kernels.result import vector_of, wide
from onnxc.codegen.kernels.spec import Schedule, Step
from onnxc.codegen.kernels.tile import each, float_steps, prefetch
from onnxc.codegen.kernels.winograd_form import Form

FLAT = 1 << 30  # elements of a buffer of which a part knows the start only
PARTS = "onnxc.parts"  # the attribute of a PrimFunc with the names of the functions that it calls
PLACE = ("image", "row", "column")  # of the first output of a tile
_recipes: dict[str, Callable[[], Any]] = {}  # by the name of a part, which says all that its code depends on


def parts_of(function: Any) -> dict[str, Any]:
    """The functions that a kernel calls, by name."""
    return {str(name): _made(str(name)) for name in function.attrs[PARTS]} if PARTS in function.attrs else {}


@lru_cache(64)
def _made(name: str) -> Any:
    return _recipes[name]()


def call(name: str, buffers: Sequence[Any], *numbers: Any) -> None:
    """Emits a call of a part on the addresses `buffers` and on numbers."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    T.evaluate(tirx.call_extern("void", name, *buffers, *map(_long, numbers)))


def _long(number: Any) -> Any:
    from tvm import tirx

    return tirx.const(number, "int64") if isinstance(number, int) else tirx.Cast("int64", number)


def _mark(*what: Any) -> str:
    """Tells apart what is compiled in different ways."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


@contextmanager
def _part(name: str, pointers: tuple[str, ...], numbers: tuple[str, ...]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A builder of a function of float pointers, the first of which is an operand of the kernel, and int64 numbers: its arguments."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            given = {key: T.arg(key, T.buffer((FLAT,), "float32")) for key in pointers}
            given |= {key: T.arg(key, tirx.Var(key, "int64")) for key in numbers}
            T.func_attr({"tirx.noalias": True})
            addresses = [tirx.address_of(given[key][0]) for key in pointers]
            with T.If(tirx.isnullptr(addresses[0])), T.Then():  # never: LLVM inlines nothing that may call itself
                T.evaluate(tirx.call_extern("void", name, *addresses, *(given[key] for key in numbers)))
            yield builder, given


@contextmanager
def _tiles(a: dict[str, Any], m: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    """A loop over `count` tiles from the first `PLACE` on: (number, image, row, column)."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    state = T.alloc_buffer((3,), "int64")
    for i, key in enumerate(PLACE):
        T.buffer_store(state, a[key], [i])
    with T.serial(0, a["count"]) as tile:
        image, row, column = (T.bind(state[i]) for i in range(3))
        yield tile, image, row, column
        T.buffer_store(state, column + m, [2])
        with T.If(column + m >= a["ow"]), T.Then():
            T.buffer_store(state, tirx.const(0, "int64"), [2])
            T.buffer_store(state, row + m, [1])
            with T.If(row + m >= a["oh"]), T.Then():
                T.buffer_store(state, tirx.const(0, "int64"), [1])
                T.buffer_store(state, image + 1, [0])


@contextmanager
def _steps(first: Any, step: Any, last: Any) -> Iterator[Any]:
    """A loop over first, first + step, ... and `last`, which may come sooner than a step: a vector that overlaps the one before.

    Compilers cannot count its turns where `last` is an argument. What they can count they unroll, which makes these functions
    several times as long, and slower for the addresses that they keep.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    state, end = (T.alloc_buffer((1,), "int64") for _ in range(2))
    T.buffer_store(state, _long(first), [0])
    T.buffer_store(end, _long(last), [0])
    with T.While(state[0] <= end[0]):
        now = T.bind(state[0])
        yield now
        T.buffer_store(state, tirx.Select(now == end[0], now + 1, tirx.min(now + step, end[0])), [0])


INPUTS = ("x", "v", "held", "between"), (*PLACE, "count", "h", "w", "c", "oh", "ow", "top", "left", "line", "last")


def inputs(form: Form, lanes: int) -> str:
    """The name of the part that makes V of `count` tiles, all channels, `line` floats from one product to the next.

    A tile at an edge is copied into `held` (n n c), where zeros are around it; `between` has room for n n vectors, `last` is n - 1.
    """
    name = f"winograd_inputs_{_mark(form, lanes)}"
    _recipes[name] = partial(_inputs, name, form, lanes)
    return name


def _inputs(name: str, form: Form, lanes: int) -> Any:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    n, m = form.reads, form.outputs
    with _part(name, *INPUTS) as (builder, a):
        x, v, held, between, c = a["x"], a["v"], a["held"], a["between"], a["c"]

        def clear(row, first, end) -> None:
            with _steps(first, lanes, end - lanes) as k:
                T.buffer_store(held, wide(tirx.const(0, "float32"), lanes), [vector_of(row + k, lanes)])

        def columns(source, start, line) -> None:
            with _steps(0, 1, a["last"]) as j:
                pixel = T.bind(start + j * c)
                column = [T.bind(source[vector_of(pixel + i * line, lanes)]) for i in range(n)]
                for i, value in enumerate(form.analyse(column, T.bind)):
                    T.buffer_store(between, value, [vector_of((i * n + j) * lanes, lanes)])

        with _tiles(a, m) as (tile, image, row, column):
            row, column = T.bind(row - a["top"]), T.bind(column - a["left"])
            line = T.bind(a["w"] * c)
            start = T.bind((image * a["h"] + row) * line + column * c)
            inside = T.bind(tirx.all(row >= 0, column >= 0, row + n <= a["h"], column + n <= a["w"]))
            with T.If(tirx.Not(inside)), T.Then():
                there = T.alloc_buffer((2,), "int64")  # the floats of a row that are not padding
                T.buffer_store(there, tirx.min(tirx.max(-column, 0), n) * c, [0])
                T.buffer_store(there, tirx.max(tirx.min(a["w"] - column, n) * c, there[0]), [1])
                with _steps(0, 1, a["last"]) as i:
                    with T.If(tirx.all(row + i >= 0, row + i < a["h"])):
                        with T.Then():
                            clear(i * n * c, 0, there[0])
                            with _steps(there[0], lanes, there[1] - lanes) as k:
                                value = x[vector_of(start + i * line + k, lanes)]
                                T.buffer_store(held, value, [vector_of(i * n * c + k, lanes)])
                            clear(i * n * c, there[1], n * c)
                        with T.Else():
                            clear(i * n * c, 0, n * c)
            with _steps(0, lanes, c - lanes) as channel:
                with T.If(inside):
                    with T.Then():
                        columns(x, start + channel, line)
                    with T.Else():
                        columns(held, channel, n * c)
                with _steps(0, 1, a["last"]) as i:
                    place = T.bind(i * n * a["line"] + tile * c + channel)
                    row_ = [T.bind(between[vector_of((i * n + j) * lanes, lanes)]) for j in range(n)]
                    for j, value in enumerate(form.analyse(row_, T.bind)):
                        T.buffer_store(v, value, [vector_of(place + j * a["line"], lanes)])
    return builder.get()


PRODUCTS = ("w", "v", "p"), ("block", "blocks", "turn", "parts", "v_line", "p_line")


def products(form: Form, plan: Schedule, c: int, share: int) -> str:
    """The name of the part that makes P of `turn` tiles, in `parts` register tiles, for a block of output channels of `blocks`.

    `share` floats of the next product's weights are asked for at each step.
    """
    name = f"winograd_products_{_mark(form.products, plan.pixels, plan.vectors, plan.lanes, plan.fold, c, share)}"
    _recipes[name] = partial(_products, name, form, plan, c, share)
    return name


def _products(name: str, form: Form, plan: Schedule, c: int, share: int) -> Any:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    with _part(name, *PRODUCTS) as (builder, a):
        v, w, p = a["v"], a["w"], a["p"]
        steps, wide_ = (
            c // plan.fold,
            plan.vectors * plan.width,
        )  # of a product, and floats of weights that a step reads
        last = T.bind((a["blocks"] * form.products - 1) * steps)
        with T.serial(0, form.products) as i, T.serial(0, a["parts"]) as part:
            acc = T.alloc_buffer((plan.pixels * wide_,), "float32")
            pixel0 = T.bind(tirx.min(part * plan.pixels, a["turn"] - plan.pixels))
            each(plan, lambda pixel, lane, at_: T.buffer_store(acc, tirx.const(0, "float32"), [at_]))
            here = T.bind(i * a["v_line"] + pixel0 * c)
            step = T.bind((a["block"] * form.products + i) * steps)
            after = T.bind(tirx.min(step + steps, last) * wide_ + part * (steps * share))
            with T.serial(0, steps) as k:
                if share:
                    prefetch(w, after + k * share)
                for pixel, vector in itertools.product(range(plan.pixels), range(plan.vectors)):
                    value = spread(v, [here + pixel * c + k * plan.fold], plan.fold, plan.lanes)
                    weight = w[vector_of((step + k) * wide_ + vector * plan.width, plan.width)]
                    sums = vector_of((pixel * plan.vectors + vector) * plan.width, plan.width)
                    T.buffer_store(acc, acc[sums] + value * weight, [sums])
            to = T.bind(i * a["p_line"] + pixel0 * plan.block)
            for tile in range(plan.tile):
                value = added_up(acc[vector_of(tile * plan.width, plan.width)], plan.fold, plan.lanes)
                T.buffer_store(p, value, [vector_of(to + tile * plan.lanes, plan.lanes)])
    return builder.get()


OUTPUTS = (*PLACE, "count", "oh", "ow", "oc", "line", "block", "channel0", "last")


def outputs(form: Form, lanes: int, epilogue: tuple[Step, ...], operands: tuple[str, ...]) -> str:
    """The name of the part that makes y of `count` tiles, for `block` output channels from `channel0` on.

    `operands` are the names of what the epilogue reads.
    """
    name = f"winograd_outputs_{_mark(form, lanes, epilogue, operands)}"
    _recipes[name] = partial(_outputs, name, form, lanes, epilogue, operands)
    return name


def _outputs(name: str, form: Form, lanes: int, epilogue: tuple[Step, ...], operands: tuple[str, ...]) -> Any:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    n, m = form.reads, form.outputs
    with _part(name, ("y", "p", "between", *operands), OUTPUTS) as (builder, a):
        p, between, y, oc = a["p"], a["between"], a["y"], a["oc"]
        extra = [a[key] for key in operands]
        with _tiles(a, m) as (tile, image, row, column):
            down, across = T.bind(tirx.min(m, a["oh"] - row)), T.bind(tirx.min(m, a["ow"] - column))
            first = T.bind(((image * a["oh"] + row) * a["ow"] + column) * oc + a["channel0"])
            with _steps(0, lanes, a["block"] - lanes) as k:
                with _steps(0, 1, a["last"]) as j:
                    start = T.bind(j * a["line"] + tile * a["block"] + k)
                    column_ = [T.bind(p[vector_of(start + i * n * a["line"], lanes)]) for i in range(n)]
                    for i, value in enumerate(form.combine(column_, T.bind)):
                        T.buffer_store(between, value, [vector_of((i * n + j) * lanes, lanes)])
                with _steps(0, 1, down - 1) as i:
                    row_ = [T.bind(between[vector_of((i * n + j) * lanes, lanes)]) for j in range(n)]
                    offset = T.bind(first + i * (a["ow"] * oc) + k)
                    channel = vector_of(a["channel0"] + k, lanes)
                    for j, value in enumerate(form.combine(row_, T.bind)):
                        with T.If(across > j), T.Then():
                            where = vector_of(offset + j * oc, lanes)
                            value = float_steps("float32", epilogue, value, iter(extra), channel, where)
                            T.buffer_store(y, value, [where])
    return builder.get()
