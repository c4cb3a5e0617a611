"""Instructions of each kind of layer within MLPerf Tiny's int8 networks on Cortex-M4, M7 and M55.

    PYTHONPATH=. python benchmarks/tiny_layers.py [--models DIR] [--nets ic vww kws ad] [--targets cortex-m4 cortex-m7 cortex-m55]

The C sources of a library are compiled into a program that reads SysTick around each call, in QEMU with -icount shift=0, where every
instruction takes a nanosecond; a tick is 40 instructions (31 on mps3-an547). A kind: first (a convolution of 3 channels or fewer), conv, 1x1, depthwise, dense (a pixel), between (all
else). Writes benchmarks/results/tiny_layers.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parent))
from tiny import MAIN, NANOSECONDS

from onnxc.codegen import compile_model
from onnxc.codegen.target import resolve
from onnxc.compiling import optimiser

RESULTS = Path(__file__).parent / "results" / "tiny_layers.json"
COUNT = """
static uint32_t calls_[@count@];
#define COUNTED(i, call) do { uint32_t t_ = CVR; call; calls_[i] += (t_ - CVR) & 0xffffff; } while (0)
"""
CALL = re.compile(r"^  (\w+_(?:kernel|pack|micro|fused)?\w*)\((.*)\);$", re.M)


def counted(text: str) -> tuple[str, list[str]]:
    """net.c with each call of its program counted, and the functions called."""
    head, body = text.split("static int program0", 1)
    body, rest = body.split("\n}\n", 1)
    names: list[str] = []

    def wrap(match: re.Match) -> str:
        names.append(match[1])
        return f"  COUNTED({len(names) - 1}, {match[1]}({match[2]}));"

    body = CALL.sub(wrap, body)
    return head + COUNT.replace("@count@", str(len(names))) + "static int program0" + body + "\n}\n" + rest, names


def profile(model: onnx.ModelProto, target: str) -> dict[str, dict[str, float]]:
    """Kind -> instructions and multiply-adds of its calls."""
    chain = resolve(target).toolchain
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"io": "int8", "emit": "c", "check": "shapes", "optimise": optimiser()}
        report = compile_model(model, folder, name="net", target=target, **options)
        text, names = counted((folder / "c/net.c").read_text())
        clock, start = MAIN.split("static char arena", 1)
        start = start.replace(
            "printf(", 'for (int i = 0; i < @n@; i++) printf("%lu\\n", (unsigned long)calls_[i]);\n    printf('
        )
        start = start.replace("@n@", str(len(names)))
        (folder / "c/count.c").write_text(clock.replace('#include "net.h"', "") + text + "\nstatic char arena" + start)
        (folder / "in.bin").write_bytes(bytes(report.io_bytes))
        flags = [
            "-std=c11",
            "-O2",
            "-fno-schedule-insns",
            "-Ic",
            "--specs=rdimon.specs",
            "-Wl,-z,noexecstack",
            "-T",
            "example/board.ld",
        ]
        command = [*chain.linker().static_command(), *flags, "c/count.c", "example/startup.c", "-lm", "-o", "count.elf"]
        subprocess.run(command, cwd=folder, check=True)
        qemu = [
            *chain.emulator,
            "-icount",
            "shift=0",
            "-semihosting-config",
            "enable=on,target=native",
            "-kernel",
            "count.elf",
        ]
        done = subprocess.run(qemu, cwd=folder, check=True, capture_output=True, text=True)
    ticks = [int(line) for line in done.stdout.split("ticks")[0].split()]
    rows = {row["function"]: row for row in report.kernels}
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"instructions": 0, "macs": 0})
    for function, count in zip(names, ticks, strict=True):
        row = next((rows[key] for key in rows if function.endswith(f"_{key}")), None)
        kind = kind_of(row) if row else "between"
        found[kind]["instructions"] += round(count * NANOSECONDS.get(chain.emulator[2], 40))
        found[kind]["macs"] += row["macs"] if row else 0
    return dict(found)


def kind_of(row: dict) -> str:
    """The kind of a row of a report."""
    if row["kernel"].startswith("micro.depthwise"):
        return "depthwise"
    match = re.match(r"conv \d+x\d+x\d+x(\d+) -> \S+ kernel (\d+x\d+)", row["spec"])
    if match is None:
        return "dense"
    return "first" if int(match[1]) <= 3 else "1x1" if match[2] == "1x1" else "conv"


def main() -> None:
    """Prints a line a network and kind, and writes RESULTS."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=Path("../shared/tiny"))
    parser.add_argument("--nets", nargs="+", default=["ic", "vww", "kws", "ad"])
    parser.add_argument("--targets", nargs="+", default=["cortex-m4", "cortex-m7", "cortex-m55"])
    args = parser.parse_args()
    made: dict[str, dict] = {}
    for net in args.nets:
        model = onnx.load(args.models / f"{net}_int8.onnx")
        made[net] = {target: profile(model, target) for target in args.targets}
        for kind in made[net][args.targets[0]]:
            rows = [made[net][target][kind] for target in args.targets]
            text = [
                f"{r['instructions']:,}" + (f" ({r['instructions'] / r['macs']:.2f} a MAC)" if r["macs"] else "")
                for r in rows
            ]
            print(net, kind, *text, flush=True)
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(held | made, indent=1) + "\n")


if __name__ == "__main__":
    main()
