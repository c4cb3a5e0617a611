"""A network compiled for the first time and again, by a commit and an older one: processor time of `onnxc compile` with its proof.

    python benchmarks/again.py REV [--to HEAD] [--rounds 4]

Both are taken from git, with their bytecode cached, as installed packages are, and have a cache of kernels of their own. They take
turns; processes that the command starts count. Times are the best of the rounds, the ratio is of those. Results are written to
benchmarks/results/again.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from before import ROOT, checked_out, environment
from network_models import NETWORKS

OUT = ROOT / "benchmarks/results/again.json"
RESNET20 = ROOT / "onnxc/data/resnet20_fashion.onnx"


def seconds(tree: Path, model: Path, out: Path) -> tuple[float, float]:
    """Processor seconds of the command by the code in `tree`, and those on the clock."""
    places = {"ONNXC_CACHE": "on", "XDG_CACHE_HOME": str(tree / "cache")}
    command = [sys.executable, "-m", "onnxc", "compile", str(model), "-o", str(out)]
    start = time.monotonic()
    child = subprocess.Popen(command, env=environment(tree) | places, cwd=out.parent, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime, time.monotonic() - start


def row(name: str, model: Path, trees: list[Path], rounds: int) -> dict:
    """First and again, by the newer and the older tree."""
    made: dict = {"model": name, "bytes": model.stat().st_size}
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for k in (0, 1) if turn % 2 else (1, 0):
            if turn == 1:  # the first turn has filled the caches of bytecode
                shutil.rmtree(trees[k] / "cache", ignore_errors=True)
            which = "again" if turn > 1 else "first" if turn == 1 else "cold"
            times.setdefault((which, k), []).append(seconds(trees[k], model, trees[k].parent / f"{name}-{k}"))
    for which in ("first", "again"):
        ours, theirs = (min(times[which, k]) for k in (0, 1))
        made[which] = {
            "seconds": [round(ours[0], 2), round(theirs[0], 2)], "ratio": round(ours[0] / theirs[0], 3),
            "clock": [round(min(wall for _, wall in times[which, k]), 2) for k in (0, 1)],
        }  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rev")
    parser.add_argument("--to", default="HEAD")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = [checked_out(rev, folder / f"tree{k}") for k, rev in enumerate((given.to, given.rev))]
        for tree in trees:
            for file in (ROOT / "onnxc/coding").glob("_decode*.so"):
                shutil.copy(file, tree / "onnxc/coding")
        onnx.save(NETWORKS["ResNet-50"](), folder / "resnet50.onnx")
        rows = [
            row(label, model, trees, given.rounds)
            for label, model in (("ResNet-20", RESNET20), ("ResNet-50", folder / "resnet50.onnx"))
        ]
    for one in rows:
        print(json.dumps(one))
    OUT.write_text(json.dumps({"rev": given.rev, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
