"""3 x 3 layers of ResNet-18, VGG-16 and U-Net: Winograd's forms beside the direct kernel and ONNX Runtime.

    python benchmarks/winograd.py [--rounds 9] [--json benchmarks/results/winograd.json]

Scale and bias, channels-last, one thread. ONNX Runtime runs four of a layer in one session (`kernels.ort_four`). All candidates of
a layer take turns in one run; times are CPU time, ratios medians over rounds. "error" is the largest difference from the
direct kernel as a share of the largest value.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from kernels import layer, mean, ort_four
from native import Kernels, aligned

from onnxc.codegen.kernels import choose, float32, winograd
from onnxc.codegen.kernels.winograd_form import F2, F4
from onnxc.codegen.target import resolve
from onnxc.measure.bench import measure

RESULTS = Path(__file__).parent / "results/winograd.json"
LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512), (224, 64), (112, 128), (56, 256), (28, 512), (14, 512), (128, 32))


def row(extent: int, channels: int, rounds: int) -> dict:
    """One layer."""
    target, rng = resolve("native"), np.random.default_rng(0)
    spec = layer(extent, extent, channels, channels, 3)
    plans = {"direct": (float32.FAMILY, float32.schedule(spec, target))}
    for form, name in ((F2, "f2"), (F4, "f4")):
        plans[name] = (winograd.FAMILY, winograd.plan_of(spec, target, form, name))
    weights = (rng.standard_normal((channels, channels, 3, 3)) / math.sqrt(9 * channels)).astype("f")
    x, given = (
        aligned(rng.standard_normal(spec.x_shape).astype("f")),
        [aligned(rng.random(channels, np.float32)) for _ in "sb"],
    )
    arrays = {
        name: [x, aligned(family.pack(spec, plan, weights)), *given, aligned(np.zeros(spec.y_shape, "f"))]
        for name, (family, plan) in plans.items()
    }
    kernels = Kernels({name: family.emit(spec, plan, name) for name, (family, plan) in plans.items()}, target)
    calls = {name: kernels.caller((name, *held), turns=4) for name, held in arrays.items()}
    rows = {r.name: r for r in measure(calls | {"onnxruntime": ort_four(spec, False, rng)}, rounds=rounds, clock="cpu")}
    wanted = arrays["direct"][-1]
    chosen = choose(spec, target)[1].rule.rsplit(".", 1)[1]
    return {
        "layer": f"{channels} on {extent} x {extent}", "chosen": chosen,
        "microseconds": {name: round(r.median / 4 * 1e6, 1) for name, r in rows.items()},
        "by_direct": {name: round(1 / rows[name].ratio, 3) for name in ("f2", "f4")},
        "by_onnxruntime": {name: round(rows["onnxruntime"].ratio / rows[name].ratio, 3) for name in plans},
        "error": {name: float(f"{np.abs(arrays[name][-1] - wanted).max() / np.abs(wanted).max():.2g}") for name in ("f2", "f4")},
        "weight_bytes": {name: held[1].nbytes for name, held in arrays.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for extent, channels in LAYERS:
        rows.append(row(extent, channels, args.rounds))
        print(json.dumps(rows[-1]), flush=True)
    best = [
        {"by_onnxruntime": r["by_onnxruntime"][r["chosen"]], "by_direct": r["by_direct"].get(r["chosen"], 1.0)}
        for r in rows
    ]
    means = {key: round(mean(best, key), 3) for key in best[0]}
    print("what is chosen, geometric means:", means)
    args.json.write_text(json.dumps({"rows": rows, "mean": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
