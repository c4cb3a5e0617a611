"""Inner loops of the C code of microcontrollers in llvm-mca: cycles a multiply-add on Cortex-M4, M7 and M55.

    PYTHONPATH=. python benchmarks/mca_micro.py [--mca llvm-mca-19]

Compiles `runtime/c/micro*.h` with GCC as libraries are, cuts out of each kernel the innermost loop with the most multiplications,
and has llvm-mca simulate 200 rounds of it. LLVM 19 (Debian's package `llvm-19`) has pipelines of the three processors; LLVM 14 refuses Helium.
Branches within a loop are not taken. Helium's `le` and `letp` stand in no table and are left out: from the second round on they are part of the fetch.
Loads hit: no waits for flash. LLVM's table of the M4 has a cycle for each load, also of pairs, for which
Arm's manual says 3 (DDI 0439, table 3-1: 1 + N): `manual` adds those two to each, for the M4 alone.
Writes benchmarks/results/mca_micro.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from onnxc.codegen.c.build import C_DIR
from onnxc.runtime.toolchain import TOOLCHAINS

RESULTS = Path(__file__).parent / "results" / "mca_micro.json"
ROUNDS = 200
TRIPLES = {
    "cortex-m4": "thumbv7em-none-eabihf",
    "cortex-m7": "thumbv7em-none-eabihf",
    "cortex-m55": "thumbv8.1m.main-none-eabihf",
}
DSP, HELIUM = ("cortex-m4", "cortex-m7"), ("cortex-m55",)
# kind: (function, instruction, multiply-adds in one or in a round, where they are more than one instruction's, processors)
LOOPS = {
    "8 bits, four pixels": ("onnxc_product4", "smlad", 2, None, DSP),
    "8 bits, one pixel": ("onnxc_product1", "smlad", 2, None, DSP),
    "8 bits, depthwise 3 x 3": ("onnxc_depthwise3_pairs", "smlad", 2, 18, DSP),
    "weights of 1 bit": ("onnxc_by_product1", "smlad", 2, None, DSP),
    "weights of 2 bits": ("onnxc_by_product2", "smlad", 2, None, DSP),
    "weights of 4 bits": ("onnxc_by_product4", "smlad", 2, None, DSP),
    "8 bits, Helium": ("onnxc_product", r"vmladava\.s8", 16, None, HELIUM),
    "8 bits, Helium, a window in two vectors": ("onnxc_conv_held2", r"vmladava?\.s8", 16, 108, HELIUM),
    "weights of 1 bit, Helium": ("onnxc_by_whole1", r"vmladava\.u8", 16, None, HELIUM),
    "weights of 2 bits, Helium": ("onnxc_by_whole2", r"vmladava\.u8", 16, None, HELIUM),
    "weights of 4 bits, Helium": ("onnxc_by_whole4", r"vmladava\.u8", 16, None, HELIUM),
    "8 bits, Helium, depthwise 3 x 3": ("onnxc_pair_of_rows", r"vmladav\.s8", 16, 36, HELIUM),
}
LABEL = re.compile(r"(\.?\w+):")
BRANCH = re.compile(r"(?:b\w+(?:\.[nw])?|cbn?z\s+\w+,|le(?:tp)?\s+lr,)\s+(\.?\w+)$")


def assembly(core: str, folder: Path) -> str:
    """All kernels of a processor as GCC's assembler text."""
    helium = ["-DONNXC_HELIUM=1"] if core in HELIUM else []
    parts = [part for name in ("micro_products.h", "micro_few.h") for part in ("-include", name)]
    gcc = TOOLCHAINS[core].linkers[0]
    command = [
        gcc.compiler,
        *gcc.flags,
        "-O2",
        "-fno-schedule-insns",
        "-fkeep-static-functions",
        "-DONNXC_FLOATS=1",
        *helium,
    ]
    source = folder / "kernels.c"
    source.write_text("int onnxc_nothing;\n")
    subprocess.run([*command, f"-I{C_DIR}", *parts, "-S", str(source), "-o", "kernels.s"], cwd=folder, check=True)
    return (folder / "kernels.s").read_text()


def body(text: str, function: str) -> list[str]:
    """The lines of a function without comments and directives: instructions and labels."""
    found = re.search(rf"^{function}:\n(.*?)^\s*\.size\s+{function},", text, re.M | re.S)
    if found is None:
        raise SystemExit(f"there is no {function}")
    lines = (re.sub(r"\s+", " ", re.sub(r"[@#] .*|^#(?:NO_)?APP", "", line)).strip() for line in found[1].splitlines())
    return [line for line in lines if line and (LABEL.fullmatch(line) or not line.startswith("."))]


def loops(lines: list[str]) -> list[list[str]]:
    """The instructions of innermost loops, from a label to a branch back to it."""
    at, found = {}, []
    for i, line in enumerate(lines):
        if label := LABEL.fullmatch(line):
            at[label[1]] = i
        elif branch := BRANCH.fullmatch(line):
            name = re.sub(r"^(\d+)b$", r"\1", branch[1])
            if name in at:
                found.append((at[name], i))
    inner = [(a, b) for a, b in found if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)]
    return [[line for line in lines[a : b + 1] if not LABEL.fullmatch(line)] for a, b in inner]


def measure(text: str, kind: str, core: str, mca: str, folder: Path) -> dict:
    """One row: cycles a round and a multiply-add of the loop that has the most of the instruction."""
    function, wanted, each, whole, _ = LOOPS[kind]
    counts = [
        (sum(bool(re.match(rf"{wanted}\b", line)) for line in loop), loop) for loop in loops(body(text, function))
    ]
    most, loop = max(counts, key=lambda pair: pair[0])
    macs = whole or most * each
    back = [re.sub(r" (\.L\w+|\d+[bf])$", " loop", line) for line in loop if not line.startswith("le")]
    (folder / "loop.s").write_text(".syntax unified\n.thumb\nloop:\n" + "\n".join(back) + "\n")
    command = [mca, f"-mtriple={TRIPLES[core]}", f"-mcpu={core}", f"-iterations={ROUNDS}", "loop.s"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    row = {"kind": kind, "core": core, "function": function, "instructions": len(loop), "macs": macs}
    if done.returncode:
        return row | {"refused": done.stderr.splitlines()[0]}
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / ROUNDS
    row |= {"cycles": round(cycles, 1), "cycles_per_mac": round(cycles / macs, 3)}
    if core == "cortex-m4":
        pairs = sum(line.startswith("ldrd ") for line in loop)
        row["manual"] = round((cycles + 2 * pairs) / macs, 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mca", default="llvm-mca-19", help="llvm-mca, 19 or later")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for core in TRIPLES:
            text = assembly(core, Path(name))
            rows += [measure(text, kind, core, args.mca, Path(name)) for kind, loop in LOOPS.items() if core in loop[4]]
    version = subprocess.run([args.mca, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"LLVM version (\S+)", version)
    RESULTS.write_text(json.dumps({"llvm_mca": found[1] if found else "", "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
