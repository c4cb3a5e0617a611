"""HORQ (Li 2017) of orders 1 to 4: accuracy of one trained network, and time of one layer beside the papers' count of operations.

    PYTHONPATH=. python benchmarks/horq.py --train FILE.npz --test FILE.npz [--share N] [--only NAME]

FILE.npz: `image` and `labels` of Fashion-MNIST (examples/recipes/fashion.py). The network is trained in float; each order then
starts from those weights and is trained as often. Weights are of one bit, but for the first and the last layer's. Accuracy is
ONNX Runtime's on --test, which chose nothing. Layers: 3x3 convolutions, floats to floats, compiled by `onnxc compile` and
timed in turns on one thread beside ONNX Runtime's float kernel; the count is what `onnxc inspect` prints. Writes benchmarks/results/horq.json after each row.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import onnxc
from benchmarks.kinds import SLICE, calls
from benchmarks.rows import Table, arrays, classified, compressed, options
from benchmarks.small_networks import normed
from onnxc.codegen import compile_model
from onnxc.measure.inspect import inspect
from onnxc.runtime import library as libraries
from onnxc.runtime.reference import Session

RESULTS = Path(__file__).resolve().parent / "results/horq.json"
ORDERS = (1, 2, 3, 4)
EPOCHS = 6
SCHEDULE = f"epochs={EPOCHS},batch=64,rate=0.003,held=0.02"
LAYERS = {"64 x 28 x 28": (64, 28), "256 x 14 x 14": (256, 14)}
ROUNDS = 15


def layer(channels: int, size: int):
    """A 3x3 convolution of as many channels, without a bias."""
    w = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def speeds(channels: int, size: int) -> dict:
    """Times of a layer in float and by planes, in microseconds of processor time, and by how much operations and time shrink."""
    base, x = layer(channels, size), np.random.default_rng(1).standard_normal((1, channels, size, size)).astype("f4")
    models = {0: onnxc.load(base)}
    for k in ORDERS:
        passes = f"quant.binary(weights=bwn,inputs=horq,bits={k},first=true,last=true,centre=never,correct=false)"
        models[k] = onnxc.run_passes(base, passes, data={"x": x}, check="shapes").model
    counted = {k: next(z.speedup for z in inspect(models[k]).layers if z.op == "Conv") for k in ORDERS}
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for k, model in models.items():
            compile_model(model.to_proto(), Path(folder) / str(k), name="net", check="shapes")
            made[k] = libraries.Library(Path(folder) / str(k))
        times: dict[int, list[float]] = {k: [] for k in (-1, *models)}
        session = Session(base)
        for _ in range(ROUNDS):
            times[-1].append(calls(partial(session.run, {"x": x}), SLICE)[1])
            for k, library in made.items():
                times[k].append(calls(partial(library.run, {"x": x}), SLICE)[1])
    middle = {k: statistics.median(t) for k, t in times.items()}
    return {"float us": round(1e6 * middle[0], 1), "float us, ONNX Runtime": round(1e6 * middle[-1], 1)} | {
        f"order {k}": {"us": round(1e6 * middle[k], 1), "faster": round(middle[0] / middle[k], 2), "fewer ops": counted[k]}
        for k in ORDERS
    }  # fmt: skip


def main() -> None:
    args = options(__doc__, 6).parse_args()
    train, test, table = arrays(args.train, args.share), arrays(args.test), Table(RESULTS, args.only)
    judge = partial(classified, test=test)
    rows = {f"order {k}": f"train.binary(inputs=horq,bits={k},{SCHEDULE}),quant.recognise" for k in ORDERS}
    row, start = compressed(normed((16, 32, 32, 64)), f"train.finetune({SCHEDULE})", train, judge)
    if table.lacks("float"):
        table.add("float", row)
    for name, passes in rows.items():
        if table.lacks(name):
            table.add(name, compressed(start, passes, train, judge)[0])
    for name, extents in LAYERS.items():
        if table.lacks(name):
            table.add(name, speeds(*extents))


if __name__ == "__main__":
    main()
