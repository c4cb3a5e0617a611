"""Products of few rows with weights in 4 to 16 bits, beside the same product in float32 and beside ONNX Runtime.

    python benchmarks/narrow.py [--rounds 31] [--json FILE]

x (rows, 1024) times weights (1024, 4096), one thread, in turns, processor time: each row has the microseconds of a call (median over
rounds), how many times faster it is than our float32 product and than ONNX Runtime on the same model (medians of the
rounds' ratios), bytes of weights a second, and the difference from the product in float64. Weights in float32 take 16.8 MB.
With 8 layers the network holds 134 MB of weights as floats, which no cache holds; its rows are of one layer on average.
ONNX Runtime rounds the activations of DequantizeLinear and MatMul to 8 bits unless told otherwise; here it is not told.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxc

RESULTS = Path(__file__).parent / "results/narrow.json"
INPUTS, OUTPUTS, BLOCK, LAYERS = 1024, 4096, 32, 8
KINDS = {"float32": 32, "MatMulNBits": 4, "MatMulNBits with zero points": 4, "int4 blocks": 4, "int8": 8, "bfloat16": 16,
         "float16": 16}  # fmt: skip
SLICE = 0.004  # seconds that each runs in a round


def layer(kind: str, x: str, y: str, inputs: int, outputs: int, rng) -> tuple[list, dict, np.ndarray]:
    """Nodes and initialisers of a product, and its weights in float64."""
    shape, blocks = (inputs, outputs), inputs // BLOCK
    scale = (rng.uniform(0.5, 1.5, (blocks, outputs)) / (4 * np.sqrt(inputs))).astype("f")
    w, s, z, f = (f"{y}_{part}" for part in "wszf")
    if kind.startswith("MatMulNBits"):
        levels = rng.integers(1, 16, shape)  # about the middle: no mean that grows from layer to layer
        zero = np.full((blocks, outputs), 8) if kind == "MatMulNBits" else rng.integers(6, 11, (blocks, outputs))
        halves = levels.T.reshape(outputs, blocks, BLOCK // 2, 2)
        stored = {w: (halves[..., 0] | halves[..., 1] << 4).astype(np.uint8), s: scale.T.ravel()}
        if kind != "MatMulNBits":
            pairs = zero.T.reshape(outputs, -1, 2)
            stored[z] = (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8).ravel()
        names = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK}
        nodes = [helper.make_node("MatMulNBits", [x, *stored], [y], domain="com.microsoft", **names)]
        return nodes, stored, (levels - zero.repeat(BLOCK, 0)) * scale.repeat(BLOCK, 0).astype(np.float64)
    product = helper.make_node("MatMul", [x, f], [y])
    if kind == "int4 blocks":
        levels = rng.integers(-7, 8, shape)
        node = helper.make_node("DequantizeLinear", [w, s], [f], axis=0, block_size=BLOCK)
        stored = {w: levels.astype(ml_dtypes.int4), s: scale}
        return [node, product], stored, levels * scale.repeat(BLOCK, 0).astype(np.float64)
    if kind == "int8":
        levels = rng.integers(-127, 128, shape)
        stored = {w: levels.astype(np.int8), s: scale[0] / 16}
        node = helper.make_node("DequantizeLinear", [w, s], [f], axis=1)
        return [node, product], stored, levels * stored[s].astype(np.float64)
    values = (rng.standard_normal(shape) / np.sqrt(inputs)).astype("f")
    if kind == "float32":
        return [helper.make_node("MatMul", [x, w], [y])], {w: values}, values.astype(np.float64)
    short = values.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else np.float16)
    return [helper.make_node("Cast", [w], [f], to=TensorProto.FLOAT), product], {w: short}, short.astype(np.float64)


def network(kind: str, rows: int, layers: int) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """One product, or several that widen and narrow in turns, and their weights."""
    rng, nodes, stored, weights, here = np.random.default_rng(0), [], {}, [], "x"
    widths = [(INPUTS, OUTPUTS), (OUTPUTS, INPUTS)]
    for i in range(layers):
        made, held, real = layer(kind, here, f"m{i}", *widths[i % 2], rng)
        nodes, stored = [*nodes, *made], stored | held
        weights.append(real)
        here = f"m{i}"
    nodes[-1].output[0] = "y"
    ends = [("x", INPUTS), ("y", widths[(layers - 1) % 2][1])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (rows, extent)) for name, extent in ends]
    held = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), weights


def session(model: onnx.ModelProto) -> Callable:
    """ONNX Runtime on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    made = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: made.run(None, {"x": x})[0]


def timed(run: Callable, x: np.ndarray) -> float:
    """Seconds of a call."""
    run(x)
    start, count = time.process_time(), 0
    while (spent := time.process_time() - start) < SLICE or not count:
        run(x)
        count += 1
    return spent / count


def compare(rows: int, layers: int, rounds: int) -> list[dict]:
    """A row for each kind."""
    x = np.random.default_rng(1).standard_normal((rows, INPUTS)).astype("f")
    runs, errors = {}, {}
    with tempfile.TemporaryDirectory() as home:
        for kind in KINDS:
            model, weights = network(kind, rows, layers)
            library = onnxc.compile(model, Path(home) / kind.replace(" ", "_"))
            runs[kind], runs[f"ort {kind}"] = (lambda x, made=library: made.run({"x": x})["y"]), session(model)
            wanted = x.astype(np.float64)
            for weight in weights:
                wanted = wanted @ weight
            for who in (kind, f"ort {kind}"):
                errors[who] = float(np.abs(runs[who](x) - wanted).max() / np.abs(wanted).max())
        times: dict[str, list[float]] = {who: [] for who in runs}
        for turn in range(rounds):
            order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
            for who in order:
                times[who].append(timed(runs[who], x))
    found = []
    for kind, bits in KINDS.items():
        spent = statistics.median(times[kind])
        size = layers * INPUTS * OUTPUTS * bits / 8
        ratio = {w: statistics.median(a / b for a, b in zip(times[w], times[kind], strict=True)) for w in times}
        found.append({
            "weights": kind, "rows": rows, "layers": layers, "microseconds": round(spent / layers * 1e6, 1),
            "by_float32": round(ratio["float32"], 3), "by_onnxruntime": round(ratio[f"ort {kind}"], 3),
            "gigabytes_a_second": round(size / spent / 1e9, 1),
            "error": errors[kind], "onnxruntime_error": errors[f"ort {kind}"],
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = [
        row for size, layers in ((1, 1), (1, LAYERS), (4, 1), (64, 1)) for row in compare(size, layers, args.rounds)
    ]
    args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
