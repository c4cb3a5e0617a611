"""Cross tools: who compiles and links the C side for a machine, and who runs its programs here. No tvm, no onnx.

One row of TOOLCHAINS a machine. `Toolchain.linker()` takes the first linker of the row that is installed: Debian's cross
compiler, or zig from the PyPI package `ziglang`, which brings the C libraries of all machines but bare metal.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..ir.errors import MissingTool

ZIG = "zig"
ZIG_INSTALL = "pip install ziglang"


@dataclass(frozen=True)
class Linker:
    """A C compiler that also assembles and links. `compiler` "zig" is the PyPI package, with `flags` as its target; `program` are more
    flags for programs, whose C library may need more of the processor than the library that they call."""

    compiler: str
    flags: tuple[str, ...] = ()
    package: str = ""
    program: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """The command that installs it."""
        return ZIG_INSTALL if self.compiler == ZIG else f"apt-get install {self.package}"

    def found(self) -> bool:
        """Whether it is installed."""
        return find_spec("ziglang") is not None if self.compiler == ZIG else shutil.which(self.compiler) is not None

    def command(self) -> list[str]:
        """The start of a command line that compiles."""
        start = [sys.executable, "-m", "ziglang", "cc"] if self.compiler == ZIG else [self.compiler]
        return [*start, *self.flags]

    def static_command(self) -> list[str]:
        """The same for static programs: zig links glibc dynamically only, so there it takes musl."""
        command = [*self.command(), *self.program]
        return [word.replace("-linux-gnu", "-linux-musl") for word in command] if self.compiler == ZIG else command

    def archiver(self) -> list[str]:
        """The start of a command line that makes a static library: `ar` of the same tools."""
        if self.compiler == ZIG:
            return [sys.executable, "-m", "ziglang", "ar"]
        beside = self.compiler.removesuffix("gcc") + "ar" if self.compiler.endswith("-gcc") else "ar"
        return [beside if shutil.which(beside) else "ar"]


Memory = tuple[int, str]
SLACK = 1 << 26
"""Bytes that code and data other than weights may take."""


@dataclass(frozen=True)
class Toolchain:
    """A machine as a C programmer sees it.

    `machine` is what uname calls a host of this kind ("" for none), `libraries` the kinds of library to make, `emulator`
    a command that runs a static program, `suffix` the program's. `bare` means no operating system: programs need start-up
    code and a memory map, and talk to the emulator by semihosting; `small` that there is none, but that an emulator of programs for
    Linux serves as well; `flash` and `ram` are the memories of its board: where each
    begins, and its extent as linkers write it. `reach`: bytes of weights that a library can hold. `far`: prefix and flags of the section of
    many weights, which linkers put behind all that code addresses with 32 bits; none where there is no such place.
    """

    name: str
    machine: str
    linkers: tuple[Linker, ...]
    emulator: tuple[str, ...]
    emulator_package: str
    libraries: tuple[str, ...] = ("so", "a")
    suffix: str = ""
    bare: bool = False
    small: bool = False
    flash: Memory = (0, "")
    ram: Memory = (0, "")
    reach: int = (1 << 31) - SLACK
    far: tuple[str, str] | None = None

    def linker(self) -> Linker:
        """The first linker that is installed. Raises MissingTool, which names the packages to install."""
        for linker in self.choices():
            if linker.found():
                return linker
        first, *others = self.choices()
        raise MissingTool(
            f"target needs the C compiler {first.compiler}, which is not installed",
            remedy="install it: " + " or ".join([first.install, *(other.install for other in others)]),
        )

    def choices(self) -> tuple[Linker, ...]:
        """The linkers in order of preference; on a host of this kind its own compiler, which CC overrides."""
        if self.native:
            own = Linker(os.environ.get("CC") or "gcc", package="gcc")
            return (own, *(linker for linker in self.linkers if linker.compiler != "gcc"))
        return self.linkers

    @property
    def native(self) -> bool:
        """Whether programs for it run here as they are (their instruction set is another question)."""
        return bool(self.machine) and platform.machine() == self.machine and sys.platform == "linux"

    def runner(self) -> list[str] | None:
        """The command before a program, [] where none is needed, None where the emulator is not installed."""
        if self.native:
            return []
        return list(self.emulator) if shutil.which(self.emulator[0]) else None


def _linux(name: str, machine: str, gcc: str, package: str, zig: str, qemu: str, *cpu: str) -> Toolchain:
    # GCC would call libgcc for atomics on aarch64, to take newer instructions where there are some
    inline = ("-mno-outline-atomics",) if name == "aarch64" else ()
    linkers = (Linker(gcc, inline, package), Linker(ZIG, ("-target", zig)))
    # of AArch64 they lie between initialised data and those of zeros, which code addresses with 33 bits
    reach, far = {
        "x86_64": (1 << 62, (".lrodata", "al")),
        "aarch64": ((1 << 32) - SLACK, (".data.rel.ro.far", "aw")),
    }.get(name, (Toolchain.reach, None))
    return Toolchain(name, machine, linkers, (f"qemu-{qemu}-static", *cpu), "qemu-user-static", reach=reach, far=far)


def _cortex_m(name: str, fpu: str, board: str, flash: Memory, ram: Memory) -> Toolchain:
    floats = ("-mfloat-abi=hard", *([f"-mfpu={fpu}"] if fpu != "auto" else [])) if fpu else ("-mfloat-abi=soft",)
    gcc = Linker(
        "arm-none-eabi-gcc", (f"-mcpu={name}", "-mthumb", *floats), "gcc-arm-none-eabi libnewlib-arm-none-eabi"
    )
    qemu = ("qemu-system-arm", "-M", board, "-nographic", "-monitor", "none", "-serial", "none")
    return Toolchain(name, "", (gcc,), qemu, "qemu-system-arm", ("a",), ".elf", True, False, flash, ram)


TOOLCHAINS: dict[str, Toolchain] = {
    t.name: t
    for t in (
        _linux("x86_64", "x86_64", "gcc", "gcc", "x86_64-linux-gnu", "x86_64", "-cpu", "max"),
        _linux(
            "aarch64", "aarch64", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "aarch64-linux-gnu", "aarch64"
        ),
        _linux(
            "armv7", "armv7l", "arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf", "arm-linux-gnueabihf", "arm",
            "-cpu", "max",
        ),
        _linux(
            "riscv64", "riscv64", "riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu", "riscv64-linux-gnu", "riscv64",
            "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0",
        ),
        Toolchain(
            "rv32imc", "", (Linker(ZIG, ("-target", "riscv32-linux-musl", "-mcpu=generic_rv32+m+c"), "", ("-mcpu=generic_rv32+m+a+c",)),),
            ("qemu-riscv32-static",), "qemu-user-static", ("a",), small=True,
        ),
        Toolchain("wasm32", "", (Linker(ZIG, ("-target", "wasm32-wasi")),), ("node",), "nodejs", ("a",), ".wasm"),
        _cortex_m("cortex-m0", "", "microbit", (0, "256K"), (0x20000000, "16K")),
        _cortex_m("cortex-m0plus", "", "microbit", (0, "256K"), (0x20000000, "16K")),
        _cortex_m("cortex-m3", "", "mps2-an385", (0, "4M"), (0x21000000, "16M")),
        _cortex_m("cortex-m4", "fpv4-sp-d16", "mps2-an386", (0, "4M"), (0x21000000, "16M")),
        _cortex_m("cortex-m7", "fpv5-d16", "mps2-an500", (0, "4M"), (0x60000000, "16M")),
        _cortex_m("cortex-m33", "fpv5-sp-d16", "mps2-an505", (0x10000000, "4M"), (0x38000000, "4M")),
        _cortex_m("cortex-m55", "auto", "mps3-an547", (0x10000000, "512K"), (0x31000000, "4M")),
    )
}  # fmt: skip


def host_features() -> frozenset[str]:
    """CPU features by the names of /proc/cpuinfo, on RISC-V its one-letter extensions; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
            if line.startswith("isa"):  # rv64imafdcv_zicsr...
                return frozenset(line.split(":", 1)[1].strip().lower().removeprefix("rv64").split("_")[0])
    except OSError:
        return frozenset()
    return frozenset()
