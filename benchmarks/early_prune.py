"""Early pruning beside pruning after sparse training: one network, half of its channels, in 0.7 times the epochs or fewer.

    PYTHONPATH=. python benchmarks/early_prune.py --train FILE.npz --test FILE.npz [--share N] [--only NAME]

FILE.npz: `image` and `labels` of Fashion-MNIST (examples/recipes/fashion.py). A network of four 3x3 layers of 16, 32, 32 and 64
channels is trained under an l1 penalty on its batch-norm scales, half of its channels go, and the rest is trained on (network
slimming, Liu 2017); or the scales are forecast after the early epochs, the channels go by the forecast, and the small network
is trained for the rest of them. Either begins with weights drawn at random, or with those of the network trained for 8
epochs. Accuracy is ONNX Runtime's on --test, which chose nothing. Writes benchmarks/results/early_prune.json after each
row; rows that stand there are kept.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.rows import Table, arrays, classified, compressed, options
from benchmarks.small_networks import normed

RESULTS = Path(__file__).resolve().parent / "results/early_prune.json"
WIDTHS = (16, 32, 32, 64)
SHARED = "batch=64,rate=0.003,augment=[shift],held=0.02"
SLIMMED = (
    f"train.slim(strength=0.7,epochs={{}},{SHARED}),prune(criterion=bn_scale,scope=global,ratio=0.5,recover=none),"
    f"train.finetune(epochs={{}},{SHARED})"
)
EARLY = f"train.early_prune(early={{}},epochs={{}},ratio=0.5,strength=0.7,{SHARED})"
ROWS = {
    "random weights: sparse training, then pruned": (SLIMMED, 12, 6),
    "random weights: early pruned": (EARLY, 3, 9),
    "trained network": (f"train.finetune(epochs={{}},{SHARED})", 8, 0),
    "trained network: sparse training, then pruned": (SLIMMED, 8, 4),
    "trained network: early pruned": (EARLY, 2, 6),
}
"""(passes, epochs of their trainings)"""
START = "trained network"


def main() -> None:
    args = options(__doc__, 6).parse_args()
    train, test, table = arrays(args.train, args.share), arrays(args.test), Table(RESULTS, args.only)
    judge = partial(classified, test=test)
    start = None
    for name, (passes, *epochs) in ROWS.items():
        if not table.lacks(name):
            continue
        whole = name.startswith(START)
        if whole and start is None:
            row, start = compressed(normed(WIDTHS), ROWS[START][0].format(ROWS[START][1]), train, judge)
            table.add(START, {**row, "epochs": ROWS[START][1]})
        if name != START:
            row, _ = compressed(start if whole else normed(WIDTHS), passes.format(*epochs), train, judge)
            table.add(name, {**row, "epochs": sum(epochs)})


if __name__ == "__main__":
    main()
