"""Channels cut from trained networks and trained on: the VGG, whose scales are slimmed (Liu 2017), and ResNet-20.

    PYTHONPATH=. python benchmarks/slimming.py --train FILE.npz --test FILE.npz [--only NAME] [--threads N] [--share N] [--tune]

FILE.npz: `image` and `labels` of Fashion-MNIST as the networks take it (examples/recipes/fashion.py). Trained rows learn
from every N-th image, those of many epochs from all, by labels and by what the network as given says; rows "distilled" see
no labels. Accuracy is that of the files in ONNX Runtime; the images of --test chose nothing: --tune measures the last 4,000
of --train instead, which are then not trained on, and writes nothing. Writes benchmarks/results/slimming.json after each
row; rows that stand there are kept.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.rows import Table, classified, compressed, learnt_and_tested, trained_options

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/slimming.json"
VGG, RESNET = ROOT / "tests/data/vggslim_fashion.onnx", ROOT / "onnxc/data/resnet20_fashion.onnx"
SHARED = "batch=64,augment=[shift],held=0,threads={threads}"
TRAINED = f"train.finetune(epochs={{epochs}},rate=0.002,distil=true,{SHARED})"
LONGER = (
    "train.finetune(epochs={epochs},rate=0.003,distil=true,batch=64,augment=[flip,shift],held=0,threads={threads},"
    "precision=bfloat16)"
)
DISTILLED = f"train.distill(epochs={{epochs}},rate=0.002,{SHARED})"
LONGEST = "train.distill(epochs={epochs},rate=0.003,batch=64,augment=[flip,shift],held=0,threads={threads})"
SLIM = "prune(ratio=0.7,scope=global,criterion=lamp,samples=2048)"
HALF = "prune(macs=0.476,samples=2048)"
ROWS = {
    "VGG as given": (VGG, "clean", 0),
    "VGG, 70 % of channels": (VGG, SLIM, 0),
    "VGG, 70 % of channels, trained": (VGG, f"{SLIM},{LONGER}", 14, 1),
    "ResNet-20 as given": (RESNET, "clean", 0),
    "ResNet-20 / 2.1": (RESNET, HALF, 0),
    "ResNet-20 / 2.1, trained": (RESNET, f"{HALF},{TRAINED}", 3),
    "ResNet-20 / 2.1, trained longer": (RESNET, f"{HALF},{LONGER}", 10, 1),
    "ResNet-20, 0.4 of MACs": (RESNET, "prune(macs=0.4,samples=2048)", 0),
    "ResNet-20, 0.4 of MACs, distilled": (RESNET, f"prune(macs=0.4,samples=2048),{DISTILLED}", 3),
    "ResNet-20, 0.4 of MACs, half of the images": (RESNET, "prune(macs=0.4,samples=2048)", 0, 2),
    "ResNet-20, 0.4 of MACs, half of the images, distilled": (RESNET, f"prune(macs=0.4,samples=2048),{LONGEST}", 5, 2),
}  # fmt: skip


def main() -> None:
    args = trained_options(__doc__, 4).parse_args()
    (train, test), table = learnt_and_tested(args), Table(None if args.tune else RESULTS, args.only)
    judge = partial(classified, test=test)
    for name, (path, text, epochs, *share) in ROWS.items():
        if table.lacks(name):
            passes = text.format(epochs=epochs, threads=args.threads)
            every = share[0] if share else args.share
            seen = {n: a[::every] for n, a in train.items() if n != "labels" or "distilled" not in name}
            table.add(name, compressed(path, passes, seen, judge)[0])


if __name__ == "__main__":
    main()
