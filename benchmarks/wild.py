"""Any ONNX files through every step, as a user would: which steps fail on files that ONNX Runtime runs?

    python benchmarks/wild.py DIR [--steps clean,prune] [--seconds 300] [--largest 100M] [--only TEXT] [--exports]
                                  [--json FILE] [--docs] [--about "magika-1.0.3=file types"]

Each file below DIR, DIR/<package>-<version>/<file>.onnx, goes through `clean,fuse`, `prune`, `quant`, `lowrank`,
`quant.cluster` and `pack`, and `compile`, each a process of its own with the options' defaults and no data. The column ORT says
whether ONNX Runtime runs the file as it came, on small integers and noise of the first extents that it accepts: a step that fails
where ONNX Runtime runs is ours to mend. A file that is known under another name is passed over.
--json: what the JSON file holds of other files and other steps stays; with --docs the tables of docs/wild.md are written from
it, with no DIR from it alone. --about: what a package is for. --exports: the files are those of benchmarks/exports.py.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
DOCS = Path(__file__).parent.parent / "docs" / "wild.md"
MARKS = "<!-- table: benchmarks/wild.py, {} -->\n", "<!-- end of table -->\n"


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


def tables(found: dict) -> dict[str, str]:
    """The tables of docs/wild.md from what the JSON file holds."""
    steps = list(STEPS)
    head = [f"| {{}} | {' | '.join(steps)} |", "|---|" + "---|" * len(steps)]
    counts = [head[0].format("files that went through"), head[1]]
    for name, part in (("of packages", "packages"), ("exports", "exports")):
        went = [[row["steps"].get(step) for row in found[part] if row["ort"] == "runs"] for step in steps]
        cells = [f"{w.count('ok')} of {len(w) - w.count(None)}" for w in went]
        counts.append(f"| {name} | {' | '.join(cells)} |")
    packages = Counter(row["file"].split("/")[0] for row in found["packages"])
    kinds = len({found["about"].get(name, name) for name in packages})
    whole = f"Here are {len(found['packages'])} files of {kinds} kinds from {len(packages)} packages of PyPI and npm"
    counts[:0] = [
        f"{whole} (the files are not in this repository), and {len(found['exports'])} fresh exports",
        "of torch 2.13 by both of its exporters (`benchmarks/exports.py DIR`).\n",
    ]
    made = {"counts": counts}
    made["packages"] = ["| package | files | what for |", "|---|---:|---|"]
    made["packages"] += [f"| {name} | {n} | {found['about'].get(name, '')} |" for name, n in sorted(packages.items())]
    for part, noun in (("packages", "file"), ("exports", "export")):
        files = [f"| {noun} | kB | {' | '.join(steps)} |", "|---|---:|" + "---|" * len(steps)]
        for row in found[part]:
            cells = [{"ok": "yes", None: ""}.get(row["steps"].get(step), row["steps"].get(step)) for step in steps]
            name = row["file"].removesuffix(".onnx")
            files.append(f"| {name} | {round(row['bytes'] / 1000):,} | {' | '.join(map(str, cells))} |")
        made["files" if part == "packages" else part] = files
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def write_docs(found: dict) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, table in tables(found).items():
        first, last = MARKS[0].format(name), MARKS[1]
        before, rest = text.split(first)
        text = before + first + table + last + rest.partition(last)[2]
    DOCS.write_text(text, encoding="utf-8")


def merged(old: dict | None, row: dict) -> dict:
    """The row of a file with the steps that were not run again."""
    steps = (old or {}).get("steps", {}) | {step: result["verdict"] for step, result in row["steps"].items()}
    why = {k: w for k, w in (old or {}).get("why", {}).items() if k not in row["steps"]}
    why |= {step: result["why"] for step, result in row["steps"].items() if result["verdict"] in ("refused", "broken")}
    kept = {name: row[name] for name in ("file", "bytes", "digest", "ort")}
    return kept | {"steps": {step: steps[step] for step in STEPS if step in steps}} | ({"why": why} if why else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--exports", action="store_true")
    parser.add_argument("--about", action="append", default=[])
    parser.add_argument("--steps", default=",".join(STEPS).replace("clean,fuse", "clean"))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--largest", default="100M")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    wanted = ["clean,fuse" if step == "clean" else step for step in given.steps.split(",") if step]
    most = int(given.largest.rstrip("M")) * 10**6
    found: dict = {"packages": [], "exports": [], "about": {}}
    if given.json and given.json.exists():
        found |= json.loads(given.json.read_text(encoding="utf-8"))
    found["about"] |= dict(text.split("=", 1) for text in given.about)
    part = "exports" if given.exports else "packages"
    known = {row["file"]: row for row in found[part]}
    rows = []
    files = sorted(given.folder.rglob("*.onnx"), key=lambda p: p.stat().st_size) if given.folder else []
    for path in files:
        if path.stat().st_size > most or given.only not in str(path):
            continue
        name, digest = str(path.relative_to(given.folder)), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        same = next((r["file"] for r in known.values() if r.get("digest") == digest and r["file"] != name), None)
        if same:
            print(f"{name[-60:]:60} the same file as {same}")
            continue
        row = {"file": name, "bytes": path.stat().st_size, "digest": digest, "ort": verdict(path), "steps": {}}
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
        known[row["file"]] = merged(known.get(row["file"]), row)
        found[part] = [known[name] for name in sorted(known)]
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.docs:
        write_docs(found)
    runs = [row for row in rows if row["ort"] == "runs"]
    for step in wanted if rows else ():
        kinds = [row["steps"][step]["verdict"] for row in runs]
        print(f"{step}: {kinds.count('ok')} of {len(runs)} files that ONNX Runtime runs, "
              f"{kinds.count('refused')} refused, {kinds.count('broken')} broken")  # fmt: skip


if __name__ == "__main__":
    main()
