"""A second library whose calls are timed, in `profile/` beside the one that is shipped, which has nothing of it.

    profile/libnet.so  profile/net.h  profile/manifest.json

The same kernels and weights; its C reads the clock before the first call and behind each (`body.LAPS`). Its manifest has a row for
each call (`onnxc.codegen.layers.CallRow`), for each program: `calls`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxc.codegen.c.build import PARTS, link, own_parts, write_sources
from onnxc.codegen.c.header import Interface
from onnxc.codegen.c.source import Layout
from onnxc.codegen.manifest import write_manifest
from onnxc.codegen.memory.weights import Weights
from onnxc.codegen.program import Program
from onnxc.codegen.target import Target
from onnxc.ir.errors import Unsupported

TIMED = "profile"


def check_timed(targets: Sequence[Target]) -> None:
    """Raises Unsupported for a machine that is not this one, or has no shared libraries."""
    goal = targets[0]
    if not goal.toolchain.native or "so" not in goal.toolchain.libraries:
        raise Unsupported(
            f"a profile of a library for {goal.name}, which does not run here", expected="a target of this machine",
            remedy="leave out --profile; compile for native to see where the time goes",
        )  # fmt: skip


def timed_files(name: str) -> tuple[str, str, str]:
    """The files in `profile/`."""
    return f"lib{name}.so", f"{name}.h", "manifest.json"


def write_timed(
    work: Path,
    face: Interface,
    programs: Sequence[Program],
    weights: Weights,
    layout: Layout,
    targets: Sequence[Target],
    kernels: Sequence[str],
    manifest: dict[str, Any],
) -> None:
    """Makes the timed library of the objects `kernels` in `work`, in a folder there."""
    folder, made = work / f"{TIMED}-build", work / TIMED
    (folder / PARTS).mkdir(parents=True)
    for file in kernels:
        os.link(work / file, folder / file)
    write_sources(folder, face, programs, weights, layout, targets, timed=True)
    toolchain = targets[0].toolchain
    link(folder, face.name, toolchain, toolchain.linker(), list(kernels), weights, own_parts(face, weights))
    rows = [[row.to_dict() for row in program.rows] for program in programs]
    timed = manifest | {"libraries": [f"lib{face.name}.so"], "program": None, "calls": rows}
    write_manifest(folder, timed)
    made.mkdir()
    for file in timed_files(face.name):
        os.replace(folder / file, made / file)
    shutil.rmtree(folder)
