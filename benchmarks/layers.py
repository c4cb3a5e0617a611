"""What `--profile` and `--tune` say of whole networks: how near the sum of layers is to a run, how much of ONNX Runtime's time is matched
with layers, what runs by the general schedule, and what tuning gives.

    python benchmarks/layers.py [NAME ...] [--forms float32 int8] [--tune SECONDS] [--json FILE]

The networks are those of `network_models.py` with random weights, int8 as in `networks.py`. `sum_by_run`: medians of all layers, summed,
by the median of a run of the library without clocks; `matched`: the share of ONNX Runtime's kernel time that stands beside a layer;
`tuned`: the time of the tuned library by that of the predicted one, both in turns (1 where the predicted kernels stay). The times that
tuning measures are wall times in turns; its measurements are kept in a file that is new for each run. Rows go into
benchmarks/results/layers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx
from network_models import NETWORKS
from networks import quantised

from onnxc.compiling import once, optimiser
from onnxc.ir.files import load
from onnxc.measure.learnt import Learnt
from onnxc.measure.profile import profile
from onnxc.measure.tune import tuned

RESULTS = Path(__file__).parent / "results" / "layers.json"
LIGHT = ("ResNet-8", "MobileNet 0.25", "DS-CNN", "autoencoder")


def row(model: onnx.ModelProto, seconds: float | None) -> dict:
    """The figures of a network."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "net.onnx"
        onnx.save(model, path)
        optimise = once(optimiser("shapes"))
        found = profile(str(path), optimise=optimise)
        beside = sum(layer.ort_seconds or 0.0 for layer in found.layers)
        whole = beside + sum(kernel.seconds for kernel in found.unmatched)
        made = {
            "layers": len(found.layers), "run_us": round(1e6 * found.seconds, 1), "sum_by_run": round(found.total / found.seconds, 3),
            "matched": round(beside / whole, 3), "general": round(found.general, 4),
        }  # fmt: skip
        if seconds is not None:
            options = {"target": "native", "shapes": None, "threads": 1, "weights": "raw", "optimise": optimise}
            done = tuned(load(str(path)), seconds, Learnt(Path(name) / "tune.json"), options)
            made |= {"tuned": round(done.ratio, 3) if done.paid and done.ratio else 1.0, "changed": len(done.rows) if done.paid else 0,
                     "measured": done.measured, "left": done.left, "whole_if_used": done.ratio and round(done.ratio, 3)}  # fmt: skip
        return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(LIGHT))
    parser.add_argument("--forms", nargs="+", default=["float32", "int8"])
    parser.add_argument("--tune", type=float)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name in arguments.names:
        for form in arguments.forms:
            model = NETWORKS[name]()
            if form == "int8":
                shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
                with tempfile.TemporaryDirectory() as folder:
                    model = quantised(model, shape, Path(folder))
            made = row(model, arguments.tune)
            results[f"{name}, {form}"] = made
            print(f"{name}, {form}: {made}", flush=True)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
