"""Any ONNX files through every step, as a user would: which steps fail on files that ONNX Runtime runs?

    python benchmarks/wild.py DIR [--json FILE] [--steps clean,prune] [--seconds 300] [--largest 100M]

Each file below DIR goes through `clean,fuse`, `prune`, `quant`, `lowrank`, `quant.cluster` and `pack`, and `compile`, each a
process of its own with the options' defaults and no data. The column ORT says whether ONNX Runtime runs the file as it came,
on small integers and noise of the first extents that it accepts: a step that fails where ONNX Runtime runs is ours to mend.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

STEPS = {
    "clean,fuse": ["passes", "{model}", "-p", "clean,fuse", "-o", "{out}"],
    "prune": ["passes", "{model}", "-p", "prune", "-o", "{out}"],
    "quant": ["passes", "{model}", "-p", "quant", "-o", "{out}"],
    "lowrank": ["passes", "{model}", "-p", "lowrank", "-o", "{out}"],
    "cluster": ["passes", "{model}", "-p", "quant.cluster", "-o", "{out}"],
    "pack": ["pack", "{cluster}", "-o", "{out}z"],
    "compile": ["compile", "{model}", "-o", "{folder}/library"],
}
EXTENTS = (1, 2, 16, 64, 224, 512, 16000)


def verdict(path: Path) -> str:
    """ "runs", or why ONNX Runtime refuses the file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        return f"does not load: {str(e).splitlines()[0][:80]}"
    symbols = sorted({str(d) for i in session.get_inputs() for d in i.shape or () if not isinstance(d, int)})
    why = ""
    for extents in _tried(len(symbols)):
        sizes = dict(zip(symbols, extents))
        for low in (False, True):
            try:
                session.run(None, {i.name: _feed(i, sizes, low) for i in session.get_inputs()})
                return "runs"
            except Exception as e:
                why = str(e).splitlines()[0][:80]
    return f"no input found: {why}"


def _tried(count: int) -> list[tuple[int, ...]]:
    """400 choices of `count` extents, the smallest first, those that are all the same ahead of all."""
    few = EXTENTS if count < 6 else EXTENTS[1:4]
    found = sorted(
        itertools.islice(itertools.product(few, repeat=count), 20_000), key=lambda e: (len(set(e)) > 1, math.prod(e))
    )
    return [e for e in found if math.prod(e) < 10**7 or (len(set(e)) == 1 and count < 3)][:400]


def _feed(spec, sizes: dict[str, int], low: bool) -> np.ndarray:
    shape = [d if isinstance(d, int) else sizes[str(d)] for d in spec.shape or ()]
    kind = spec.type.split("tensor(")[-1].rstrip(")")
    if kind == "string":
        return np.full(shape, "a", object)
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.full(shape, 0 if low else 1, dtype)


def run_step(step: str, path: Path, folder: Path, seconds: int) -> dict:
    """One command on one file: "ok", "refused" (exit 1 or 2 with one line) or "broken" (anything else), with the last line."""
    named = {
        "model": path, "folder": folder, "out": folder / f"{step.replace(',', '-')}.onnx", "cluster": folder / "cluster.onnx",
    }  # fmt: skip
    command = [part.format(**named) for part in STEPS[step]]
    if step == "pack" and not (folder / "cluster.onnx").exists():
        return {"verdict": "none", "why": "quant.cluster wrote nothing", "seconds": 0.0}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "onnxc", *command], capture_output=True, text=True, timeout=seconds, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "broken", "why": f"over {seconds} s", "seconds": float(seconds)}
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("onnxc: error")]
    last = lines[-1] if lines else (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 0:
        kind = "ok"
    elif done.returncode in (1, 2) and lines and "internal error" not in last:
        kind = "refused"
    else:
        kind = "broken"
    return {"verdict": kind, "why": "" if kind == "ok" else last, "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", default=",".join(STEPS).replace("clean,fuse", "clean"))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--largest", default="100M")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    wanted = ["clean,fuse" if step == "clean" else step for step in given.steps.split(",")]
    most = int(given.largest.rstrip("M")) * 10**6
    rows = []
    for path in sorted(given.folder.rglob("*.onnx"), key=lambda p: p.stat().st_size):
        if path.stat().st_size > most or given.only not in str(path):
            continue
        row = {
            "file": str(path.relative_to(given.folder)),
            "bytes": path.stat().st_size,
            "ort": verdict(path),
            "steps": {},
        }
        with tempfile.TemporaryDirectory() as folder:
            for step in wanted:
                row["steps"][step] = run_step(step, path.resolve(), Path(folder), given.seconds)
        rows.append(row)
        marks = {"ok": ".", "refused": "r", "broken": "X", "none": "-"}
        print(
            f"{row['file'][-60:]:60} {row['ort'][:40]:40}",
            "".join(marks[s["verdict"]] for s in row["steps"].values()),
            flush=True,
        )
        for step, result in row["steps"].items():
            if result["verdict"] in ("refused", "broken"):
                print(f"    {step}: {result['why'][:300]}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    runs = [row for row in rows if row["ort"] == "runs"]
    for step in wanted:
        kinds = [row["steps"][step]["verdict"] for row in runs]
        print(f"{step}: {kinds.count('ok')} of {len(runs)} files that ONNX Runtime runs, "
              f"{kinds.count('refused')} refused, {kinds.count('broken')} broken")  # fmt: skip


if __name__ == "__main__":
    main()
