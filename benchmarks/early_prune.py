"""Early pruning beside pruning after sparse training: one network, half of its channels, in 0.7 times the epochs or fewer.

    PYTHONPATH=. python benchmarks/early_prune.py --train FILE.npz --test FILE.npz [--share N] [--only NAME]

FILE.npz: `image` and `labels` of Fashion-MNIST (examples/recipes/fashion.py). A network of four 3x3 layers of 16, 32, 32 and 64
channels, its first weights drawn at random, is trained under an l1 penalty on its batch-norm scales, half of its channels go,
and the rest is trained on (network slimming, Liu 2017: 12 + 6 epochs); or the scales are forecast after 3 epochs, the
channels go by the forecast, and the small network is trained for 9. Accuracy is ONNX Runtime's on --test, which chose
nothing. Writes benchmarks/results/early_prune.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.rows import Table, arrays, classified, compressed
from benchmarks.small_networks import normed

RESULTS = Path(__file__).resolve().parent / "results/early_prune.json"
WIDTHS = (16, 32, 32, 64)
SHARED = "batch=64,rate=0.003,augment=[shift],held=0.02"
ROWS = {
    "sparse training, then pruned": (
        f"train.slim(strength=0.7,epochs=12,{SHARED}),"
        f"prune(criterion=bn_scale,scope=global,ratio=0.5,recover=none),train.finetune(epochs=6,{SHARED})", 18,
    ),
    "early pruned": (f"train.early_prune(early=3,epochs=9,ratio=0.5,strength=0.7,{SHARED})", 12),
    "whole network": (f"train.finetune(epochs=12,{SHARED})", 12),
}  # fmt: skip
"""(passes, epochs in all)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--share", type=int, default=6, help="train on every N-th image")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    args = parser.parse_args()
    train, test, table = arrays(args.train, args.share), arrays(args.test), Table(RESULTS, args.only)
    for name, (passes, epochs) in ROWS.items():
        if table.lacks(name):
            row, _ = compressed(normed(WIDTHS), passes, train, partial(classified, test=test))
            table.add(name, {**row, "epochs": epochs})


if __name__ == "__main__":
    main()
