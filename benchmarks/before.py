"""A commit beside an older one: processor time of compiling models, and of a run of the compiled libraries.

    python benchmarks/before.py REV [--to HEAD] [--models FILES] [--kinds REGEX] [--rounds 5] [--seconds 2] [--json FILE]

Both are taken from git, as they were committed, and run with their bytecode cached, as installed packages are; no kernels are kept. In every round each of the two compiles each model in a process of its own, in turns, the
first by turns too; the ratio is the median over rounds of processor time by processor time (the newer by REV; processes
that it starts count). The libraries run in turns as well, each in a process of its own that tells its best time of a call.
With `--kinds` those operators of benchmarks/kinds.py, int8 networks of the models and a binary ResNet-18 whose name matches are compiled once
by both and run in turns too; what the older one does not compile is named. `geometric` is the mean over models. Results are written to benchmarks/results/before.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
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


def environment(tree: Path) -> dict[str, str]:
    """What a process needs to run the code in `tree`."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "ONNXC_CACHE": "off"}


def compiled(tree: Path, model: Path, out: Path) -> float | None:
    """Processor seconds of compiling `model` by the code in `tree`; None where it does not."""
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(model), str(out)], env=environment(tree), cwd=out.parent,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return None if child.returncode else usage.ru_utime + usage.ru_stime


def ran(tree: Path, library: Path, seconds: float) -> float:
    """Processor seconds of a call of a library, in a process of its own, by the code in `tree`; the best of several runs."""
    command = [sys.executable, "-c", RUN, str(library), str(seconds)]
    done = subprocess.run(
        command, env=environment(tree), cwd=library.parent, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def checked_out(rev: str, folder: Path) -> Path:
    """The tree of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", rev], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def in_turns(trees: list[Path], model: Path, folder: Path, rounds: int, seconds: float, compiling: bool) -> dict:
    """The row of a model. Without `compiling` it is compiled once by each, and its runs alone are measured."""
    outs = [folder / f"{model.stem}-{tree.name}" for tree in trees]
    compiles: list[list[float]] = [[], []]
    runs: list[list[float]] = [[], []]
    for turn in range(rounds + 1):  # the first fills caches
        order = (0, 1) if turn % 2 else (1, 0)
        for k in order if compiling or not turn else ():
            took = compiled(trees[k], model.resolve(), outs[k])
            if took is None:
                return {"model": model.stem, "not_compiled_by": trees[k].name}
            compiles[k].append(took)
        for k in order:
            runs[k].append(ran(trees[k], outs[k], seconds))
    row: dict = {"model": model.stem}
    for what, (ours, theirs) in (("compile", compiles), ("run", runs))[0 if compiling else 1 :]:
        row[f"{what}_ms"] = [round(1000 * statistics.median(s[1:]), 4) for s in (ours, theirs)]
        row[f"{what}_ratio"] = round(statistics.median(a / b for a, b in zip(ours[1:], theirs[1:])), 3)
    return row


def more(folder: Path, models: list[Path]) -> list[Path]:
    """Models beside: operators, int8 networks, a binary one, written into `folder`."""
    import onnx
    from kernels import resnet18
    from kinds import kinds

    from onnxc.ir.files import load
    from onnxc.pipeline import run_passes

    made = {name: onnx.shape_inference.infer_shapes(model) for name, model in kinds().items()}
    made |= {
        f"{path.stem}_int8": run_passes(load(path), "clean,fuse,quant").model.to_proto()
        for path in models
        if "binary" not in path.stem
    }
    made["resnet18_binary"] = resnet18(True)
    for name, model in made.items():
        onnx.save(model, folder / f"{name}.onnx")
    return [folder / f"{name}.onnx" for name in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rev")
    parser.add_argument("--to", default="HEAD")
    parser.add_argument("--models", type=Path, nargs="+", default=MODELS)
    parser.add_argument("--kinds", metavar="REGEX")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a library runs in each round")
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = [checked_out(args.to, folder / "ours"), checked_out(args.rev, folder / "theirs")]
        for model in args.models:
            rows.append(in_turns(trees, model, folder, args.rounds, args.seconds, True))
            print(rows[-1], flush=True)
        for model in more(folder, args.models) if args.kinds else ():
            if not re.search(args.kinds, model.stem):
                continue
            rows.append(in_turns(trees, model, folder, args.rounds, args.seconds / 8, False))
            print(rows[-1], flush=True)
    means = {
        k: round(math.exp(statistics.fmean(math.log(r[k]) for r in rows if k in r)), 3)
        for k in ("compile_ratio", "run_ratio")
    }
    rev = subprocess.run(
        ["git", "rev-parse", "--short", args.rev], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    args.json.write_text(json.dumps({"rev": rev, "rows": rows, "geometric": means}, indent=1) + "\n")
    print(means)


if __name__ == "__main__":
    main()
