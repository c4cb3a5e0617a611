"""Accuracy against sparsity for every pass of docs/sparsity.md, on the two trained networks.

    python benchmarks/sparsity.py [--calibration FILE.npz] [--test FILE.npz] [--only NAME] [--write docs/sparsity.md] [--fresh]

Without files the bundled ones are used: 256 calibration images, whose labels are not read, and 1,000 test images. Writes
benchmarks/results/sparsity.json after every run and goes on from there. --write replaces the table in the document.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import onnxc
from onnxc.ir.cost import cost
from onnxc.ir.verify import verify
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session
from onnxc.runtime.resample import resample

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"ResNet-20": "onnxc/data/resnet20_fashion.onnx", "slim VGG": "tests/data/vggslim_fashion.onnx"}
RESULTS = ROOT / "benchmarks/results/sparsity.json"
MARKS = "<!-- table: benchmarks/sparsity.py -->\n", "<!-- end of table -->\n"
PASSES = [
    *(f"prune.magnitude({s}{scope})" for scope in ("", ", scope=layer") for s in (0.5, 0.7, 0.8, 0.9)),
    "prune.magnitude(0.8, scale=lamp)",
    *(f"prune.obs({s}{scope})" for scope in ("", ", scope=layer") for s in (0.5, 0.7, 0.8, 0.9)),
    "prune.nm", "prune.obs(n=2, m=4)", "prune.nm(1, 4)", "prune.obs(n=1, m=4)",
    *(f"prune.block(0.5, rows=4, columns={c}, update={u})" for c in (1, 4) for u in ("false", "true")),
    *(f"prune.block(0.5, rows=1, columns=1, kernel=true, update={u})" for u in ("false", "true")),
    *(f"prune.kernel_shape({r}, scope=global, update={u})" for r in (0.1, 0.2, 0.33) for u in ("false", "true")),
    *(f"prune.blocks(drop={n})" for n in (1, 2, 3)),
    "prune.width(0.9)", "prune.width(0.75)", "prune.width(0.5)",
    "prune.resolution(0.9)", "prune.resolution(0.75)", "prune.resolution(0.75, inputs=change)",
]  # fmt: skip


def measure(path: Path, passes: str, data: str, test: dict[str, np.ndarray]) -> dict:
    """zeros, MACs and accuracy of the model after these passes, and the CPU time they took; {} where nothing was done."""
    original = onnxc.load(path)
    start = time.process_time()
    result = onnxc.run_passes(original, passes, data=data, check="shapes") if passes else None
    spent = time.process_time() - start
    model = result.model if result else original
    if result and not result.report.rows[-1].edits:
        return {}
    weights = [t.values for t in model.constants().values() if t.values.ndim > 1]
    zeros = 1 - sum(map(np.count_nonzero, weights)) / sum(w.size for w in weights)
    macs = [cost(m, verify(m)).macs for m in (model, original)]
    image = resample(test["image"], model.inputs[0].shape)
    logits = Session(model.to_proto()).run({"image": image})["logits"]
    return {
        "zeros": round(float(zeros), 4),
        "macs": round(macs[0] / macs[1], 4),
        "accuracy": accuracy(logits, test["labels"]),
        "cpu_seconds": round(spent, 1),
    }


def cell(r: dict) -> str:
    if not r:
        return "refused"
    return f"{r['zeros']:.0%} zero, {r['macs']:.2f} MACs, **{r['accuracy']:.3f}**, {r['cpu_seconds']:.1f} s"


def table(found: dict, data: str, test: dict[str, np.ndarray], only: str) -> str:
    lines = [f"| pass | {' | '.join(MODELS)} |", f"|---|{'---|' * len(MODELS)}"]
    for passes in ["", *(p for p in PASSES if only in p)]:
        rows = found.setdefault(passes or "as given", {})
        for name, path in MODELS.items():
            if name not in rows:
                rows[name] = measure(ROOT / path, passes, data, test)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        cells = [cell(rows[name]) for name in MODELS]
        lines.append(f"| {f'`{passes}`' if passes else 'as given'} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default=str(ROOT / "onnxc/data/fashion_calib.npz"))
    parser.add_argument("--test", default=str(ROOT / "onnxc/data/fashion_test.npz"))
    parser.add_argument("--only", default="", help="passes whose text holds this")
    parser.add_argument("--write", help="the document whose table is replaced")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not given.fresh else {}
    with np.load(given.test) as arrays:
        test = dict(arrays)
    text = table(found, given.calibration, test, given.only)
    if given.write:
        document = Path(given.write)
        old = document.read_text(encoding="utf-8")
        head, rest = old.split(MARKS[0])
        document.write_text(head + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1], 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
