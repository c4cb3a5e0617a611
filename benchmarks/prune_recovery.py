"""Accuracy of the trained networks after prune.channels: every criterion with every recovery, no labels used.

    python benchmarks/prune_recovery.py [--calib F.npz] [--test F.npz] [--only NAME] [--fresh]

Writes benchmarks/results/prune_recovery.json after every run and goes on from there; prints the tables of docs/pruning.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from onnxc import load, run_passes
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/prune_recovery.json"
MODELS = {
    "resnet20": (ROOT / "onnxc/data/resnet20_fashion.onnx", 0.5),
    "vggslim": (ROOT / "tests/data/vggslim_fashion.onnx", 0.4),
}
CRITERIA = (
    *("random", "l1", "l2", "fpgm", "lamp", "bn_scale", "redundancy"),
    *("activation", "apoz", "hessian", "obs", "reconstruction"),
)
RECOVERIES = ("none", "bias", "bn", "lstsq", "all")


def accuracy(model, path: Path) -> float:
    with np.load(path) as data:
        logits = Session(model.to_proto()).run({"image": data["image"]})["logits"]
        return float((logits.argmax(1) == data["labels"]).mean())


def measure(name: str, criterion: str, recover: str, calib: Path, test: Path) -> dict:
    path, share = MODELS[name]
    start = time.process_time()
    result = run_passes(
        path, f"prune(macs={share}, criterion={criterion}, recover={recover})", data=str(calib), check="shapes"
    )
    seconds = time.process_time() - start
    macs = result.report.rows[-1].after.macs / result.report.rows[0].before.macs
    return {"macs": round(macs, 4), "accuracy": accuracy(result.model, test), "seconds": round(seconds, 1)}


def table(name: str, found: dict) -> str:
    path, share = MODELS[name]
    lines = [
        f"{path.stem}, {share:.0%} of the MACs, original {found[name]['original']:.3f}",
        "",
        f"| criterion | {' | '.join(RECOVERIES)} |",
        f"|---{'|---:' * len(RECOVERIES)}|",
    ]
    for criterion in CRITERIA:
        cells = [found[name].get(f"{criterion}/{r}", {}).get("accuracy") for r in RECOVERIES]
        lines.append(f"| {criterion} | {' | '.join('' if c is None else f'{c:.3f}' for c in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, default=ROOT / "onnxc/data/fashion_calib.npz")
    parser.add_argument("--test", type=Path, default=ROOT / "onnxc/data/fashion_test.npz")
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not given.fresh else {}
    for name in [given.only] if given.only else MODELS:
        rows = found.setdefault(name, {})
        rows.setdefault("original", accuracy(load(MODELS[name][0]), given.test))
        for criterion in CRITERIA:
            for recover in RECOVERIES:
                key = f"{criterion}/{recover}"
                if key not in rows:
                    rows[key] = measure(name, criterion, recover, given.calib, given.test)
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        print(table(name, found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
