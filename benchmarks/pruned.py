"""Does the time of a compiled network fall as its multiply-adds do, when channels are pruned or layers factored?

    python benchmarks/pruned.py [--rounds 15] [--json FILE]

Each network and what a pass makes of it run in turns on one thread, in processor time: a row has the share of MACs that is left, the
share of the time (median of the rounds' ratios), and `fall`, by how much the time fell for each that the MACs did: 1 is all of it, 0.7
is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from network_models import NETWORKS

import onnxc

RESULTS = Path(__file__).parent / "results/pruned.json"
FASHION = Path(onnxc.__file__).parent / "data/resnet20_fashion.onnx"
CASES = {
    "ResNet-20": (lambda: onnx.load(FASHION), ("prune(macs=0.5)", "lowrank.auto(macs=0.5)")),
    "MobileNet 0.25": (NETWORKS["MobileNet 0.25"], ("prune(macs=0.5)",)),
}
SLICE = 0.01  # seconds that each runs in a round


def macs(model: onnx.ModelProto) -> int:
    """Multiply-adds of the products, those of the kernels as they are compiled."""
    from onnxc.codegen import compile_model

    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(model, Path(folder) / "out", name="net", check="shapes")
    return sum(kernel["macs"] for kernel in report.kernels)


def compare(name: str, recipe: str, rounds: int) -> dict:
    """The row of one network and recipe."""
    model = onnxc.run_passes(CASES[name][0](), "clean,fuse").model.to_proto()
    small = onnxc.run_passes(model, recipe).model.to_proto()
    feed = model.graph.input[0]
    shape = [max(d.dim_value, 1) for d in feed.type.tensor_type.shape.dim]
    x = {feed.name: np.random.default_rng(0).standard_normal(shape, np.float32)}
    with tempfile.TemporaryDirectory() as home:
        made = [onnxc.compile(m, Path(home) / f"net{i}") for i, m in enumerate((model, small))]
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for library, spent in zip(made, times, strict=True):
                library.run(x)
                start, count = time.process_time(), 0
                while (taken := time.process_time() - start) < SLICE or not count:
                    library.run(x)
                    count += 1
                spent.append(taken / count)
    share = macs(small) / macs(model)
    left = statistics.median(b / a for a, b in zip(*times, strict=True))
    row = {"network": name, "recipe": recipe, "macs": round(share, 3), "time": round(left, 3)}
    return row | {"fall": round((1 - left) / (1 - share), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name, (_, recipes) in CASES.items():
        for recipe in recipes:
            rows.append(compare(name, recipe, args.rounds))
            print(rows[-1], flush=True)
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
