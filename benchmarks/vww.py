"""Visual Wake Words without labels: MLPerf Tiny's MobileNet v1 0.25 at half and 0.3 of its MACs, in float and int8.

    PYTHONPATH=. python benchmarks/vww.py --model vww_float.onnx --data vww.npz [--more FILE.npz] [--epochs N] [--only NAME]

data: `input_1` uint8 [1000, 3, 96, 96] in BGR, and `labels`. The first 200 pictures, without their labels, and those of
--more, which are none of the 1,000, are learnt from; the other 800 are measured in ONNX Runtime, and chose nothing.
Writes benchmarks/results/vww.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.rows import Table, arrays, classified, compressed

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--more", help="pictures without labels, none of the measured ones")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    args = parser.parse_args()
    pictures = arrays(args.data)
    images = pictures["input_1"].astype(np.float32) / 255
    learnt, test = images[:LEARNT], {"input_1": images[LEARNT:], "labels": pictures["labels"][LEARNT:]}
    if args.more:
        learnt = np.concatenate([learnt, arrays(args.more)["input_1"].astype(np.float32) / 255])
    table = Table(RESULTS, args.only)
    for name, text in LISTS.items():
        if table.lacks(name):
            passes = text.format(epochs=args.epochs)
            judge = partial(classified, test=test, single=True)
            table.add(name, compressed(args.model, passes, {"input_1": learnt}, judge)[0])


if __name__ == "__main__":
    main()
