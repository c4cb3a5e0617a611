"""A network of one-bit weights and one-bit inputs (W1A1) in under 12 kB, trained on Fashion-MNIST: first in float, then by signs.

    PYTHONPATH=. python benchmarks/one_bit.py --train FILE.npz --test FILE.npz [--share N] [--threads N] [--tune]

FILE.npz: `image` and `labels` of Fashion-MNIST (examples/recipes/fashion.py). The 1,000 words of keyword spotting that MLPerf
Tiny brings are its test set, and no others are at hand to train on; so the network is trained on images. Its first and last layer
keep their floats, as in the papers; the six 3x3 layers between multiply bits. Accuracy is ONNX Runtime's on --test, which
chose nothing: --tune measures the last 4,000 of --train instead, which are then not trained on, and writes nothing. Writes
benchmarks/results/one_bit.json.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx

from benchmarks.rows import Table, classified, compressed, learnt_and_tested, trained_options
from benchmarks.small_networks import Chain

RESULTS = Path(__file__).resolve().parent / "results/one_bit.json"
WIDTH, LARGE, SMALL = 32, 2, 4
SHARED = "batch=64,held=0,precision=bfloat16,threads={threads}"
FLOAT = f"train.finetune(epochs=1,rate=0.004,{SHARED})"
BINARY = f"train.binary(inputs=sign,smooth=true,epochs=5,rate=0.005,{SHARED}),fuse,quant.recognise,clean"


def network(seed: int = 0) -> onnx.ModelProto:
    """A first layer, blocks x + norm(conv(clip(x))) of WIDTH channels, LARGE at 14x14 and SMALL at 7x7 (Bi-Real, Liu 2018), a last layer.

    The clip to [-1, 1] is what a sign is the limit of: binary weights start from a network that already reads such inputs
    (Martinez 2020).
    """
    net = Chain(seed)
    net.layer("Conv", "first", WIDTH, 1, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    net.norm("norm", WIDTH)
    low, high = (net.weight(name, value) for name, value in (("low", -1.0), ("high", 1.0)))
    for k in range(LARGE + SMALL):
        if k == LARGE:
            net.then("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
        x = net.last
        net.then("Clip", more=(low, high))
        net.layer("Conv", f"conv{k}", WIDTH, WIDTH, 3, 3, bias=False, pads=[1, 1, 1, 1])
        net.norm(f"norm{k}", WIDTH)
        net.then("Add", more=(x,))
    net.then("GlobalAveragePool")
    net.then("Flatten")
    net.layer("Gemm", "last", 10, WIDTH, transB=1)
    return net.model()


def main() -> None:
    args = trained_options(__doc__, 1).parse_args()
    (train, test), table = learnt_and_tested(args), Table(None if args.tune else RESULTS)
    train = {n: a[:: args.share] for n, a in train.items()}
    judge, model = partial(classified, test=test), network()
    for name, passes in (("float", FLOAT), ("W1A1", BINARY)):
        row, model = compressed(model, passes.format(threads=args.threads), train, judge)
        table.add(name, row)


if __name__ == "__main__":
    main()
