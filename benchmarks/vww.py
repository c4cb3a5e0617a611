"""Visual Wake Words without labels: MLPerf Tiny's MobileNet v1 0.25 at half and 0.3 of its MACs, in float and int8.

    python benchmarks/vww.py --model vww_float.onnx --data vww.npz [--more FILE.npz] [--epochs N] [--only NAME]

data: `input_1` uint8 [1000, 3, 96, 96] in BGR, and `labels`. The first 200 pictures, without their labels, and those of
--more, which are none of the 1,000, are learnt from; the other 800 are measured in ONNX Runtime, and chose nothing.
Writes benchmarks/results/vww.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from onnxc import load, run_passes
from onnxc.runtime.reference import Session

RESULTS = Path(__file__).resolve().parent / "results/vww.json"
LEARNT = 200
TAUGHT = "train.distill(epochs={epochs},batch=16,rate=0.003,augment=[flip,mix],held=0)"
LISTS = {
    "as given": "clean",
    "0.5 solved": "prune(macs=0.5)",
    "0.5 solved, int8": "prune(macs=0.5),quant",
    "0.5 distilled, int8": f"prune(macs=0.5),{TAUGHT},quant",
    "0.3 solved": "prune(macs=0.3)",
    "0.3 distilled": f"prune(macs=0.3),{TAUGHT}",
    "0.3 distilled, int8": f"prune(macs=0.3),{TAUGHT},quant",
}


def accuracy(model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of right answers of a model that takes one picture at a time."""
    session = Session(model.to_proto())
    named = [session.run({"input_1": x[None]})["Identity"].argmax() for x in images]
    return float(np.mean(np.array(named) == labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--more", help="pictures without labels, none of the measured ones")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    args = parser.parse_args()
    with np.load(args.data) as held:
        images, labels = held["input_1"].astype(np.float32) / 255, held["labels"]
    learnt = images[:LEARNT]
    if args.more:
        with np.load(args.more) as held:
            learnt = np.concatenate([learnt, held["input_1"].astype(np.float32) / 255])
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, text in LISTS.items():
        if args.only not in name or name in found:
            continue
        passes, start = text.format(epochs=args.epochs), time.process_time()
        result = run_passes(load(args.model), passes, data={"input_1": learnt}, check="shapes")
        first, last = result.report.rows[0].before, result.report.rows[-1].after
        found[name] = {
            "passes": passes, "learnt from": len(learnt), "macs": last.macs / first.macs, "bytes": last.bytes,
            "accuracy": accuracy(result.model, images[LEARNT:], labels[LEARNT:]),
            "seconds": round(time.process_time() - start, 1),
        }  # fmt: skip
        print(name, json.dumps(found[name]), flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
