"""A commit beside an older one: processor time of compiling models, and of a run of the compiled libraries.

    python benchmarks/before.py REV [--to HEAD] [--models FILES] [--rounds 5] [--seconds 2] [--json FILE]

Both are taken from git, as they were committed. In every round each of the two compiles each model in a process of its own, in turns, the
first by turns too; the ratio is the median over rounds of processor time by processor time (the newer by REV; processes
that it starts count). The libraries run in turns as well, each in a process of its own that tells its best time of a call.
`geometric` is the mean over models. Results are written to benchmarks/results/before.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks/results/before.json"
MODELS = [
    ROOT / "onnxc/data/resnet20_fashion.onnx",
    ROOT / "tests/data/vggslim_fashion.onnx",
    ROOT / "tests/data/binary_fashion.onnx",
]
SCRIPT = """
import inspect, sys, onnxc
from onnxc.codegen import compile_model
options = {"check": "shapes"} if "check" in inspect.signature(compile_model).parameters else {}
compile_model(onnxc.load(sys.argv[1]), sys.argv[2], name="net", **options)
"""


RUN = """
import json, pathlib, sys, time
import numpy as np
from onnxc.runtime import library as libraries
library, rng = libraries.Library(sys.argv[1]), np.random.default_rng(0)
inputs = json.loads(pathlib.Path(sys.argv[1], "manifest.json").read_text())["inputs"]
feeds = {t["name"]: rng.standard_normal(t["shape"]).astype(t["dtype"]) for t in inputs}
library.run(feeds)
best, end = float("inf"), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    start = time.process_time()
    for _ in range(5):
        library.run(feeds)
    best = min(best, (time.process_time() - start) / 5)
print(best)
"""


def compiled(tree: Path, model: Path, out: Path) -> float:
    """Processor seconds of compiling `model` by the code in `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(model), str(out)], env=environment, cwd=out.parent)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{tree} does not compile {model}")
    return usage.ru_utime + usage.ru_stime


def ran(tree: Path, library: Path, seconds: float) -> float:
    """Processor seconds of a call of a library, in a process of its own, by the code in `tree`; the best of several runs."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(library), str(seconds)]
    done = subprocess.run(command, env=environment, cwd=library.parent, check=True, capture_output=True, text=True)
    return float(done.stdout)


def checked_out(rev: str, folder: Path) -> Path:
    """The tree of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", rev], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rev")
    parser.add_argument("--to", default="HEAD")
    parser.add_argument("--models", type=Path, nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a library runs in each round")
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trees = [checked_out(args.to, Path(folder, "ours")), checked_out(args.rev, Path(folder, "theirs"))]
        for model in args.models:
            outs = [Path(folder, f"{model.stem}-{tree.name}") for tree in trees]
            compiles: list[list[float]] = [[], []]
            runs: list[list[float]] = [[], []]
            for turn in range(args.rounds + 1):  # the first fills caches
                for k in (0, 1) if turn % 2 else (1, 0):
                    compiles[k].append(compiled(trees[k], model.resolve(), outs[k]))
                for k in (0, 1) if turn % 2 else (1, 0):
                    runs[k].append(ran(trees[k], outs[k], args.seconds))
            row = {"model": model.stem}
            for what, (ours, theirs) in (("compile", compiles), ("run", runs)):
                row[f"{what}_ms"] = [round(1000 * statistics.median(s[1:]), 3) for s in (ours, theirs)]
                row[f"{what}_ratio"] = round(statistics.median(a / b for a, b in zip(ours[1:], theirs[1:])), 3)
            rows.append(row)
            print(row, flush=True)
    means = {
        k: round(math.exp(statistics.fmean(math.log(r[k]) for r in rows)), 3) for k in ("compile_ratio", "run_ratio")
    }
    rev = subprocess.run(
        ["git", "rev-parse", "--short", args.rev], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    args.json.write_text(json.dumps({"rev": rev, "rows": rows, "geometric": means}, indent=1) + "\n")
    print(means)


if __name__ == "__main__":
    main()
