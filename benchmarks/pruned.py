"""Does the time of a compiled network fall as its multiply-adds do, when channels are pruned or layers factored?

    python benchmarks/pruned.py [NAME ...] [--rounds 25] [--json FILE]

Each network and what passes make of it run in turns on one thread, in processor time, in short turns: a row has the share of MACs that
is left, the share of the time (median of the rounds' ratios, with the quarters of the rounds below and above), and `fall`, by how much the
time fell for each that the MACs did: 1 is all of it, 0.7 is asked for. `predicted` is the share of the time by `codegen.predict`. Rows
go into benchmarks/results/pruned.json, by network and recipe; others there stay.
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
from onnxc.codegen import compile_model
from onnxc.codegen.predict import predict
from onnxc.ir.analysis import analyse
from onnxc.ir.cost import node_macs
from onnxc.ir.product import product_of
from onnxc.pipeline import load
from onnxc.runtime import library

RESULTS = Path(__file__).parent / "results/pruned.json"
FASHION = Path(onnxc.__file__).parent / "data/resnet20_fashion.onnx"
PRUNED, FACTORED = "prune(macs=0.5)", "lowrank.auto(macs=0.5, by=time)"
CASES = {
    "ResNet-20": (
        lambda: onnx.load(FASHION),
        (PRUNED, "prune(time=0.6)", FACTORED, "lowrank.auto(time=0.6)", "lowrank.auto(macs=0.5)"),
    ),
    "MobileNet 0.25": (NETWORKS["MobileNet 0.25"], (PRUNED,)),
    "ResNet-18": (NETWORKS["ResNet-18"], (PRUNED, FACTORED)),
    "ResNet-50": (NETWORKS["ResNet-50"], (PRUNED,)),
    "MobileNet v2": (NETWORKS["MobileNet v2"], (PRUNED,)),
    "VGG-16": (NETWORKS["VGG-16"], (PRUNED,)),
}
SLICE = 0.01  # seconds that each runs in a turn


def macs_and_time(model: onnx.ModelProto) -> tuple[int, float]:
    """Multiply-adds of the model's products, and the cycles that they are predicted to take."""
    found = load(model)
    analysis = analyse(found)
    products = [p for p in (product_of(analysis, node) for node in found.nodes) if p is not None]
    native = predict("native")
    macs = sum(node_macs(analysis, node) for node in found.nodes)
    return macs, sum(map(native, products))


def built(model: onnx.ModelProto, folder: Path) -> library.Library:
    """The library of a model whose passes have been checked elsewhere."""
    compile_model(model, folder, name="net", check="shapes")
    return library.Library(folder)


def compare(name: str, recipes: tuple[str, ...], rounds: int) -> list[dict]:
    """The rows of one network: all that is made of it takes turns with the network itself."""
    model = onnxc.run_passes(CASES[name][0](), "clean,fuse", check="shapes").model.to_proto()
    models = [model, *(onnxc.run_passes(model, recipe, check="shapes").model.to_proto() for recipe in recipes)]
    feed = model.graph.input[0]
    shape = [max(d.dim_value, 1) for d in feed.type.tensor_type.shape.dim]
    x = {feed.name: np.random.default_rng(0).standard_normal(shape, np.float32)}
    with tempfile.TemporaryDirectory() as home:
        made = [built(m, Path(home) / f"net{i}") for i, m in enumerate(models)]
        times: list[list[float]] = [[] for _ in made]
        for turn in range(rounds):
            for i in [*range(turn % len(made), len(made)), *range(turn % len(made))]:
                made[i].run(x)  # what follows finds its own weights in the caches
                start, count = time.process_time(), 0
                while (taken := time.process_time() - start) < SLICE or not count:
                    made[i].run(x)
                    count += 1
                times[i].append(taken / count)
    (whole, cycles), *costs = (macs_and_time(m) for m in models)
    rows = []
    for recipe, (macs, least), spent in zip(recipes, costs, times[1:], strict=True):
        low, left, high = statistics.quantiles((b / a for a, b in zip(times[0], spent, strict=True)), n=4)
        share = macs / whole
        row = {"network": name, "recipe": recipe, "macs": round(share, 3), "time": round(left, 3)}
        row |= {"between": [round(low, 3), round(high, 3)], "predicted": round(least / cycles, 3)}
        rows.append(
            row | {"milliseconds": round(statistics.median(spent) * 1e3, 4), "fall": round((1 - left) / (1 - share), 3)}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all if left out")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json.exists() else []
    for name in args.names or CASES:
        rows = compare(name, CASES[name][1], args.rounds)
        print(*rows, sep="\n", flush=True)
        found = [row for row in found if row["network"] != name] + rows
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
