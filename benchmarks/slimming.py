"""Channels cut from trained networks and trained on: the VGG, whose scales are slimmed (Liu 2017), and ResNet-20.

    PYTHONPATH=. python benchmarks/slimming.py --train FILE.npz --test FILE.npz [--only NAME] [--threads N] [--share N] [--tune]

FILE.npz: `image` and `labels` of Fashion-MNIST as the networks take it (examples/recipes/fashion.py). Trained rows learn from
every N-th image, by labels and by what the network as given says; rows "distilled" see no labels. Accuracy is that of the
files in ONNX Runtime; the images of --test chose nothing: --tune measures the last 4,000 of --train instead, which are then not
trained on, and writes nothing. Writes benchmarks/results/slimming.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.rows import Table, arrays, classified, compressed, options

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/slimming.json"
VGG, RESNET = ROOT / "tests/data/vggslim_fashion.onnx", ROOT / "onnxc/data/resnet20_fashion.onnx"
SHARED = "batch=64,augment=[shift],held=0,threads={threads}"
TRAINED = f"train.finetune(epochs={{epochs}},rate=0.002,distil=true,{SHARED})"
DISTILLED = f"train.distill(epochs={{epochs}},rate=0.002,{SHARED})"
SLIM = "prune(ratio=0.7,scope=global,criterion=lamp,samples=2048)"
ROWS = {
    "VGG as given": (VGG, "clean", 0),
    "VGG, 70 % of channels": (VGG, SLIM, 0),
    "VGG, 70 % of channels, trained": (VGG, f"{SLIM},{TRAINED}", 8),
    "ResNet-20 as given": (RESNET, "clean", 0),
    "ResNet-20 / 2.1": (RESNET, "prune(macs=0.476,samples=2048)", 0),
    "ResNet-20 / 2.1, trained": (RESNET, f"prune(macs=0.476,samples=2048),{TRAINED}", 3),
    "ResNet-20, 0.4 of MACs": (RESNET, "prune(macs=0.4,samples=2048)", 0),
    "ResNet-20, 0.4 of MACs, distilled": (RESNET, f"prune(macs=0.4,samples=2048),{DISTILLED}", 3),
    "ResNet-20, 0.4 of MACs, distilled longer": (RESNET, f"prune(macs=0.4,samples=2048),{DISTILLED}", 4),
}  # fmt: skip
HELD = 4000


def main() -> None:
    parser = options(__doc__, 4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="measure on a part of --train, write nothing")
    args = parser.parse_args()
    train, test, table = arrays(args.train), arrays(args.test), Table(None if args.tune else RESULTS, args.only)
    if args.tune:
        test, train = {n: a[-HELD:] for n, a in train.items()}, {n: a[:-HELD] for n, a in train.items()}
    train = {n: a[:: args.share] for n, a in train.items()}
    judge = partial(classified, test=test)
    for name, (path, text, epochs) in ROWS.items():
        if table.lacks(name):
            passes = text.format(epochs=epochs, threads=args.threads)
            seen = {n: a for n, a in train.items() if n != "labels" or "distilled" not in name}
            table.add(name, compressed(path, passes, seen, judge)[0])


if __name__ == "__main__":
    main()
