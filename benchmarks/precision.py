"""Time of a step of training in float32 and in bfloat16: processor time in turns, by labels and a teacher, batches of 64.

    PYTHONPATH=. python benchmarks/precision.py

The images are bundled; what is learnt does not matter here. Writes benchmarks/results/precision.json: milliseconds an image, the
median over groups of ten steps, and whether the processor multiplies bfloat16.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import onnxc
from benchmarks.rows import arrays
from onnxc.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/precision.json"
NETWORKS = {"ResNet-20": ROOT / "onnxc/data/resnet20_fashion.onnx", "VGG": ROOT / "tests/data/vggslim_fashion.onnx"}
PASSES = (
    "train.finetune(epochs=1,rate=0.0001,distil=true,batch={batch},held=0,augment=[flip,shift],precision={precision})"
)
BATCH, STEPS, ROUNDS = 64, 21, 3


def groups(model: onnxc.Model, data: dict[str, np.ndarray], precision: str) -> list[float]:
    """Processor time of each ten steps of one epoch but the first, in seconds."""
    ticks: list[float] = []

    def heard(text: str, share: float) -> None:
        if ", loss" in text:
            ticks.append(time.process_time())

    pipeline = Pipeline(PASSES.format(batch=BATCH, precision=precision), data=data, check="shapes")
    pipeline.detail = heard
    pipeline.transform(model)
    return [b - a for a, b in pairwise(ticks)]


def main() -> None:
    data = {n: a[: BATCH * STEPS] for n, a in arrays(str(ROOT / "onnxc/data/fashion_test.npz")).items()}
    found = {"bfloat16": bool(torch.cpu.get_capabilities().get("avx512_bf16")), "torch": torch.__version__}
    for name, path in NETWORKS.items():
        times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(ROUNDS):
            for precision, seen in times.items():
                seen += groups(onnxc.load(path), data, precision)
        row = {p: round(1e3 * statistics.median(t) / (10 * BATCH), 3) for p, t in times.items()}
        found[name] = row | {"ratio": round(row["float32"] / row["bfloat16"], 2)}
        print(name, json.dumps(found[name]), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
