"""Compact networks made smaller without labels or training: FastestDet (AP50) and MobileNet 0.25 (Visual Wake Words).

    python benchmarks/compact.py --coco DIR --detector F.onnx [--vww F.onnx --vww-data F.npz] [--json FILE]

COCO images come from a folder or a bare git directory of lightly-ai/coco128_yolo: 128 of train2017 are given to the passes,
128 of val2017 are reported; every row is written as it is done. vww.npz holds uint8 `input_1` and `labels`: the first 200 are given, the other 800 reported. Both
columns stand in the results: what was chosen, was chosen by the first. Labels are never given to a pass.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from detect import ap50, images

import onnxc
from onnxc.ir.cost import cost
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
DETECTOR = (
    "quant",
    "prune(macs=0.85)",
    "prune(macs=0.7)",
    "lowrank.auto(macs=0.85)",
    "lowrank.auto(macs=0.7)",
    "lowrank.auto(macs=0.85, recover=lstsq)",
    "lowrank.auto(macs=0.89), prune(macs=103267000)",  # 0.85 of the model as given
    "lowrank.auto(macs=0.89), prune(macs=85044000)",  # 0.7 of it
)
WAKE_WORDS = ("quant", "prune(macs=0.5)", "prune(macs=0.5), quant")
Score = Callable[[np.ndarray], float]


def outputs(model, x: np.ndarray) -> np.ndarray:
    session = Session(model.to_proto())
    name = next(iter(session.inputs))
    return np.concatenate([next(iter(session.run({name: one[None]}).values())) for one in x])


def rows(
    path: Path, recipes: tuple[str, ...], given: np.ndarray, test: np.ndarray, score: tuple[Score, Score]
) -> Iterator[dict]:
    """A row for the model as it is, and one for each recipe."""
    whole = load(path)
    macs = cost(whole, verify(whole)).macs
    name = whole.inputs[0].name
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "given.npz"
        np.savez(data, **{name: given})
        for recipe in ("", *recipes):
            start = time.process_time()
            model = onnxc.run_passes(path, recipe, data=data, check="shapes").model if recipe else whole
            seconds = time.process_time() - start
            now = cost(model, verify(model))
            yield {
                "recipe": recipe or "float",
                "macs": round(now.macs / macs, 4),
                "bytes": now.bytes,
                "given": round(score[0](outputs(model, given)), 4),
                "reported": round(score[1](outputs(model, test)), 4),
                "cpu_s": round(seconds, 1),
            }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--coco", type=Path, help="folder or git directory of coco128_yolo")
    p.add_argument("--detector", type=Path, help="FastestDet.onnx")
    p.add_argument("--vww", type=Path, help="the float network of Visual Wake Words")
    p.add_argument("--vww-data", type=Path, help="vww.npz")
    p.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/compact.json")
    args = p.parse_args()
    found: dict[str, list[dict]] = json.loads(args.json.read_text()) if args.json.exists() else {}
    done = 0
    if args.coco and args.detector:
        (x, boxes), (test, wanted) = (images(args.coco, split) for split in ("train2017", "val2017"))
        scores = (lambda y: ap50(y, boxes)), (lambda y: ap50(y, wanted))
        done += tell("FastestDet, AP50", rows(args.detector, DETECTOR, x, test, scores), found, args.json)
    if args.vww and args.vww_data:
        with np.load(args.vww_data) as data:
            x, labels = data["input_1"].astype(np.float32) / 255, data["labels"]
        scores = (lambda y: accuracy(y, labels[:200])), (lambda y: accuracy(y, labels[200:]))
        made = rows(args.vww, WAKE_WORDS, x[:200], x[200:], scores)
        done += tell("MobileNet 0.25, accuracy", made, found, args.json)
    if not done:
        p.error("give --coco and --detector, or --vww and --vww-data")


def tell(title: str, made: Iterator[dict], found: dict[str, list[dict]], file: Path) -> int:
    """Print and write each row as it is done, in the place of what `file` has under that title; returns how many."""
    found[title] = []
    for row in made:
        found[title].append(row)
        print(json.dumps(row), flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    return len(found[title])


if __name__ == "__main__":
    main()
