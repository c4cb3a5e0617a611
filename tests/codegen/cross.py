"""Kernels of another machine, many in one program, run once in its emulator on NumPy arrays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.kernels import choose, planes
from onnxc.codegen.kernels.spec import KernelSpec
from onnxc.codegen.target import Target

from .bulk import convolve, integers

MAIN = """#include <stdio.h>
#include <stdlib.h>
static FILE *in, *out;
static void *block(size_t bytes, int fill) {
  char *raw = malloc(bytes + 192), *data = raw + 64 + (64 - (size_t)raw % 64) % 64;
  if (fill && fread(data, 1, bytes, in) != bytes) exit(3);
  return data;
}
@declare@
int main(void) {
  in = fopen("in.bin", "rb"); out = fopen("out.bin", "wb");
  if (!in || !out) return 2;
  @calls@
  return fclose(out) != 0;
}
"""


def run(functions: dict[str, object], arrays: dict[str, list[np.ndarray]], target: Target, folder: Path) -> dict:
    """Calls each function with its arrays; the last of them is the result. -> name -> result."""
    made = compile_functions(functions, target, 1, folder / "kernels.o")
    declare, calls = [], []
    for name, held in arrays.items():
        parts = [f"block({array.nbytes}, 1)" for array in held]
        need = made[name].workspace
        names = [f"a{i}" for i in range(len(parts))] + (["scratch"] if need else [])
        declare.append(f"void {name}({', '.join(['void *'] * len(names))});")
        lines = [f"void *a{i} = {part};" for i, part in enumerate(parts)]
        lines += [f"void *scratch = block({need}, 0);"] if need else []
        lines += [f"{name}({', '.join(names)}); fwrite(a{len(held) - 1}, 1, {held[-1].nbytes}, out);"]
        calls.append("{ " + " ".join(lines) + " }")
    text = MAIN.replace("@declare@", "\n".join(declare)).replace("@calls@", "\n  ".join(calls))
    (folder / "main.c").write_text(text)
    chain = target.toolchain
    command = [*chain.linker().static_command(), "-O1", "-static", "main.c", "kernels.o", "-lm", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    (folder / "in.bin").write_bytes(
        b"".join(np.ascontiguousarray(a).tobytes() for held in arrays.values() for a in held)
    )
    subprocess.run([*chain.runner(), "./main"], cwd=folder, check=True, timeout=120)
    data, at, results = (folder / "out.bin").read_bytes(), 0, {}
    for name, held in arrays.items():
        y = held[-1]
        results[name] = np.frombuffer(data, y.dtype, y.size, at).reshape(y.shape)
        at += y.nbytes
    return results


def check_integers(chosen: list[KernelSpec], target: Target, folder: Path, seed: int = 0, family=None) -> list[str]:
    """The kernels of few-bit specs for `target` give every integer; returns the rules that took them.

    `family` stands in for the choice of one.
    """
    rng = np.random.default_rng(seed)
    functions, arrays, wanted, rules = {}, {}, {}, []
    for i, spec in enumerate(chosen):
        taken, plan, _ = (family, family.schedule(spec, target), None) if family else choose(spec, target)
        x = integers(spec.activation, (spec.n, spec.h, spec.w, spec.c), rng)
        w = integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        functions[f"k{i}"] = taken.emit(spec, plan, f"k{i}")
        y = np.full(spec.y_shape, np.nan, np.float32)
        arrays[f"k{i}"] = [planes.pack_activations(spec, x), taken.pack(spec, plan, w), *taken.tables(spec, plan, w), y]
        wanted[f"k{i}"] = convolve(spec, x, w)
        rules.append(plan.rule)
    found = run(functions, arrays, target, folder)
    for i, spec in enumerate(chosen):
        assert np.array_equal(found[f"k{i}"], wanted[f"k{i}"]), spec
    return rules
