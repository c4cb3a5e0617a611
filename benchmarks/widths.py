"""What multiples of 16 are worth: models cut and factored with `round_to=1` and with `round_to=auto`, timed in turns.

    python benchmarks/widths.py [--json FILE]

The *_fashion.onnx of --models (the bundled ResNet-20) on Fashion-MNIST: the first 256 of --calib are given to the passes, --test is reported.
A network of 1x1 and depthwise convolutions has random weights: time alone. Time: ONNX Runtime, one thread, one sample, the least of
interleaved rounds, by that of `clean,fuse`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxc
from onnxc.measure.bench import measure
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
RECIPES = (
    "prune(ratio=0.3{})",
    "prune(ratio=0.5{})",
    "prune(macs=0.5{})",
    "prune(macs=0.7{})",
    "lowrank(macs=0.5{})",
    "lowrank.cp(macs=0.5{})",
)
ROUNDS = 41


def mobile(width: int = 32, blocks: int = 6, side: int = 32) -> onnx.ModelProto:
    """Blocks of 1x1 to 4 * width, depthwise 3x3 and 1x1 to width, with shortcuts."""
    rng, weights, nodes, x = np.random.default_rng(0), [], [], "x"

    def conv(y: str, x: str, *shape: int, **attrs) -> str:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w_{y}"))
        weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"b_{y}"))
        nodes.append(helper.make_node("Conv", [x, f"w_{y}", f"b_{y}"], [y], **attrs))
        return y

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}_relu"]))
        return f"{x}_relu"

    n = 4 * width
    for k in range(blocks):
        y = relu(conv(f"e{k}", x, n, width, 1, 1))
        y = relu(conv(f"d{k}", y, n, 1, 3, 3, group=n, pads=[1] * 4))
        y = conv(f"p{k}", y, width, n, 1, 1)
        nodes.append(helper.make_node("Add", [x, y], [f"x{k}"]) if k else helper.make_node("Identity", [y], [f"x{k}"]))
        x = f"x{k}"
    nodes += [helper.make_node("GlobalAveragePool", [x], ["g"]), helper.make_node("Flatten", ["g"], ["flat"])]
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["y"]))
    weights.append(numpy_helper.from_array(rng.standard_normal((width, 10)).astype(np.float32), "head"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "mobile", [value("x", 1, ["N", width, side, side])], [value("y", 1, ["N", 10])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows(name: str, model, data, test: dict[str, np.ndarray] | None, sample: dict[str, np.ndarray]) -> list[dict]:
    base = onnxc.run_passes(model, "clean,fuse", check="shapes").model
    models, found = {"base": base}, []
    for recipe in RECIPES:
        for how in ("round_to=1", "round_to=auto"):
            passes = recipe.format(f",{how}")
            try:
                result = onnxc.run_passes(base, passes, data=data, check="shapes")
            except onnxc.ir.errors.BadOption as e:
                found.append({"model": name, "recipe": passes, "refused": e.what})
                continue
            last = result.report.rows[-1]
            row = {"model": name, "recipe": passes, "macs": round(last.after.macs / last.before.macs, 3)}
            row["params"] = round(last.after.params / last.before.params, 3)
            if test is not None:
                logits = Session(result.model.to_proto()).run({"image": test["image"]})["logits"]
                row["accuracy"] = round(accuracy(logits, test["labels"]), 4)
            models[passes] = result.model
            found.append(row)
    sessions = {key: Session(m.to_proto()) for key, m in models.items()}
    timed = measure({key: (lambda s=s: s.run(sample)) for key, s in sessions.items()}, rounds=ROUNDS)
    best = {row.name: row.best for row in timed}
    for row in found:
        if row["recipe"] in best:
            row["time"] = round(best[row["recipe"]] / best["base"], 3)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", type=Path, default=ROOT / "onnxc/data", help="folder of *_fashion.onnx")
    p.add_argument("--calib", type=Path, default=ROOT / "onnxc/data/fashion_calib.npz")
    p.add_argument("--test", type=Path, default=ROOT / "onnxc/data/fashion_test.npz")
    p.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/widths.json")
    args = p.parse_args()
    test = dict(np.load(args.test))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.npz"
        np.savez(given, image=np.load(args.calib)["image"][:256])
        x = np.random.default_rng(1).standard_normal((1, 32, 32, 32)).astype(np.float32)
        found += rows("1x1 and depthwise", mobile(), None, None, {"x": x})
        for path in sorted(args.models.glob("*_fashion.onnx")):
            if not path.stem.startswith("binary"):
                found += rows(path.stem, path, given, test, {"image": test["image"][:1]})
    for row in found:
        print(row)
    args.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
