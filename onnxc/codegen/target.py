"""Targets: one table entry each, with the machine facts that schedules and the linker need. No tvm here.

To add a target, add a row to TARGETS; docs/codegen.md says what each field means.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace

from onnxc.ir.errors import BadOption, MissingTool, Unsupported


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    `lanes` and `registers` count float32 lanes of a vector register and vector registers. `wide_cost` is the cycles
    one full-width fused multiply-add occupies, in units of half a cycle. `tvm` is TVM's target as (key, value) pairs;
    `cc` is the C compiler that assembles and links, `package` the Debian package that has it.
    """

    name: str
    lanes: int
    registers: int
    wide_cost: int
    tvm: tuple[tuple[str, object], ...]
    cc: str
    package: str

    def tvm_dict(self) -> dict[str, object]:
        """TVM's target as the dictionary that `tvm.target.Target` takes."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.tvm}

    def compiler(self) -> str:
        """Path of the C compiler; for the native target the environment variable CC overrides it.

        Raises MissingTool, which names the Debian package to install.
        """
        wanted = os.environ.get("CC", self.cc) if self.cc == "gcc" else self.cc
        found = shutil.which(wanted)
        if found is None:
            raise MissingTool(
                f"target {self.name} needs the C compiler {wanted}, which is not installed",
                remedy=f"install it: apt-get install {self.package}",
            )
        return found


def _llvm(triple: str, cpu: str, *features: str) -> tuple[tuple[str, object], ...]:
    row: tuple[tuple[str, object], ...] = (("kind", "llvm"), ("mtriple", triple), ("mcpu", cpu))
    return (*row, ("mattr", features)) if features else row


_X86 = "x86_64-linux-gnu"
_ARM64 = "aarch64-linux-gnu"

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64-v2", 4, 16, 1, _llvm(_X86, "x86-64-v2"), "gcc", "gcc"),
        Target("x86-64-v3", 8, 16, 1, _llvm(_X86, "x86-64-v3"), "gcc", "gcc"),
        Target("x86-64-v4", 16, 32, 2, _llvm(_X86, "x86-64-v4", "-prefer-256-bit"), "gcc", "gcc"),
        Target("znver4", 16, 32, 2, _llvm(_X86, "znver4"), "gcc", "gcc"),
        Target("cortex-a72", 4, 32, 1, _llvm(_ARM64, "cortex-a72"), "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    )
}


def resolve(name: str) -> Target:
    """The target called `name`; "native" is this machine, by the features its kernel reports.

    Raises BadOption for an unknown name, Unsupported for a host that has no row.
    """
    if name == "native":
        return _native()
    if name not in TARGETS:
        raise BadOption(f"no target {name!r}", expected="one of native, " + ", ".join(TARGETS))
    target = TARGETS[name]
    if target.cc != "gcc" and platform.machine() == "aarch64":
        return replace(target, cc="gcc", package="gcc")
    return target


def _native() -> Target:
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return replace(TARGETS[_x86_level(_cpu_flags())], name="native")
    if machine == "aarch64":
        return replace(TARGETS["cortex-a72"], name="native", cc="gcc", package="gcc")
    raise Unsupported(f"no native target for a {machine} host", remedy="name one of " + ", ".join(TARGETS))


def _x86_level(flags: frozenset[str]) -> str:
    """The best row for x86 feature flags; a hypervisor may hide what the model name promises, so flags decide."""
    zen4 = {"avx512_vpopcntdq", "avx512_vnni", "avx512_bf16", "avx512vbmi", "sha_ni", "gfni", "sse4a", "vaes", "fsrm"}
    if zen4 <= flags:
        return "znver4"
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= flags:
        return "x86-64-v4"
    if {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"} <= flags:
        return "x86-64-v3"
    return "x86-64-v2"


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.split(":", 1)[1].split())
    except OSError:
        return frozenset()
    return frozenset()
