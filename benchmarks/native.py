"""Kernels as callables, on one thread or several, and what the machine can do at best: counting bits, moving floats."""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onnxc.codegen.c.function import CFunction, compile_functions
from onnxc.codegen.kernels.spec import KernelSpec, Schedule
from onnxc.codegen.kernels.tile import at, each
from onnxc.codegen.target import Target

C = Path(__file__).parents[1] / "onnxc/runtime/c"
STEPS, TILE = 20_000, Schedule("ceiling", 7, 2, 8)
COUNTED = STEPS * TILE.pixels * TILE.block * 64  # bits that `ceiling` counts
LANES, STREAMS = 16, 4
DRIVER = """#include "pool.h"
@declare@
static onnxc_pool pool;
static void **p;
static void work(void *context, int phase, int task, int tasks, int worker) {
  (void)context;
  switch (phase) {
@cases@
  }
}
int start(int threads) { return onnxc_pool_start(&pool, threads, work, 0); }
void stop(void) { onnxc_pool_stop(&pool); }
@runs@
void run_all(void (**functions)(void **), void ***operands, int count) {
  for (int i = 0; i < count; i++) functions[i](operands[i]);
}
"""


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    made = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def ceiling():
    """xor, popcount and add on 14 accumulators, operands in registers and the first cache lines."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("ceiling")
        x, w = (T.arg(name, T.buffer((16,), "uint64")) for name in "xw")
        y = T.arg("y", T.buffer((TILE.pixels * TILE.block,), "int64"))
        T.func_attr({"tirx.noalias": True})
        acc = T.alloc_buffer((TILE.pixels * TILE.block,), "int64")
        each(TILE, lambda p, c, i: T.buffer_store(acc, tirx.const(0, "int64"), [i]))
        with T.serial(0, STEPS) as k:

            def step(p, c, i):
                found = tirx.popcount(x[(k + p) % 16] ^ w[c])
                T.buffer_store(acc, acc[i] + tirx.Cast("int64", found), [i])

            each(TILE, step)
        each(TILE, lambda p, c, i: T.buffer_store(y, acc[i], [i]))
    return builder.get()


def ceiling_operands() -> list[np.ndarray]:
    """What `ceiling` is called with."""
    return [aligned(np.zeros(16, "u8")), aligned(np.zeros(16, "u8")), aligned(np.zeros(TILE.pixels * TILE.block, "i8"))]


def moves(spec: KernelSpec):
    """Reads each float that a layer needs once, then writes each float of its result once, in whole vectors.

    Operands x, y, and a few numbers for what has been read. A 1x1 kernel with strides needs the pixels that it steps on.
    """
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    down, across = spec.stride if spec.kh == 1 else (1, 1)
    rows, columns = -(-spec.h // down), -(-spec.w // across)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("moves")
        x, y = T.arg("x", T.buffer(spec.x_shape, "float32")), T.arg("y", T.buffer(spec.y_shape, "float32"))
        rest = T.arg("rest", T.buffer((STREAMS * LANES,), "float32"))
        T.func_attr({"tirx.noalias": True})
        acc = T.alloc_buffer((STREAMS * LANES,), "float32")

        def vector(start):
            return tirx.Ramp(start, 1, LANES)

        for i in range(STREAMS):
            T.buffer_store(acc, tirx.Broadcast(tirx.const(0, "float32"), LANES), [vector(i * LANES)])
        # The pixels of a row lie together where none is left out: then a row is read as one run of vectors.
        runs, run = (columns, spec.c) if across > 1 else (1, columns * spec.c)
        streams = math.gcd(run // LANES, STREAMS)
        with T.grid(rows, runs) as (row, column):
            start = (row * down * spec.w + column * across) * spec.c
            with T.serial(0, run // (streams * LANES)) as k:
                for i in range(streams):
                    here = vector(i * LANES)
                    value = x[at(x, vector(start + (k * streams + i) * LANES))]
                    T.buffer_store(acc, tirx.max(acc[here], value), [here])
        for i in range(STREAMS):
            T.buffer_store(rest, acc[vector(i * LANES)], [vector(i * LANES)])
        with T.serial(0, spec.oh * spec.ow * spec.oc // LANES) as k:
            T.buffer_store(y, tirx.Broadcast(tirx.const(1, "float32"), LANES), at(y, vector(k * LANES)))
    return builder.get()


class Kernels:
    """Kernels of one target in a library, for at most `threads` threads; calls are not checked."""

    def __init__(self, functions: dict, target: Target, threads: int = 1):
        self.pointers = {name: len(function.params) for name, function in functions.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            self.made = compile_functions(functions, target, threads, path / "k.o")
            (path / "driver.c").write_text(driver(self.made, self.pointers))
            sources = [path / "k.o", path / "driver.c", C / "pool.c"]
            flags = ["-O2", "-fPIC", "-shared", "-pthread", f"-I{C}"]
            subprocess.run(["gcc", *flags, "-o", path / "k.so", *sources, "-lm"], check=True)
            self.library = ctypes.CDLL(str(path / "k.so"))
        self.threads, self.scratch = threads, {}
        if threads > 1 and self.library.start(threads):
            raise OSError(f"the system gives no {threads} threads")

    def close(self) -> None:
        """Ends its threads."""
        if self.threads > 1:
            self.library.stop()

    def caller(self, *calls: tuple, turns: int = 1) -> Callable[[], None]:
        """`turns` times some calls (name, array, array, ...) after each other, in one call of C."""
        held, functions, operands = [], [], []
        for name, *arrays in calls * turns:
            need = self.made[name].workspace
            scratch = [self.scratch.setdefault(name, aligned(np.zeros(need, np.uint8)))] if need else []
            held.append(
                ((ctypes.c_void_p * 64)(*(array.ctypes.data for array in (*arrays, *scratch))), arrays, scratch)
            )
            functions.append(ctypes.cast(getattr(self.library, f"run_{name}"), ctypes.c_void_p).value)
            operands.append(ctypes.addressof(held[-1][0]))
        count = len(functions)
        lists = (ctypes.c_void_p * count)(*functions), (ctypes.c_void_p * count)(*operands)

        def run(held=held) -> None:  # keeps the arrays
            self.library.run_all(*lists, count)

        return run


def driver(made: dict[str, CFunction], pointers: dict[str, int]) -> str:
    """C: run_NAME(pointers) runs a kernel, its parallel phases on the threads of a pool, as a compiled library does."""
    declare, cases, runs = [], [], []
    for name, function in made.items():
        count = pointers[name] + bool(function.workspace)
        kinds = ["void *"] * count + ["int32_t"] * (4 if function.phases else 0)
        declare.append(f"void {name}({', '.join(kinds)});")
        args, lines = ", ".join(f"p[{i}]" for i in range(count)), []
        for phase, parallel in enumerate(function.phases):
            if parallel:
                lines.append(f"onnxc_pool_share(&pool, {len(cases)}, 4 * (int)pool.threads);")
                cases.append(f"    case {len(cases)}: {name}({args}, {phase}, task, tasks, worker); break;")
            else:
                lines.append(f"{name}({args}, {phase}, 0, 1, 0);")
        body = " ".join(lines) or f"{name}({args});"
        runs.append(f"void run_{name}(void **pointers) {{ p = pointers; {body} }}")
    parts = {"declare": declare, "cases": cases, "runs": runs}
    text = DRIVER
    for mark, rows in parts.items():
        text = text.replace(f"@{mark}@", "\n".join(rows))
    return text
