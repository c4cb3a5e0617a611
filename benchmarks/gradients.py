"""Cheaper gradients and short formats on LeNet-300-100: accuracy beside plain training, bytes that two processes send.

    PYTHONPATH=. python benchmarks/gradients.py --train FILE.npz --test FILE.npz [--epochs N] [--only NAME]

FILE.npz: `image` float32 [n, 1, 28, 28] and `labels`. Two processes are started as torchrun starts them. Accuracy is ONNX
Runtime's on --test. Last, the backward pass of single layers, whole and of 4 % of the units. Writes benchmarks/results/gradients.json after each row; rows that stand there are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import onnxc
from benchmarks.rows import Table
from benchmarks.small_networks import lenet
from onnxc.passes.train.objective import Arithmetic
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session
from onnxc.torch.arithmetic import at_products, skipping

RESULTS = Path(__file__).resolve().parent / "results/gradients.json"
BATCH, UNITS = (f",topk_gradient=0.04,topk_over={over}" for over in ("batch", "units"))
LAYERS, ROUNDS = (300, 500, 2000), 15
"""Units of the layers whose backward pass is timed, and how often each is run."""
ROWS = {
    "plain": (1, 1, ""), "meProp, 4 %": (1, 1, ",topk_gradient=0.04"), "meProp, 4 % of the batch": (1, 1, BATCH),
    "TernGrad": (1, 1, ",ternary_gradient=true"), "16-bit shared exponent": (1, 1, ",shared_exponent=16"),
    "16-bit fixed point, 12 behind": (1, 1, ",fixed_point=12"), "plain, 2 processes": (2, 1, ""),
    "TernGrad, 2 processes": (2, 1, ",ternary_gradient=true"), "plain, thrice the epochs": (1, 3, ""),
    "meProp, 4 % of the batch, thrice the epochs": (1, 3, BATCH), "meProp, 4 % of the units": (1, 1, UNITS),
    "meProp, 4 % of the units, thrice the epochs": (1, 3, UNITS),
}  # fmt: skip
"""(processes, by how much longer, options)"""


def train(path: str, passes: str, test: str) -> dict:
    """The row of one training, as this process sees it."""
    start = time.process_time()
    with np.load(path) as learnt, np.load(test) as held:
        result = onnxc.run_passes(lenet("LeNet-300-100"), passes, data=dict(learnt), check="shapes")
        logits = next(iter(Session(result.model.to_proto()).run({"image": held["image"]}).values()))
        sent = result.report.rows[-1].trainings[0]["sent"]
        row = {"accuracy": accuracy(logits, held["labels"]), "sent": sent}
    return {**row, "seconds": round(time.process_time() - start, 1)}


def backward(units: int) -> dict:
    """Processor time of the backward pass of a layer of as many inputs as units, 128 samples: whole, and of 4 % of its units."""
    torch.set_num_threads(1)
    x, w = (torch.randn(*shape, requires_grad=True) for shape in ((128, units), (units, units)))
    grad = torch.randn(128, units)
    at = at_products(Arithmetic(topk=0.04, topk_over="units"))
    times: dict[str, list[float]] = {"whole": [], "4 % of the units": []}
    for _ in range(ROUNDS):
        for name, taken in times.items():
            y = x @ w if name == "whole" else at(skipping(x, w), False, -1)
            start = time.process_time()
            torch.autograd.grad(y, (x, w), grad)
            taken.append(time.process_time() - start)
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    return {f"{name}, us": round(1e6 * t, 1) for name, t in middle.items()} | {
        "faster": round(middle["whole"] / middle["4 % of the units"], 1)
    }


def together(count: int, arguments: list[str]) -> dict:
    """The row of the first of `count` processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, *arguments]
    started = [
        subprocess.Popen(command, env={**env, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    told = [p.communicate()[0] for p in started]
    return json.loads(told[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--passes", help="of one training, whose row is printed")
    args = parser.parse_args()
    if args.passes:
        print(json.dumps(train(args.train, args.passes, args.test)))
        return
    table = Table(RESULTS, args.only)
    for name, (count, longer, option) in ROWS.items():
        if table.lacks(name):
            passes = f"train.finetune(epochs={longer * args.epochs},batch=128,rate=0.003,held=0.02{option})"
            row = together(count, ["--train", args.train, "--test", args.test, "--passes", passes])
            table.add(name, {"passes": passes, **row})
    for units in LAYERS:
        if table.lacks(f"backward, {units} units"):
            table.add(f"backward, {units} units", backward(units))


if __name__ == "__main__":
    main()
