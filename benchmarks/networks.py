"""Whole networks beside ONNX Runtime, OpenVINO and ncnn, in floats and in 8 bits, on one and two threads.

    python benchmarks/networks.py [NAME ...] [--forms float32 int8] [--threads 1 2] [--rounds 9] [--json FILE]

The networks are those of `network_models.py`, with random weights; int8 is what `quant` makes of them, in QDQ form, calibrated on
random inputs, which ONNX Runtime and OpenVINO run on their 8-bit kernels. In every round each runtime runs for some milliseconds, in
turns; a row has medians of the time of a call, the peers' times by ours (above 1 the library is faster, the median of the rounds'
ratios), and the largest difference from ONNX Runtime as a share of the largest output, beside how far ONNX
Runtime is from itself without its optimiser, and with inputs that are a millionth larger. One thread is measured in processor time,
which other work on the machine disturbs little; two in wall time, of which the best call of each turn counts: the others are mostly
those in which other work took one of the cores. OpenVINO and ncnn (through pnnx) are measured where they are installed
(pip install openvino ncnn pnnx). Rows go into benchmarks/results/networks.json, by network, form and threads; others there stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from network_models import NETWORKS

import onnxc

RESULTS = Path(__file__).parent / "results/networks.json"
SLICE = 0.02  # seconds that a runtime runs in a round
LONG = 0.15  # with several threads: the system takes some time until it has them on cores of their own
OURS = "onnxc"
FORMS = ("float32", "int8")
SAMPLES = 4  # random inputs that 8-bit networks are calibrated on


def ours(model: onnx.ModelProto, folder: Path, threads: int) -> Callable:
    """A library of ours, compared with ONNX Runtime before it is written."""
    library = onnxc.compile(model, folder / "library", threads=threads)
    return lambda x: library.run({"x": x})["y"]


def onnxruntime(model: onnx.ModelProto, folder: Path, threads: int, plain: bool = False) -> Callable:
    """ONNX Runtime with all its optimisations, or with none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def openvino(model: onnx.ModelProto, folder: Path, threads: int) -> Callable:
    """OpenVINO, for latency, in float32."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    file = folder / "net.onnx"
    onnx.save(model, file)
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        return request.infer({"x": x}, share_inputs=True, share_outputs=True)[0]

    return run


def ncnn(model: onnx.ModelProto, folder: Path, threads: int) -> Callable:
    """ncnn, in float32; pnnx converts."""
    import ncnn as peer

    onnx.save(model, folder / "pnnx.onnx")
    shape = ",".join(str(d.dim_value) for d in model.graph.input[0].type.tensor_type.shape.dim)
    program = Path(find_spec("pnnx").origin).parent / "bin/pnnx"
    command = [str(program) if program.exists() else "pnnx", "pnnx.onnx", f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    net = peer.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(folder / "pnnx.ncnn.param"))
    net.load_model(str(folder / "pnnx.ncnn.bin"))

    def run(x: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], peer.Mat(x[0]))
        return np.array(extractor.extract(net.output_names()[0])[1])

    return run


PEERS = {
    "float32": {"onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn},
    "int8": {"onnxruntime": onnxruntime, "openvino": openvino},
}


def quantised(model: onnx.ModelProto, shape: list[int], folder: Path) -> onnx.ModelProto:
    """The model as `quant` makes it."""
    data = folder / "calibration.npz"
    np.savez(data, x=np.random.default_rng(1).standard_normal((SAMPLES, *shape[1:]), np.float32))
    return onnxc.run_passes(model, "quant", data=data).model.to_proto()


def processor_time(run: Callable, x: np.ndarray) -> float:
    """Seconds of the processor a call, over at least `SLICE` of them."""
    start, count = time.process_time(), 0
    while True:
        run(x)
        count += 1
        spent = time.process_time() - start
        if spent >= SLICE:
            return spent / count


def best_time(run: Callable, x: np.ndarray) -> float:
    """Seconds of the fastest of the calls within `LONG`, three at least."""
    start, best, count = time.perf_counter(), math.inf, 0
    while count < 3 or time.perf_counter() - start < LONG:
        before = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - before)
        count += 1
    return best


def compare(name: str, form: str, threads: int, rounds: int) -> dict:
    """The row of one network."""
    model = NETWORKS[name]()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    row: dict = {"network": name, "form": form, "threads": threads}
    row |= {"milliseconds": {}, "by": {}, "error": {}, "left_out": {}}
    with tempfile.TemporaryDirectory() as home:
        if form == "int8":
            model = quantised(model, shape, Path(home))
        runs = {OURS: ours(model, Path(home), threads)}
        for peer, make in PEERS[form].items():
            if find_spec(peer) is None:
                row["left_out"][peer] = "not installed"
                continue
            try:
                runs[peer] = make(model, Path(home), threads)
                runs[peer](x)
            except Exception as error:
                runs.pop(peer, None)
                row["left_out"][peer] = " ".join(str(error).split())[:160]
        wanted = runs["onnxruntime"](x)
        for who, run in runs.items():
            found = np.asarray(run(x)).reshape(-1)
            if found.size == wanted.size:
                row["error"][who] = float(np.abs(found - wanted.reshape(-1)).max() / np.abs(wanted).max())
        itself = {
            "onnxruntime, not optimised": onnxruntime(model, Path(home), threads, plain=True)(x),
            "onnxruntime, inputs times 1 + 1e-6": runs["onnxruntime"](x * np.float32(1 + 1e-6)),
        }
        for how, found in itself.items():
            row["error"][how] = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        timed = processor_time if threads == 1 else best_time
        times: dict[str, list[float]] = {who: [] for who in runs}
        order = list(runs)
        for turn in range(rounds):
            for who in order[turn % len(order) :] + order[: turn % len(order)]:
                times[who].append(timed(runs[who], x))
    for who, found in times.items():
        row["milliseconds"][who] = round(statistics.median(found) * 1e3, 4)
        if who != OURS:
            row["by"][who] = round(statistics.median(a / b for a, b in zip(found, times[OURS], strict=True)), 3)
    row["by_best"] = min(row["by"].values())
    return row


def mean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)}; all if left out")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json.exists() else []
    for form, threads, name in itertools.product(args.forms, args.threads, args.names or NETWORKS):
        row = compare(name, form, threads, args.rounds)
        found = [r for r in found if (r["network"], r["form"], r["threads"]) != (name, form, threads)] + [row]
        args.json.write_text(json.dumps(found, indent=1) + "\n")
        by = "  ".join(f"{peer} {ratio:.2f}" for peer, ratio in row["by"].items())
        text = f"{name:16s} {form:8s} {threads} threads {row['milliseconds'][OURS]:9.3f} ms   {by}   {row['error']}"
        print(text, flush=True)
    for form, threads in sorted({(row["form"], row["threads"]) for row in found}):
        rows = [row for row in found if (row["form"], row["threads"]) == (form, threads)]
        peers = sorted({peer for row in rows for peer in row["by"]})
        by = "  ".join(f"{peer} {mean([row['by'][peer] for row in rows if peer in row['by']]):.3f}" for peer in peers)
        best = [row["by_best"] for row in rows]
        print(f"geometric means, {form}, {threads} threads: {by}  best {mean(best):.3f}, lowest {min(best):.3f}")


if __name__ == "__main__":
    sys.exit(main())
