"""Deep Compression with training: LeNet-300-100, LeNet-5 and ResNet-20, trained, cut, shared and packed, stage by stage.

    PYTHONPATH=. python benchmarks/lenet.py --train FILE.npz --test FILE.npz --name fashion|mnist [--only NET] [--share N]
        [--threads N] [--seed S] [--tune]

FILE.npz: `image` float32 [n, 1, 28, 28] and `labels`. The stages behind "trained" are one pass list, whose teacher is the
network as trained; accuracy is that of the unpacked archive in ONNX Runtime on --test, which chose nothing, and ratios are
bytes of float32 weights by bytes of the archive. What the lists say was chosen by --tune (ResNet-20's beforehand, by what
served other networks): every fifth image of --train is measured in place of --test, the others are trained
on, and nothing is written. Han's stages beside: 12x cut, 32x shared, 40x
coded (LeNet-300-100); 12x, 33x, 39x (LeNet-5). ResNet-20 is the bundled one, for Fashion-MNIST (examples/recipes/fashion.py).
Writes benchmarks/results/lenet.json after each stage; --share: train on every N-th image; --seed: other weights to begin with, and
another training throughout, in rows of their own.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import onnxc
from benchmarks.rows import Data, arrays, trained_options
from benchmarks.small_networks import lenet
from onnxc.coding import pack, unpack
from onnxc.passes.base import Context, Pass, Report
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

RESULTS = Path(__file__).resolve().parent / "results/lenet.json"
RESNET = RESULTS.parents[2] / "onnxc/data/resnet20_fashion.onnx"
SHARED, LENET5 = "batch=128,held=0.02", "batch=64,held=0"
ALL = "distil=true,batch=64,augment=[flip,shift],held=0,threads=THREADS"
MIXED = "distil=true,augment=[flip,mix],batch=128,held=0,precision=bfloat16"
HELD = 5
"""Every so-many-th image of --train is measured where options are chosen."""
STAGES = {
    "LeNet-300-100 mnist": {
        "trained": f"train.finetune(epochs=15,augment=[shift],{SHARED})",
        "cut": f"train.prune_retrain(sparsity=0.94,sparsity_by={{ip2: 0.9, ip3: 0.6}},epochs=50,augment=[shift],{SHARED})",
        "shared": f"train.cluster(bits=4,store=floats,epochs=20,{SHARED})",
    },
    "LeNet-300-100 fashion": {
        "trained": f"train.finetune(epochs=15,augment=[flip],{SHARED})",
        "cut": f"train.prune_retrain(sparsity=0.895,sparsity_by={{ip2: 0.8, ip3: 0.4}},epochs=50,rate=0.003,average=0.999,{MIXED})",
        "shared": "train.cluster(bits=3,bits_by={ip2: 4, ip3: 4},assign=moving,biases=4,store=floats,epochs=12,rate=0.0005,"
        f"average=0.999,{MIXED})",
    },
    "LeNet-5 fashion": {
        "trained": f"train.finetune(epochs=8,rate=0.002,augment=[flip],{LENET5})",
        "cut": "train.prune_retrain(sparsity=0.9,sparsity_by={conv1: 0.1, conv2: 0.5, ip1: 0.927, ip2: 0.5},epochs=10,"
        f"rate=0.003,average=0.999,{MIXED})",
        "shared": f"train.cluster(bits=3,bits_by={{'conv*': 4}},store=floats,epochs=3,rate=0.0003,average=0.99,{MIXED})",
    },
    "LeNet-5 mnist": {
        "trained": f"train.finetune(epochs=20,rate=0.002,augment=[shift],{LENET5})",
        "cut": "train.prune_retrain(sparsity=0.9,sparsity_by={conv1: 0.4, conv2: 0.88, ip1: 0.95, ip2: 0.8},epochs=40,"
        f"rate=0.002,augment=[shift],{LENET5})",
        "shared": f"train.cluster(bits=4,bits_by={{'conv*': 6}},store=floats,epochs=15,rate=0.0005,augment=[shift],{LENET5})",
    },
    "ResNet-20 fashion": {
        "trained": "clean",
        "solved": "prune.obs(0.83)",
        "cut": f"train.finetune(epochs=6,rate=0.003,{ALL}),fuse",
        "shared": f"train.cluster(bits=3,store=floats,epochs=1,rate=0.0005,{ALL})",
    },
}  # fmt: skip


@dataclass(repr=False, eq=False)
class Look(Pass):
    """Shows the model, as the passes ahead leave it, to a function, with the name of the stage."""

    name = "look"
    show: Callable[[onnxc.Model, str], None]
    stage: str

    def run(self, model: onnxc.Model, ctx: Context) -> Report:
        self.show(model, self.stage)
        return Report()


def measure(model: onnxc.Model, test: Data) -> dict:
    """Bytes of the archive and the accuracy of what comes out of it."""
    with tempfile.TemporaryDirectory() as folder:
        path, archive, back = (Path(folder) / name for name in ("m.onnx", "m.onnxz", "back.onnx"))
        model.save(path)
        size = pack(path, archive).after
        unpack(archive, back)
        session = Session(onnxc.load(back).to_proto())
        (logits,) = session.run({"image": test["image"]}).values()
    weights = [t.values for t in model.constants().values() if t.values.dtype.kind == "f"]
    return {
        "packed": size, "accuracy": accuracy(logits, test["labels"]),
        "nonzero": float(sum((w != 0).sum() for w in weights) / sum(w.size for w in weights)),
    }  # fmt: skip


def main() -> None:
    parser = trained_options(__doc__, 1)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = arrays(args.train, args.share), arrays(args.test)
    if args.tune:
        apart = np.arange(len(train["labels"])) % HELD == HELD - 1
        train, test = {n: a[~apart] for n, a in train.items()}, {n: a[apart] for n, a in train.items()}
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, stages in STAGES.items():
        if args.only not in name or not name.endswith(args.name):
            continue
        model = onnxc.load(RESNET if name.startswith("ResNet-20") else lenet(name.split()[0], args.seed))
        size = sum(4 * t.values.size for t in model.constants().values() if t.values.dtype.kind == "f")
        rows = found[f"{name}, seed {args.seed}" if args.seed else name] = {}
        start = time.process_time()

        def named(stage: str) -> str:
            return stages[stage].replace("THREADS", str(args.threads))

        def show(model: onnxc.Model, stage: str) -> None:
            nonlocal start
            row = {"passes": named(stage), "images": len(train["labels"]), **measure(model, test)}
            row |= {"ratio": round(size / row["packed"], 2), "seconds": round(time.process_time() - start, 1)}
            rows[stage], start = row, time.process_time()
            print(name, stage, json.dumps(row), flush=True)
            if not args.tune:
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")

        trained, *rest = stages
        for part in ([trained], rest):
            passes = [p for stage in part for p in (named(stage), Look(show, stage))]
            model = onnxc.run_passes(model, passes, data=train, check="shapes", seed=args.seed).model


if __name__ == "__main__":
    main()
