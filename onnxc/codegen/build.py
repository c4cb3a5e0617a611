"""From kernels, plan and weights to files: C sources, one object each, shared and static library, header, example.

Everything is made with relative names inside one folder, so that no path enters a library.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from onnxc.codegen import cexample, csource
from onnxc.codegen.arena import aligned
from onnxc.codegen.plan import Plan
from onnxc.codegen.static import StaticModel
from onnxc.codegen.target import Target
from onnxc.codegen.weights import SCRATCH_BYTES, Weights
from onnxc.ir.errors import MissingTool
from onnxc.runtime.emulate import build_program, run_tool
from onnxc.runtime.toolchain import Linker

C_DIR = Path(__file__).parent.parent / "runtime" / "c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Layout:
    """The arena, in bytes from its start: handle, decoded weights, then buffers, over the decoder's scratch memory."""

    decoded: int
    buffers: int
    total: int


def lay_out_arena(plan: Plan, workspaces: dict[str, int], weights: Weights) -> Layout:
    """Settles `plan` in an arena. Scratch memory is needed before the first run only, so buffers may lie over it."""
    decoded = csource.HEAD
    buffers = decoded + weights.decoded_bytes
    plan.settle(workspaces, buffers)
    scratch = aligned(SCRATCH_BYTES) if weights.segments else 0
    return Layout(decoded, buffers, buffers + max(plan.arena, scratch))


def write_sources(
    work: Path, name: str, static: StaticModel, plan: Plan, weights: Weights, layout: Layout, goal: Target
):
    """Writes C sources, weights, header and example into `work`. Returns the Interface."""
    face = csource.Interface(name, tuple(static.inputs), tuple(static.outputs), layout.total)
    chain = goal.toolchain
    texts = {
        f"{name}.h": csource.header(face),
        f"{name}.c": csource.source(face, plan, weights, layout.decoded, layout.buffers),
        "weights.S": csource.weights_source(name, "weights.bin", chain.name),
        "exports.map": csource.exports(name),
        "example/main.c": cexample.main_source(face),
        "example/CMakeLists.txt": cexample.cmake(face, chain),
    }
    if chain.bare:
        texts |= {"example/startup.c": cexample.STARTUP, "example/board.ld": cexample.board(chain)}
    (work / "example").mkdir()
    for file, text in texts.items():
        (work / file).write_text(text, encoding="ascii")
    if weights.segments:
        for file in ("decode.c", "decode.h"):
            shutil.copy(C_DIR / file, work / file)
    with open(work / "weights.bin", "wb") as file:
        for chunk in weights.chunks():
            file.write(chunk)
    return face


def link(work: Path, name: str, goal: Target, linker: Linker, coded: bool) -> list[str]:
    """Makes the libraries in `work` from its sources and kernels.o. Returns their names, the one to load first.

    Raises Unsupported where the kernels need a function that libc and libm lack, MissingTool for any other failure.
    """
    chain, cc = goal.toolchain, linker.command()
    flags = ["-std=c99", "-O2", "-g0", *(["-fPIC"] if "so" in chain.libraries else [])]
    objects = ["kernels.o", f"{name}.o", "weights.o"]
    run_tool([*cc, *flags, *WARNINGS, "-c", f"{name}.c", "-o", f"{name}.o"], work)
    run_tool([*cc, "-c", "weights.S", "-o", "weights.o"], work)
    if coded:
        own = [f"-Donnxc_decode={name}_decode", f"-Donnxc_decode_slab={name}_decode_slab"]
        run_tool([*cc, *flags, *own, "-c", "decode.c", "-o", "decode.o"], work)
        objects.append("decode.o")
    made = []
    if "so" in chain.libraries:
        options = ["-shared", "-s", "-Wl,--build-id=none", "-Wl,-z,defs", "-Wl,-z,noexecstack"]
        options += ["-Wl,--version-script=exports.map"]
        run_tool([*cc, *options, *objects, "-lm", "-o", f"lib{name}.so"], work)
        made.append(f"lib{name}.so")
    run_tool([*linker.archiver(), "rcsD", f"lib{name}.a", *objects], work)
    made.append(f"lib{name}.a")
    return made


def check_static(work: Path, name: str, goal: Target, program: bool) -> list[str]:
    """Links the example program; its name if it is wanted. Where there is no shared library this shows missing functions.

    A program that does not fit the example's board is no reason to refuse a library: then only `program` raises.
    """
    chain = goal.toolchain
    file = f"run_{name}{chain.suffix}"
    if not program and "so" in chain.libraries:
        return []
    try:
        build_program(work, name, chain, work / file)
    except MissingTool:
        if program:
            raise
    return [file] if program else []
