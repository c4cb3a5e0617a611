"""Targets: one table entry each, with the machine facts that schedules and the linker need. No tvm here.

To add a target, add a row to TARGETS; docs/codegen.md says what each field means.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, replace
from typing import Any

from onnxc.ir.errors import BadOption, Unsupported
from onnxc.runtime.toolchain import TOOLCHAINS, Toolchain, host_features


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    `lanes` and `registers` count float32 lanes of a vector register and vector registers. `wide_cost` is the cycles
    one full-width fused multiply-add occupies, in units of half a cycle. `tvm` is TVM's target as (key, value) pairs;
    `arch` names the row of runtime.toolchain that links and runs, `needs` the features of /proc/cpuinfo without which
    a host cannot run it. For a `compact` library kernels keep weights in no form that takes more room than they came in;
    for a `small` one C code takes few bytes rather than little time, and a `portable` one has C code alone. Kernels take the
    tile of this `rank` by predicted cycles: 0 but where others are tried (`codegen.candidates`). Of processors without an operating
    system `waits` are the wait states of flash, `fetch` the bytes that a read of it brings, `cache` those of a cache before it, and
    `prefetch` is 1 where the next are fetched meanwhile (`codegen.micro.waits`).
    """

    name: str
    lanes: int
    registers: int
    wide_cost: int
    tvm: tuple[tuple[str, object], ...]
    arch: str
    about: str = ""
    needs: tuple[str, ...] = ()
    compact: bool = False
    small: bool = False
    rank: int = 0
    portable: bool = False
    waits: int = 0
    fetch: int = 16
    cache: int = 0
    prefetch: int = 0

    def tvm_dict(self) -> dict[str, object]:
        """TVM's target as the dictionary that `tvm.target.Target` takes."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.tvm}

    @property
    def micro(self) -> bool:
        """Whether 8-bit layers are C code that all of them share (`codegen.micro`): machines without an operating system."""
        return self.toolchain.bare or self.toolchain.small

    @property
    def fpu(self) -> bool:
        """Whether it multiplies float32 by an instruction."""
        return not self.micro or dict(self.tvm).get("mfloat-abi") == "hard"

    @property
    def helium(self) -> bool:
        """Whether C code for it takes Arm's vectors of microcontrollers (MVE)."""
        return dict(self.tvm).get("mcpu") in ("cortex-m55", "cortex-m85")

    @property
    def toolchain(self) -> Toolchain:
        """Who links and runs it."""
        return TOOLCHAINS[self.arch]


def _llvm(triple: str, cpu: str, *features: str, **more: object) -> tuple[tuple[str, object], ...]:
    row: tuple[tuple[str, object], ...] = (("kind", "llvm"), ("mtriple", triple), ("mcpu", cpu))
    row += (("mattr", features),) if features else ()
    return row + tuple((key.replace("_", "-"), value) for key, value in more.items())


# All four parts: with three LLVM takes the last for the system, and calls 32-bit Arm's functions by the wrong convention.
_X86, _ARM64 = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
_ARM, _RISCV = "armv7-unknown-linux-gnueabihf", "riscv64-unknown-linux-gnu"
_RV64GC = ("+m", "+a", "+f", "+d", "+c")
_V2 = ("sse4_1", "sse4_2", "ssse3", "popcnt")
_V3 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_ICELAKE = (*_V4, "avx512_vpopcntdq", "avx512_vnni", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "gfni", "vaes")
_A76 = ("atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
_ZNVER4 = (*_ICELAKE, "avx512_bf16", "sha_ni", "sse4a", "fsrm")


def _cortex_m(name: str, triple: str, about: str, *features: str) -> Target:
    floats = {"mfloat_abi": "hard" if triple.endswith("hf") else "soft", "vector_width": 128}
    return Target(
        name,
        1,
        32,
        2,
        _llvm(f"{triple.split('-')[0]}-unknown-none-gnu{triple.split('-')[1]}", name, *features, **floats),
        name,
        about,
    )


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64-v2", 4, 16, 1, _llvm(_X86, "x86-64-v2"), "x86_64", "SSE 4.2", _V2),
        Target("x86-64-v3", 8, 16, 1, _llvm(_X86, "x86-64-v3"), "x86_64", "AVX2", _V3),
        Target("x86-64-v4", 16, 32, 2, _llvm(_X86, "x86-64-v4", "-prefer-256-bit"), "x86_64", "AVX-512", _V4),
        Target("icelake", 16, 32, 2, _llvm(_X86, "icelake-server", "-prefer-256-bit"), "x86_64",
               "AVX-512 with VNNI and VPOPCNTDQ", _ICELAKE),
        Target("znver4", 16, 32, 2, _llvm(_X86, "znver4"), "x86_64", "AMD Zen 4", _ZNVER4),
        Target("aarch64", 4, 32, 1, _llvm(_ARM64, "generic"), "aarch64", "any 64-bit Arm"),
        Target("cortex-a53", 4, 32, 2, _llvm(_ARM64, "cortex-a53"), "aarch64", "Raspberry Pi 3"),
        Target("cortex-a72", 4, 32, 1, _llvm(_ARM64, "cortex-a72"), "aarch64", "Raspberry Pi 4"),
        Target("cortex-a76", 4, 32, 1, _llvm(_ARM64, "cortex-a76"), "aarch64", "Raspberry Pi 5", _A76),
        Target("armv7", 4, 16, 2, _llvm(_ARM, "generic", "+v7", "+neon", mfloat_abi="hard"), "armv7",
               "32-bit Arm with NEON"),
        Target("cortex-a7", 4, 16, 2, _llvm(_ARM, "cortex-a7", "+neon", mfloat_abi="hard"), "armv7",
               "Raspberry Pi 2", ("vfpv4", "idiva", "idivt")),
        Target("cortex-a9", 4, 16, 2, _llvm(_ARM, "cortex-a9", "+neon", mfloat_abi="hard"), "armv7", "Zynq-7000"),
        Target("riscv64", 1, 32, 2, _llvm(_RISCV, "generic-rv64", *_RV64GC, mabi="lp64d"), "riscv64", "RV64GC"),
        Target("riscv64-v", 4, 32, 2, _llvm(_RISCV, "generic-rv64", *_RV64GC, "+v", mabi="lp64d"), "riscv64",
               "RV64GCV, vectors of 128 bits or more", ("v",)),
        Target("wasm32", 4, 16, 2, _llvm("wasm32-unknown-wasi", "generic", "+simd128", vector_width=128), "wasm32",
               "WebAssembly with SIMD"),
        Target("rv32imc", 1, 32, 2, _llvm("riscv32-unknown-none-elf", "generic-rv32", "+m", "+c", mabi="ilp32"), "rv32imc",
               "RV32IMC without an operating system or FPU: ESP32-C3"),
        _cortex_m("cortex-m0", "thumbv6m-eabi", "bare metal, no FPU"),
        _cortex_m("cortex-m0plus", "thumbv6m-eabi", "bare metal, no FPU"),
        _cortex_m("cortex-m3", "thumbv7m-eabi", "bare metal, no FPU"),
        _cortex_m("cortex-m4", "thumbv7em-eabihf", "bare metal, DSP, single-precision FPU"),
        _cortex_m("cortex-m7", "thumbv7em-eabihf", "bare metal, DSP, double-precision FPU"),
        _cortex_m("cortex-m33", "thumbv8m.main-eabihf", "bare metal, DSP, single-precision FPU"),
        _cortex_m("cortex-m55", "thumbv8.1m.main-eabihf", "bare metal, Helium; Cortex-M85 too"),
    )
}  # fmt: skip
LINUX_NAMES: dict[str, tuple[str, ...]] = {
    "dotprod": ("asimddp",), "fullfp16": ("asimdhp", "fphp"), "lse": ("atomics",), "rdm": ("asimdrdm",), "sve": ("sve",),
    "avxvnni": ("avx_vnni",), "avx512vnni": ("avx512_vnni",), "avx512vpopcntdq": ("avx512_vpopcntdq",),
    "avx512bitalg": ("avx512_bitalg",), "avx512vbmi": ("avx512vbmi",), "gfni": ("gfni",), "fma": ("fma",),
}  # fmt: skip
"""LLVM's features that Linux reports, by their names in /proc/cpuinfo."""
_FLASH = {"waits": 64, "fetch": 64, "cache": 1 << 24, "prefetch": 1}  # and the greatest values
_KEYS = ("mcpu", "mattr", "lanes", "registers", *_FLASH)


def resolve(name: str) -> Target:
    """The target called `name`; "native" is this machine, by the features its kernel reports.

    `name` may go on with `,key=value` parts, or consist of them with `base=`: mcpu and mattr (`+dotprod:+fp16`) are LLVM's,
    lanes and registers replace the row's; waits, fetch, cache and prefetch say how flash is read.
    `cortex-a72,mcpu=neoverse-n1,mattr=+dotprod`.

    Raises BadOption for an unknown name or key, Unsupported for a host that has no row.
    """
    first, *parts = name.split(",")
    if "=" in first:
        first, parts = "", name.split(",")
    changes = dict(_pair(part) for part in parts)
    row = changes.pop("base", first)
    if (first and row != first) or not row:
        raise BadOption(f"the target {name!r} needs one base", expected="a name first, or base=NAME once")
    if row == "native":
        target = _native()
    elif row in TARGETS:
        target = TARGETS[row]
    else:
        raise BadOption(f"no target {row!r}", expected="one of native, " + ", ".join(TARGETS))
    return replace(_changed(target, changes), name=name) if changes else target


def _pair(part: str) -> tuple[str, str]:
    key, mark, value = part.partition("=")
    if not (mark and value) or key not in (*_KEYS, "base"):
        raise BadOption("a part of --target does not fit", expected=f"{'|'.join(_KEYS)}=value", found=part)
    return key, value


def _changed(target: Target, changes: dict[str, str]) -> Target:
    tvm = dict(target.tvm)
    if "mcpu" in changes:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", changes["mcpu"]):
            raise BadOption("mcpu is no name", found=changes["mcpu"])
        tvm["mcpu"] = changes["mcpu"]
    if "mattr" in changes:
        features = changes["mattr"].split(":")
        if not all(re.fullmatch(r"[+-][A-Za-z0-9_.-]+", feature) for feature in features):
            raise BadOption("mattr does not fit", expected="+feature or -feature, joined by :", found=changes["mattr"])
        own = tvm.get("mattr", ())
        tvm["mattr"] = (*(own if isinstance(own, (list, tuple)) else ()), *features)
    sizes = {"lanes": target.lanes, "registers": target.registers}
    for key in sizes:
        if key in changes:
            value = changes[key]
            if not value.isdigit() or not 1 <= int(value) <= 64 or int(value) & (int(value) - 1):
                raise BadOption(f"{key} does not fit", expected="a power of two up to 64", found=value)
            sizes[key] = int(value)
    target = replace(target, lanes=sizes["lanes"], registers=sizes["registers"], **_flash(target, changes))
    return replace(target, tvm=tuple(tvm.items()), needs=_needs(target, changes))


def _flash(target: Target, changes: dict[str, str]) -> dict[str, Any]:
    """How flash is read, in whole numbers."""
    found: dict[str, Any] = {}
    for key, most in _FLASH.items():
        if key not in changes:
            continue
        value, least = changes[key], int(key == "fetch")
        if not target.micro:
            raise BadOption(f"{key} is of flash, which {target.name} does not run from", remedy="leave it out")
        if not value.isdigit() or not least <= int(value) <= most:
            raise BadOption(f"{key} does not fit", expected=f"a whole number from {least} to {most}", found=value)
        found[key] = int(value)
    return found


def _needs(target: Target, changes: dict[str, str]) -> tuple[str, ...]:
    """What a host needs for the changed target; nothing is known of another CPU or of features without an entry."""
    added = [word[1:] for word in changes.get("mattr", "").split(":") if word.startswith("+")]
    if "mcpu" in changes or not all(feature in LINUX_NAMES for feature in added):
        return ()
    more = [name for feature in added for name in LINUX_NAMES[feature]]
    return tuple(dict.fromkeys([*target.needs, *more]))


def _native() -> Target:
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return replace(TARGETS[_x86_level(host_features())], name="native")
    if machine == "aarch64":
        row = "cortex-a76" if set(_A76) <= host_features() else "aarch64"
        return replace(TARGETS[row], name="native")
    if machine == "armv7l":
        return replace(TARGETS["armv7"], name="native")
    if machine == "riscv64":
        return replace(TARGETS["riscv64-v" if "v" in host_features() else "riscv64"], name="native")
    raise Unsupported(f"no native target for a {machine} host", remedy="name one of " + ", ".join(TARGETS))


def _x86_level(flags: frozenset[str]) -> str:
    """The best row for x86 feature flags; a hypervisor may hide what the model name promises, so flags decide."""
    for name in ("znver4", "icelake", "x86-64-v4", "x86-64-v3"):
        if set(TARGETS[name].needs) <= flags:
            return name
    return "x86-64-v2"


def runs_here(target: Target) -> bool:
    """Whether this machine runs its libraries without an emulator."""
    return target.toolchain.native and set(target.needs) <= host_features()


def missing_tools(target: Target) -> list[str]:
    """Commands that install what this machine lacks to link for `target` and to run what it made; [] if nothing."""
    wanted = []
    toolchain = target.toolchain
    if not any(linker.found() for linker in toolchain.choices()):
        wanted.append(toolchain.choices()[0].install)
    if toolchain.runner() is None:
        wanted.append(f"apt-get install {toolchain.emulator_package}")
    return wanted


def list_targets() -> list[dict[str, object]]:
    """A row a target: name, about, lanes, tvm, linker, how it runs here, and what to install.

    `links` is the linker that would be used or None; `runs` is "here", the emulator's name, or None.
    """
    rows = []
    for target in [resolve("native"), *TARGETS.values()]:
        toolchain = target.toolchain
        linker = next((linker.compiler for linker in toolchain.choices() if linker.found()), None)
        emulator = toolchain.emulator[0] if not toolchain.native and toolchain.runner() is not None else None
        rows.append({
            "name": target.name, "about": target.about, "lanes": target.lanes, "tvm": target.tvm_dict(),
            "links": linker, "runs": "here" if runs_here(target) else emulator, "install": missing_tools(target),
        })  # fmt: skip
    return rows
