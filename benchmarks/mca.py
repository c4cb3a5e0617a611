"""Inner loops of the AArch64 kernels in llvm-mca: multiply-adds a cycle, and their share of the machine's limit.

    PYTHONPATH=. python benchmarks/mca.py

Compiles kernels for Cortex-A72 and Cortex-A76, cuts the innermost loop with the most counting or multiplying instructions
out of the object (binutils), and has llvm-mca (Debian's package `llvm`) simulate it. Limits: 85.3 binary multiply-adds a
cycle (eor, cnt, add on two pipes of 128 bits), 64 by lookup (tbl, add; on A72 32, as its tbl takes a pipe for three cycles); of int8 8
with smull, smlal and smlal2 on one pipe, 32 with sdot on two; of float32 4 with fmla, which takes one of two pipes for two cycles, in
Winograd's products. LLVM 19 has the pipes of Cortex-A57 for A72, and those of Neoverse N1 for A76.
Writes benchmarks/results/mca.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.kernels import choose
from onnxc.codegen.kernels.spec import BINARY, FLOAT32, UINT8, Encoding, KernelSpec
from onnxc.codegen.match.quantised import NARROW
from onnxc.codegen.target import resolve

RESULTS = Path(__file__).parent / "results" / "mca.json"
LAYERS = {
    "64 channels, 56 x 56": (56, 64),
    "128, 28 x 28": (28, 128),
    "256, 14 x 14": (14, 256),
    "512, 7 x 7": (7, 512),
}
EPILOGUE = (("int_bias",), ("mul",), ("quantize", 0.0, 255.0, 0))
KINDS = {
    "binary": (BINARY, BINARY, (), None),
    "2-bit x 1-bit": (Encoding("bits", 2, "unsigned"), BINARY, (), None),
    "3-bit x 1-bit": (Encoding("bits", 3, "unsigned"), BINARY, (), None),
    "int8": (UINT8, NARROW, EPILOGUE, UINT8),
    "float32": (FLOAT32, FLOAT32, (("bias",), ("relu",)), None),
}
# by family: the instructions that count, multiply-adds in one, and the most in a cycle by core (of bits.bytes for one plane of x)
LIMITS = {
    "bits.bytes": ("cnt", 128, {"cortex-a72": 85.3, "cortex-a76": 85.3}),
    "bits.lookup": ("tbl", 64, {"cortex-a72": 32.0, "cortex-a76": 64.0}),
    "int8.direct.smlal": ("smull2?|smlal2?", 8, {"cortex-a72": 8.0, "cortex-a76": 8.0}),
    "int8.direct.sdot": ("sdot", 16, {"cortex-a72": 32.0, "cortex-a76": 32.0}),
    "float32": ("fmla", 4, {"cortex-a72": 4.0, "cortex-a76": 8.0}),
}
CORES = {"cortex-a72": "cortex-a72", "cortex-a76": "neoverse-n1"}  # as llvm-mca knows their pipes
TARGETS = {"cortex-a72": "cortex-a72", "cortex-a76": "cortex-a76,mattr=+dotprod"}


def layer(kind: str, extent: int, c: int) -> KernelSpec:
    """A 3x3 layer of ResNet-18."""
    x, w, steps, y = KINDS[kind]
    shape = (1, extent, extent, c)
    spec = KernelSpec(
        n=1, h=extent, w=extent, c=c, oc=c, kh=3, kw=3, stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1), groups=1,
        x_shape=shape, y_shape=shape, epilogue=steps, activation=x, weight=w,
    )  # fmt: skip
    return spec if y is None else KernelSpec(**{**vars(spec), "output": y})


def loops(listing: str) -> list[list[str]]:
    """The bodies of innermost loops in a disassembly: from the target of a backward branch to the branch. Parts of a kernel count."""
    listing = listing.split("section .text:")[1].split("Disassembly")[0]
    rows = re.findall(r"^\s*([0-9a-f]+):\s+(\S[^\n]*)$", listing, re.M)
    at = {int(address, 16): i for i, (address, _) in enumerate(rows)}
    found = []
    for i, (address, text) in enumerate(rows):
        branch = re.match(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+([0-9a-f]+) <", text.replace("\t", " "))
        start = at.get(int(branch.group(1), 16)) if branch else None
        if start is not None and int(branch.group(1), 16) <= int(address, 16):
            found.append((start, i))
    inner = [(a, b) for a, b in found if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)]
    return [
        [re.sub(r"[0-9a-f]+ <.*>", "loop", re.sub(r"\s*//.*", "", text)) for _, text in rows[a : b + 1]]
        for a, b in inner
    ]


def measure(spec: KernelSpec, core: str, mca: str) -> dict:
    """One row: multiply-adds a cycle of the hottest loop, and its share of the limit."""
    target = resolve(TARGETS[core])
    family, plan, _ = choose(spec, target)
    wanted, each, limits = next(row for name, row in LIMITS.items() if plan.rule.startswith(name))
    planes = spec.activation.bits if family.name == "bits.bytes" else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_functions({"kernel": family.emit(spec, plan, "kernel")}, target, 1, folder / "k.o")
        listing = subprocess.run(
            ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", "k.o"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        counts = [(sum(bool(re.match(rf"(?:{wanted})\b", line)) for line in body), body) for body in loops(listing)]
        count, body = max(counts, key=lambda pair: pair[0])
        (folder / "loop.s").write_text("loop:\n" + "\n".join(body) + "\n")
        command = [mca, "-march=aarch64", f"-mcpu={CORES[core]}", "-iterations=200", "loop.s"]
        text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", text).group(1)) / 200
    rate, limit = count * each / planes / cycles, limits[core] / planes
    spills = sum(bool(re.match(r"(?:str|stp|ldr|ldp)\s+[^\n]*\[sp", line)) for line in body)
    return {
        "schedule": plan.text(), "instructions": len(body), "spills": spills, "cycles": round(cycles, 1),
        "macs_per_cycle": round(rate, 1), "limit": round(limit, 1), "share": round(rate / limit, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mca", default="llvm-mca", help="the program, of LLVM 17 or newer")
    mca = parser.parse_args().mca
    version = subprocess.run([mca, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"LLVM version (\d+)\S*", version)
    if not found or int(found[1]) < 17:
        sys.exit(f"{mca} does not know the pipes of Neoverse N1: take one of LLVM 17 or newer")
    rows = []
    for kind in KINDS:
        for core in TARGETS:
            for label, (extent, c) in LAYERS.items():
                rows.append({"kind": kind, "core": core, "layer": label, **measure(layer(kind, extent, c), core, mca)})
                row = "{kind:14} {core:11} {layer:22} {macs_per_cycle:6} of {limit:5}  {share:.0%}  {schedule}"
                print(row.format(**rows[-1]), flush=True)
    RESULTS.write_text(json.dumps({"llvm_mca": found[0].split()[-1], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
