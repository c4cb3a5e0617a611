"""Channels cut from trained networks and trained on: the VGG, whose scales are slimmed (Liu 2017), and ResNet-20.

    python benchmarks/slimming.py --train FILE.npz --test FILE.npz [--only NAME] [--threads N] [--share N]

FILE.npz: `image` and `labels` of Fashion-MNIST as the networks take it. Accuracy is that of the files in ONNX Runtime; the
images of --test chose nothing. Writes benchmarks/results/slimming.json after each row; rows that stand there are kept.
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
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

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
    with np.load(args.test) as held:
        images, labels = held["image"], held["labels"]
    with np.load(args.train) as held:
        train = {n: a[:: args.share] for n, a in held.items()}
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, (path, text, epochs) in ROWS.items():
        if args.only not in name or name in found:
            continue
        passes, start = text.format(epochs=epochs, threads=args.threads), time.process_time()
        result = run_passes(load(path), passes, data=train, check="shapes")
        first, last = result.report.rows[0].before, result.report.rows[-1].after
        logits = Session(result.model.to_proto()).run({"image": images})["logits"]
        found[name] = {
            "passes": passes, "images": len(train["image"]), "accuracy": accuracy(logits, labels), "macs": last.macs / first.macs,
            "bytes": last.bytes / first.bytes, "seconds": round(time.process_time() - start, 1),
        }  # fmt: skip
        print(name, json.dumps(found[name]), flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
