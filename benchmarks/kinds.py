"""Single operators on one thread beside ONNX Runtime: is any kind of layer slow?

    python benchmarks/kinds.py [NAME ...] [--rounds 15] [--json FILE]

In every round each of the two runs for some milliseconds, in turns; a row has the medians of processor time a call, their
ratio (above 1 the library is slower), and the largest difference of an output as a share of its largest value. The last
line is the geometric mean of the ratios. The default file is benchmarks/results/kinds.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxc.codegen import compile_model
from onnxc.runtime import library as libraries
from onnxc.runtime.reference import Session

RESULTS = Path(__file__).parent / "results/kinds.json"
SLICE = 0.004  # seconds that one of the two runs in a round
RNG = np.random.default_rng(0)
HALF = TensorProto.FLOAT16


def weight(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Random weights of the usual scale."""
    return (RNG.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(dtype)


def graph(nodes, inputs: dict, constants: dict, kind: int = TensorProto.FLOAT, outputs: int = 1, opset: int = 17):
    """A model of `nodes`; its outputs are y, and y1, ... where there are several."""
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in names],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv(x: list[int], w: tuple[int, ...], dtype: str = "float32", **attributes):
    """A convolution with bias."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    kind = TensorProto.FLOAT if dtype == "float32" else HALF
    return graph([node], {"x": x}, {"w": weight(*w, dtype=dtype), "b": weight(w[0], dtype=dtype)}, kind)


def transposed(x: list[int], w: tuple[int, ...], **attributes):
    """A transposed convolution with bias."""
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    return graph([node], {"x": x}, {"w": weight(*w), "b": weight(w[1] * attributes.get("group", 1))})


def unary(op: str, x: list[int], constants: dict | None = None, opset: int = 17, **attributes):
    """An operator on one tensor, with constant operands after it."""
    constants = constants or {}
    inputs = ["x", *(name if not name.startswith("_") else "" for name in constants)]
    node = helper.make_node(op, inputs, ["y"], **attributes)
    return graph([node], {"x": x}, {n: v for n, v in constants.items() if not n.startswith("_")}, opset=opset)


def chain(x: list[int], steps: list[tuple], constants: dict, inputs: dict | None = None, opset: int = 17):
    """Operators one after the other: (op, operands, attributes); "$" is the result before, the first the input x."""
    nodes, last = [], "x"
    for i, (op, operands, attributes) in enumerate(steps):
        result = "y" if i == len(steps) - 1 else f"t{i}"
        nodes.append(helper.make_node(op, [last if o == "$" else o for o in operands], [result], **attributes))
        last = result
    return graph(nodes, {"x": x, **(inputs or {})}, constants, opset=opset)


def attention(heads: int, length: int, depth: int):
    """softmax(q k / sqrt(d)) v."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["m"]),
        helper.make_node("Softmax", ["m"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    shapes = {"q": [1, heads, length, depth], "k": [1, heads, depth, length], "v": [1, heads, length, depth]}
    return graph(nodes, shapes, {"scale": np.float32(depth**-0.5)})


def product(a: list[int], b: list[int], op: str = "MatMul", **attributes):
    """A product of two tensors that are computed."""
    return graph([helper.make_node(op, ["a", "b"], ["y"], **attributes)], {"a": a, "b": b}, {})


def recurrent(op: str, gates: int, steps: int, size: int, hidden: int):
    """One layer, one direction."""
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y"], hidden_size=hidden)
    constants = {
        "w": weight(1, gates * hidden, size), "r": weight(1, gates * hidden, hidden), "b": weight(1, 2 * gates * hidden),
    }  # fmt: skip
    return graph([node], {"x": [steps, 1, size]}, constants)


GELU = [("Mul", ["$", "r"], {}), ("Erf", ["$"], {}), ("Add", ["$", "one"], {}), ("Mul", ["$", "x"], {}),
        ("Mul", ["$", "half"], {})]  # fmt: skip
GELU_NUMBERS = {"r": np.float32(0.5**0.5), "one": np.float32(1), "half": np.float32(0.5)}
TWICE = {"_roi": None, "s": np.array([1, 1, 2, 2], np.float32)}


def kinds() -> dict:
    """The models by name."""
    image = [1, 64, 32, 32]
    return {
        "conv1d_k9": conv([1, 64, 512], (64, 64, 9), pads=[4, 4]),
        "conv1d_k3_stride2": conv([1, 80, 1000], (128, 80, 3), pads=[1, 1], strides=[2]),
        "conv1d_stft": conv([1, 1, 16000], (257, 1, 400), strides=[160]),
        "conv1d_first": conv([1, 1, 16000], (64, 1, 10), strides=[5]),
        "conv1d_dilated": conv([1, 64, 512], (64, 64, 5), pads=[8, 8], dilations=[4]),
        "conv1d_depthwise": conv([1, 64, 512], (64, 1, 9), pads=[4, 4], group=64),
        "conv1d_pointwise": conv([1, 128, 500], (256, 128, 1)),
        "conv2d_1x9": conv([1, 64, 1, 512], (64, 64, 1, 9), pads=[0, 4, 0, 4]),
        "conv2d_3x3": conv(image, (64, 64, 3, 3), pads=[1] * 4),
        "conv2d_3x3_float16": conv(image, (64, 64, 3, 3), "float16", pads=[1] * 4),
        "conv2d_first": conv([1, 3, 112, 112], (32, 3, 3, 3), pads=[1] * 4, strides=[2, 2]),
        "conv2d_stem7": conv([1, 3, 112, 112], (64, 3, 7, 7), pads=[3] * 4, strides=[2, 2]),
        "conv2d_patches": conv([1, 3, 112, 112], (192, 3, 16, 16), strides=[16, 16]),
        "conv2d_group4": conv(image, (64, 16, 3, 3), pads=[1] * 4, group=4),
        "conv2d_group32": conv([1, 128, 28, 28], (128, 4, 3, 3), pads=[1] * 4, group=32),
        "conv2d_dilated": conv(image, (64, 64, 3, 3), pads=[2] * 4, dilations=[2, 2]),
        "conv2d_pointwise": conv(image, (128, 64, 1, 1)),
        "depthwise_3x3": conv([1, 96, 32, 32], (96, 1, 3, 3), pads=[1] * 4, group=96),
        "depthwise_3x3_stride2": conv([1, 96, 32, 32], (96, 1, 3, 3), pads=[1] * 4, group=96, strides=[2, 2]),
        "depthwise_5x5": conv([1, 96, 32, 32], (96, 1, 5, 5), pads=[2] * 4, group=96),
        "depthwise_7x7": conv([1, 96, 32, 32], (96, 1, 7, 7), pads=[3] * 4, group=96),
        "depthwise_multiplier2": conv([1, 32, 32, 32], (64, 1, 3, 3), pads=[1] * 4, group=32),
        "conv3d_3x3x3": conv([1, 8, 8, 32, 32], (16, 8, 3, 3, 3), pads=[1] * 6),
        "conv3d_wide": conv([1, 32, 8, 16, 16], (32, 32, 3, 3, 3), pads=[1] * 6),
        "conv3d_pointwise": conv([1, 32, 8, 16, 16], (64, 32, 1, 1, 1)),
        "conv3d_stride2": conv([1, 3, 16, 56, 56], (16, 3, 3, 5, 5), pads=[1, 2, 2] * 2, strides=[1, 2, 2]),
        "transposed1d_k2s2": transposed([1, 64, 256], (64, 32, 2), strides=[2]),
        "transposed1d_k16s8": transposed([1, 64, 128], (64, 32, 16), strides=[8], pads=[4, 4]),
        "transposed2d_k2s2": transposed(image, (64, 32, 2, 2), strides=[2, 2]),
        "transposed2d_k3s2": transposed([1, 128, 16, 16], (128, 64, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1]),
        "transposed2d_k4s2": transposed([1, 128, 16, 16], (128, 64, 4, 4), strides=[2, 2], pads=[1] * 4),
        "transposed2d_k4s2_wide": transposed([1, 384, 14, 14], (384, 192, 4, 4), strides=[2, 2], pads=[1] * 4),
        "transposed2d_k3s1": transposed([1, 64, 32, 32], (64, 64, 3, 3), pads=[1] * 4),
        "transposed2d_depthwise": transposed(image, (64, 1, 4, 4), strides=[2, 2], pads=[1] * 4, group=64),
        "transposed3d_k2s2": transposed([1, 32, 4, 16, 16], (32, 16, 2, 2, 2), strides=[2, 2, 2]),
        "maxpool_2x2": unary("MaxPool", [1, 64, 64, 64], kernel_shape=[2, 2], strides=[2, 2]),
        "maxpool_3x3": unary("MaxPool", [1, 64, 56, 56], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        "maxpool_5x5": unary("MaxPool", [1, 64, 40, 40], kernel_shape=[5, 5], pads=[2] * 4),
        "maxpool_13x13": unary("MaxPool", [1, 64, 40, 40], kernel_shape=[13, 13], pads=[6] * 4),
        "avgpool_3x3": unary("AveragePool", [1, 64, 40, 40], kernel_shape=[3, 3], pads=[1] * 4),
        "avgpool_7x7": unary("AveragePool", [1, 64, 40, 40], kernel_shape=[7, 7], pads=[3] * 4),
        "maxpool1d": unary("MaxPool", [1, 64, 1000], kernel_shape=[3], strides=[2]),
        "maxpool3d": unary("MaxPool", [1, 16, 16, 32, 32], kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        "globalpool": unary("GlobalAveragePool", [1, 512, 14, 14]),
        "attention_197": attention(6, 197, 64),
        "attention_32": attention(4, 32, 64),
        "matmul_batched": product([12, 128, 64], [12, 64, 128]),
        "matmul_197": chain([1, 197, 192], [("MatMul", ["$", "w"], {}), ("Add", ["$", "b"], {})],
                            {"w": weight(192, 576), "b": weight(576)}),
        "matmul_broadcast": product([8, 64, 64], [64, 64]),
        "einsum_qk": product([1, 6, 64, 32], [1, 6, 64, 32], "Einsum", equation="bhid,bhjd->bhij"),
        "einsum_outer": product([8, 64, 16], [8, 64, 32], "Einsum", equation="bti,btj->bij"),
        "gemm_row": chain([1, 1024], [("Gemm", ["$", "w", "b"], {"transB": 1})],
                          {"w": weight(1024, 1024), "b": weight(1024)}),
        "softmax_rows": unary("Softmax", [6, 197, 197], axis=-1),
        "softmax_channels": unary("Softmax", [1, 21, 64, 64], axis=1),
        "layernorm": unary("LayerNormalization", [1, 197, 384], {"g": weight(384), "h": weight(384)}, axis=-1),
        "instancenorm": unary("InstanceNormalization", image, {"g": weight(64), "h": weight(64)}),
        "rmsnorm": chain([1, 128, 512], [("Mul", ["$", "$"], {}), ("ReduceMean", ["$"], {"axes": [-1]}),
                         ("Add", ["$", "e"], {}), ("Sqrt", ["$"], {}), ("Div", ["x", "$"], {}), ("Mul", ["$", "g"], {})],
                         {"e": np.float32(1e-5), "g": weight(512)}),
        "gelu": chain([1, 197, 1536], GELU, GELU_NUMBERS),
        "silu": chain([1, 64, 80, 80], [("Sigmoid", ["$"], {}), ("Mul", ["$", "x"], {})], {}),
        "hardswish": unary("HardSwish", [1, 64, 80, 80]),
        "tanh": unary("Tanh", [1, 64, 80, 80]),
        "exp": unary("Exp", [1, 64, 80, 80]),
        "log": chain([1, 64, 80, 80], [("Abs", ["$"], {}), ("Log", ["$"], {})], {}),
        "pow": chain([1, 64, 80, 80], [("Abs", ["$"], {}), ("Pow", ["$", "p"], {})], {"p": np.float32(1.7)}),
        "resize_linear": unary("Resize", [1, 32, 32, 32], TWICE, mode="linear"),
        "resize_nearest": unary("Resize", [1, 32, 32, 32], TWICE, mode="nearest"),
        "transpose_channels": unary("Transpose", [1, 64, 80, 80], perm=[0, 2, 3, 1]),
        "transpose_heads": unary("Transpose", [1, 197, 6, 64], perm=[0, 2, 1, 3]),
        "concat": product([1, 64, 40, 40], [1, 64, 40, 40], "Concat", axis=1),
        "reduce_rows": unary("ReduceMean", [1, 256, 1024], axes=[-1]),
        "reduce_columns": unary("ReduceMean", [1, 256, 1024], axes=[1]),
        "reduce_all": unary("ReduceSum", [1, 256, 1024]),
        "topk": graph([helper.make_node("TopK", ["x", "k"], ["y", "y1"], axis=-1)], {"x": [1, 8400]},
                      {"k": np.array([100])}, outputs=2),
        "cumsum": unary("CumSum", [1, 2000], {"a": np.array(1)}),
        "lstm": recurrent("LSTM", 4, 32, 64, 128),
        "gru": recurrent("GRU", 3, 32, 64, 128),
    }  # fmt: skip


def calls(run, seconds: float) -> tuple[int, float]:
    """How often `run` fits into `seconds` (at least once), and processor time a call."""
    start, count = time.process_time(), 0
    while True:
        run()
        count += 1
        spent = time.process_time() - start
        if spent >= seconds:
            return count, spent / count


def measure(name: str, model: onnx.ModelProto, rounds: int) -> dict:
    """The row of one model."""
    typed = onnx.shape_inference.infer_shapes(model)
    feeds = {
        value.name: RNG.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in model.graph.input
    }
    session = Session(typed)
    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(typed, folder, name="net", check="shapes")
        library = libraries.Library(folder)
        wanted, found = session.run(feeds), library.run(feeds)
        error = max(
            float(np.abs(found[k].astype("f8") - v.astype("f8")).max() / max(np.abs(v.astype("f8")).max(), 1e-30))
            for k, v in wanted.items()
        )
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(calls(lambda: session.run(feeds), SLICE)[1])
            ours.append(calls(lambda: library.run(feeds), SLICE)[1])
    a, b = statistics.median(theirs), statistics.median(ours)
    return {
        "name": name, "onnxruntime_us": round(a * 1e6, 1), "onnxc_us": round(b * 1e6, 1), "ratio": round(b / a, 3),
        "error": float(f"{error:.2g}"), "kernels": [row["kernel"] for row in report.kernels],
        "general": [row["function"] for row in report.fallbacks],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="kinds to run, by the beginning of their name; all if left out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    rows = []
    for name, model in kinds().items():
        if args.names and not name.startswith(tuple(args.names)):
            continue
        try:
            rows.append(measure(name, model, args.rounds))
        except Exception as error:
            print(f"{name:24s} fails: {' '.join(str(error).split())[:200]}", flush=True)
            rows.append({"name": name, "error": str(error)})
            continue
        r = rows[-1]
        print(
            f"{name:24s} ORT {r['onnxruntime_us']:9.1f} us  library {r['onnxc_us']:9.1f} us  ratio {r['ratio']:7.2f}  "
            f"error {r['error']:.1e}  {' '.join(r['kernels'])}  general: {' '.join(r['general'])}",
            flush=True,
        )
    ratios = [r["ratio"] for r in rows if "ratio" in r]
    print(
        f"geometric mean of ratios {math.exp(statistics.fmean(map(math.log, ratios))):.3f}, highest {max(ratios):.2f}"
    )
    if args.json or not args.names:
        (args.json or RESULTS).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
