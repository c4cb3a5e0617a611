"""Threads of one handle: how much faster several are than one, beside what the machine has to give at that moment.

    python benchmarks/threads.py [--threads 2] [--rounds 60] [--json FILE]

In every round each candidate runs once, in turns: the model on one thread, on N threads of one handle, and N times at once
on N handles of one thread each. The last says how much N threads can do here: on a quiet machine about N times, on a busy
one less. `speedup` is the first time by the second, `attainable` N times the first by the third, each the median over
the rounds and the best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import numpy_helper, parser

import onnxc
from onnxc.codegen import compile_model
from onnxc.runtime.library import Library

CONV = """<ir_version: 8, opset_import: ["": 17]>
  g (float[1,{c},{s},{s}] x) => (float[1,{c},{s},{s}] y) {{ a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a) }}"""


def convolution(channels: int, size: int) -> onnx.ModelProto:
    """A 3x3 convolution of `channels` to `channels`, size x size."""
    made = parser.parse_model(CONV.format(c=channels, s=size))
    weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype("f")
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


def seconds(call) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def at_once(libraries: list[Library], feeds: dict) -> None:
    """One run on each, at the same time."""
    workers = [threading.Thread(target=library.run, args=[feeds]) for library in libraries]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def measure(model: onnx.ModelProto, threads: int, rounds: int, folder: Path) -> dict:
    """The row of one model."""
    compile_model(model, folder, name="net", threads=threads)
    one, many = Library(folder, 1), Library(folder, threads)
    feeds = {n: np.random.default_rng(1).standard_normal(s).astype(d) for n, (s, d) in one.inputs.items()}
    runs = max(1, round(0.01 / min(seconds(lambda: one.run(feeds)) for _ in range(5))))
    repeated = [Repeated(library, runs) for library in (one, many, *[one] * threads)]
    calls = [lambda: repeated[0].run(feeds), lambda: repeated[1].run(feeds), lambda: at_once(repeated[2:], feeds)]
    times: list[list[float]] = [[], [], []]
    for turn in range(rounds):
        for i in range(3):
            times[(turn + i) % 3].append(seconds(calls[(turn + i) % 3]) / runs)
    speedups = [a / b for a, b, _ in zip(*times)]
    attainable = [threads * a / c for a, _, c in zip(*times)]
    return {
        "microseconds": round(min(times[0]) * 1e6, 1),
        "speedup": {"median": round(statistics.median(speedups), 3), "best": round(min(times[0]) / min(times[1]), 3)},
        "attainable": {
            "median": round(statistics.median(attainable), 3),
            "best": round(threads * min(times[0]) / min(times[2]), 3),
        },
    }


class Repeated:
    """A library that runs several times a call, so that starting Python's threads does not count."""

    def __init__(self, library: Library, runs: int):
        self.library, self.runs = library, runs

    def run(self, feeds: dict) -> None:
        """`runs` runs."""
        for _ in range(self.runs):
            self.library.run(feeds)


def main() -> None:
    """Prints a row a model, and writes them as JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--json")
    given = options.parse_args()
    models = {
        "3x3 convolution, 64 channels, 56x56": convolution(64, 56),
        "3x3 convolution, 256 channels, 14x14": convolution(256, 14),
        "ResNet-20": onnx.load(Path(onnxc.__file__).parent / "data/resnet20_fashion.onnx"),
    }
    rows = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(model, given.threads, given.rounds, Path(folder))
        print(name, rows[name])
    if given.json:
        text = {"onnxc": onnxc.__version__, "threads": given.threads, "rounds": given.rounds, "rows": rows}
        Path(given.json).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
