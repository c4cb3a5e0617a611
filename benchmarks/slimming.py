"""Channels cut from trained networks and trained on: the VGG, whose scales are slimmed (Liu 2017), and ResNet-20.

    PYTHONPATH=. python benchmarks/slimming.py --train FILE.npz --test FILE.npz [--only NAME] [--threads N] [--share N]

FILE.npz: `image` and `labels` of Fashion-MNIST as the networks take it. Accuracy is that of the files in ONNX Runtime; the
images of --test chose nothing. Writes benchmarks/results/slimming.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.rows import Table, arrays, classified, compressed

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/slimming.json"
VGG, RESNET = ROOT / "tests/data/vggslim_fashion.onnx", ROOT / "onnxc/data/resnet20_fashion.onnx"
TRAINED = "train.finetune(epochs={epochs},batch=64,rate=0.002,augment=[shift],held=0.02,threads={threads})"
ROWS = {
    "VGG as given": (VGG, "clean", 0),
    "VGG, 70 % of channels": (VGG, "prune(ratio=0.7,scope=global,criterion=lamp,samples=2048)", 0),
    "VGG, 70 % of channels, trained": (VGG, f"prune(ratio=0.7,scope=global,criterion=lamp,samples=2048),{TRAINED}", 3),
    "ResNet-20 as given": (RESNET, "clean", 0),
    "ResNet-20 / 2.1": (RESNET, "prune(macs=0.476,samples=2048)", 0),
    "ResNet-20 / 2.1, trained": (RESNET, f"prune(macs=0.476,samples=2048),{TRAINED}", 3),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=int, default=1, help="train on every N-th image")
    args = parser.parse_args()
    train, test, table = arrays(args.train, args.share), arrays(args.test), Table(RESULTS, args.only)
    for name, (path, text, epochs) in ROWS.items():
        if table.lacks(name):
            passes = text.format(epochs=epochs, threads=args.threads)
            table.add(name, compressed(path, passes, train, lambda model: classified(model, test))[0])


if __name__ == "__main__":
    main()
