"""8-bit layers and networks beside ONNX Runtime's 8-bit and float kernels, one thread, interleaved, CPU time.

    PYTHONPATH=. python benchmarks/int8.py [--rounds N]

Layers are the 3x3 convolutions of ResNet-18 (QDQ, uint8 activations, int8 weights by channel), from uint8 to uint8. Models
of one and of five of them one after the other are timed: a quarter of the difference is a layer within a network, the rest
is what the ends cost (calls, and our conversions of layout). The network is ResNet-20 as `fuse, quant` makes it.
Writes benchmarks/results/int8.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.codegen import compile_model
from onnxc.runtime.library import Library

RESULTS = Path(__file__).parent / "results" / "int8.json"
ROOT = Path(onnxc.__file__).parent
LAYERS = {
    "64 channels, 56 x 56": (56, 64),
    "128, 28 x 28": (28, 128),
    "256, 14 x 14": (14, 256),
    "512, 7 x 7": (7, 512),
}
DEPTHS = (1, 5)


def layers(extent: int, c: int, depth: int, quantised: bool) -> onnx.ModelProto:
    """`depth` 3x3 convolutions with Relu, in QDQ form or in floats."""
    rng = np.random.default_rng(0)
    shape = [1, c, extent, extent]
    kind = TensorProto.UINT8 if quantised else TensorProto.FLOAT
    nodes, stored = [], []

    def store(name: str, array) -> str:
        stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    if quantised:
        scale, zero = store("s", np.float32(0.02)), store("z", np.uint8(0))
    now = "x"
    for i in range(depth):
        levels = rng.integers(-127, 128, (c, c, 3, 3)).astype(np.int8)
        scales = (rng.uniform(0.5, 1, c) * 0.02 / np.sqrt(9 * c)).astype(np.float32)
        if quantised:
            w, ws = store(f"w{i}", levels), store(f"ws{i}", scales)
            nodes.append(helper.make_node("DequantizeLinear", [now, scale, zero], [f"f{i}"]))
            nodes.append(helper.make_node("DequantizeLinear", [w, ws], [f"v{i}"], axis=0))
            source, weight = f"f{i}", f"v{i}"
        else:
            source, weight = now, store(f"w{i}", levels * scales[:, None, None, None])
        nodes.append(helper.make_node("Conv", [source, weight], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        if quantised:
            nodes.append(helper.make_node("QuantizeLinear", [f"r{i}", scale, zero], [f"q{i}"]))
        now = f"q{i}" if quantised else f"r{i}"
    nodes.append(helper.make_node("Identity", [now], ["y"]))
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet20() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The trained network in 8 bits and in floats."""
    path = ROOT / "data/resnet20_fashion.onnx"
    return onnxc.run_passes(path, "fuse, quant", data=ROOT / "data/fashion_calib.npz").model.to_proto(), onnx.load(path)


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Seeded inputs."""
    rng = np.random.default_rng(1)
    value = model.graph.input[0]
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    if value.type.tensor_type.elem_type == TensorProto.UINT8:
        return {value.name: rng.integers(0, 256, shape).astype(np.uint8)}
    return {value.name: rng.random(shape, np.float32)}


def session(model: onnx.ModelProto):
    """ORT on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Contest:
    """A model in 8 bits compiled and in ORT, and in floats in ORT; `times` are microseconds of a call."""

    def __init__(self, quantised: onnx.ModelProto, floats: onnx.ModelProto, name: str, folder: str):
        self.report = compile_model(quantised, folder, name=name)
        library, ort8, ort32 = Library(folder), session(quantised), session(floats)
        feeds, plain = feeds_of(quantised), feeds_of(floats)
        self.runs = {
            "onnxc_int8": lambda: library.run(feeds),
            "ort_int8": lambda: ort8.run(None, feeds),
            "ort_fp32": lambda: ort32.run(None, plain),
        }
        ours, theirs = next(iter(library.run(feeds).values())), ort8.run(None, feeds)[0]
        self.apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        self.samples: dict[str, list] = {key: [] for key in self.runs}

    def round(self) -> None:
        """Times each once."""
        for key, run in self.runs.items():
            start = time.thread_time()
            for _ in range(3):
                run()
            self.samples[key].append((time.thread_time() - start) / 3)

    @property
    def times(self) -> dict[str, float]:
        """The 20th percentile of each."""
        return {key: 1e6 * float(np.percentile(values, 20)) for key, values in self.samples.items()}


def row(micro: dict[str, float], contests: list[Contest], **more) -> dict:
    """A row of the table."""
    return {
        "kernels": sorted({kernel["kernel"] for contest in contests for kernel in contest.report.kernels}),
        "microseconds": {key: round(value, 1) for key, value in micro.items()},
        "over_ort_int8": round(micro["ort_int8"] / micro["onnxc_int8"], 2),
        "over_ort_fp32": round(micro["ort_fp32"] / micro["onnxc_int8"], 2),
        "largest_difference": max(float(contest.apart.max()) for contest in contests),
        "share_different": max(float(np.mean(contest.apart > 0)) for contest in contests), **more,
    }  # fmt: skip


def measure_layers(extent: int, c: int, rounds: int) -> dict:
    """One layer within a network, and the ends."""
    with tempfile.TemporaryDirectory() as folder:
        contests = [
            Contest(layers(extent, c, n, True), layers(extent, c, n, False), f"net{n}", f"{folder}/{n}") for n in DEPTHS
        ]
        for _ in range(rounds):
            for contest in contests:
                contest.round()
    short, long = (contest.times for contest in contests)
    micro = {key: (long[key] - short[key]) / (DEPTHS[1] - DEPTHS[0]) for key in short}
    ends = {key: round(short[key] - micro[key], 1) for key in short}
    rate = extent * extent * c * c * 9 / micro["onnxc_int8"] / 1e3
    return row(micro, contests, ends_microseconds=ends, gmac_per_second=round(rate, 1))


def measure_network(rounds: int) -> dict:
    """ResNet-20."""
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(*resnet20(), "resnet20", folder)
        for _ in range(rounds):
            contest.round()
    return row(contest.times, [contest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    rows = {}
    for label, (extent, c) in LAYERS.items():
        rows[label] = measure_layers(extent, c, rounds)
    rows["ResNet-20"] = measure_network(rounds)
    for label, found in rows.items():
        ratios = f"{found['over_ort_int8']:5.2f} x ORT int8  {found['over_ort_fp32']:5.2f} x ORT fp32"
        print(f"{label:22} {ratios}  {found['microseconds']}")
    RESULTS.write_text(json.dumps({"rounds": rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
