"""Deep Compression with training: LeNet-300-100, LeNet-5 and ResNet-20, trained, cut, shared and packed, stage by stage.

    PYTHONPATH=. python benchmarks/lenet.py --train FILE.npz --test FILE.npz --name fashion|mnist [--only NET] [--share N] [--tune]

FILE.npz: `image` float32 [n, 1, 28, 28] and `labels`. Each stage is a pass list on what the stage before left; accuracy is
that of the unpacked archive in ONNX Runtime on --test, which chose nothing, and ratios are bytes of float32 weights by bytes
of the archive. What the lists say was chosen by --tune: every fifth image of --train is measured in place of --test, the
others are trained on, and nothing is written. Han's stages beside: 12x cut, 32x shared, 40x coded (LeNet-300-100); 12x, 33x, 39x (LeNet-5). ResNet-20 is the bundled one, for Fashion-MNIST (examples/recipes/fashion.py, --share 4).
Writes benchmarks/results/lenet.json after each stage; --share: train on every N-th image.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import onnxc
from benchmarks.rows import options
from benchmarks.small_networks import lenet
from onnxc.coding import pack, unpack
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

RESULTS = Path(__file__).resolve().parent / "results/lenet.json"
RESNET = RESULTS.parents[2] / "onnxc/data/resnet20_fashion.onnx"
SHARED, LENET5 = "batch=128,held=0.02", "batch=64,held=0"
SOLVED = 256
"""Images that passes see which solve instead of training."""
HELD = 5
"""Every so-many-th image of --train is measured where options are chosen."""
STAGES = {
    "LeNet-300-100": {
        "trained": f"train.finetune(epochs=15,augment=[shift],{SHARED})",
        "cut": f"train.prune_retrain(sparsity=0.94,sparsity_by={{ip2: 0.9, ip3: 0.6}},epochs=50,augment=[shift],{SHARED})",
        "shared": f"train.cluster(bits=4,store=floats,epochs=20,{SHARED})",
    },
    "LeNet-5": {
        "trained": f"train.finetune(epochs=20,rate=0.002,augment=[shift],{LENET5})",
        "cut": "train.prune_retrain(sparsity=0.9,sparsity_by={conv1: 0.4, conv2: 0.88, ip1: 0.95, ip2: 0.8},epochs=40,"
        f"rate=0.002,augment=[shift],{LENET5})",
        "shared": f"train.cluster(bits=4,bits_by={{'conv*': 6}},store=floats,epochs=15,rate=0.0005,augment=[shift],{LENET5})",
    },
    "ResNet-20": {
        "trained": "clean",
        "solved": "fuse,prune.obs(0.83,scope=global)",
        "cut": f"train.finetune(epochs=2,rate=0.001,augment=[shift],{LENET5})",
        "shared": f"train.cluster(bits=3,store=floats,epochs=1,rate=0.0005,{LENET5})",
    },
}  # fmt: skip


def measure(model: onnxc.Model, test: dict[str, np.ndarray]) -> dict:
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
    parser = options(__doc__, 1)
    parser.add_argument("--name", required=True)
    parser.add_argument("--tune", action="store_true", help="measure on a part of --train, write nothing")
    args = parser.parse_args()
    with np.load(args.test) as held, np.load(args.train) as learnt:
        test, train = dict(held), {n: a[:: args.share] for n, a in learnt.items()}
    if args.tune:
        apart = np.arange(len(train["labels"])) % HELD == HELD - 1
        train, test = {n: a[~apart] for n, a in train.items()}, {n: a[apart] for n, a in train.items()}
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, stages in STAGES.items():
        if args.only not in name:
            continue
        model = onnxc.load(RESNET if name == "ResNet-20" else lenet(name))
        rows = found.setdefault(f"{name} {args.name}", {})
        size = sum(4 * t.values.size for t in model.constants().values() if t.values.dtype.kind == "f")
        for stage, passes in stages.items():
            start = time.process_time()
            seen = train if "train." in passes else {n: a[:SOLVED] for n, a in train.items()}
            model = onnxc.run_passes(model, passes, data=seen, check="shapes").model
            rows[stage] = {"passes": passes, "images": len(seen["image"]), **measure(model, test)}
            rows[stage]["ratio"] = round(size / rows[stage]["packed"], 2)
            rows[stage]["seconds"] = round(time.process_time() - start, 1)
            print(name, args.name, stage, json.dumps(rows[stage]), flush=True)
            if not args.tune:
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
