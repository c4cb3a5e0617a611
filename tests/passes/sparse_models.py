"""Small models with random weights for the tests of sparsity, and the means to run them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.runtime.batches import Batch
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner, Session


def build(nodes, inputs, outputs, weights, opset=13) -> Model:
    """A model from (op, inputs, outputs, attributes) tuples; inputs and outputs map names to shapes."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, name=outs[0], **attrs) for op, ins, outs, attrs in nodes],
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def zoo(seed: int = 0) -> Model:
    """Every kind of layer that holds weights: plain, strided, grouped, depthwise, transposed, Gemm both ways, MatMul on
    either side, and two convolutions that share one weight, around a residual Add."""
    w = {
        "stem_w": normal(seed, 8, 4, 3, 3),
        "same_w": normal(seed + 1, 8, 8, 3, 3),
        "deep_w": normal(seed + 2, 8, 1, 3, 3),
        "group_w": normal(seed + 3, 16, 4, 3, 3),
        "up_w": normal(seed + 4, 16, 4, 2, 2),
        "left_w": normal(seed + 5, 6, 4),
        "fc_w": normal(seed + 6, 12, 6),
        "fc_b": normal(seed + 7, 12),
        "mat_w": normal(seed + 8, 12, 5),
    }
    nodes = [
        ("Conv", ["x", "stem_w"], ["stem"], {"pads": [1] * 4}),
        ("Relu", ["stem"], ["act"], {}),
        ("Conv", ["act", "same_w"], ["one"], {"pads": [1] * 4}),
        ("Conv", ["one", "same_w"], ["two"], {"pads": [1] * 4}),
        ("Add", ["act", "two"], ["sum"], {}),
        ("Conv", ["sum", "deep_w"], ["deep"], {"pads": [1] * 4, "group": 8}),
        ("Conv", ["deep", "group_w"], ["grouped"], {"pads": [1] * 4, "group": 2, "strides": [2, 2]}),
        ("ConvTranspose", ["grouped", "up_w"], ["up"], {"strides": [2, 2]}),
        ("GlobalAveragePool", ["up"], ["pool"], {}),
        ("Flatten", ["pool"], ["flat"], {}),
        ("Transpose", ["flat"], ["turned"], {"perm": [1, 0]}),
        ("MatMul", ["left_w", "turned"], ["left"], {}),
        ("Transpose", ["left"], ["back"], {"perm": [1, 0]}),
        ("Gemm", ["back", "fc_w", "fc_b"], ["fc"], {"transB": 1}),
        ("MatMul", ["fc", "mat_w"], ["y"], {}),
    ]
    return build(nodes, {"x": ["N", 4, 8, 8]}, {"y": ["N", 5]}, w)


def run(model: Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Session(model.to_proto(), optimise=False).run(feeds)


def gap(a: Model, b: Model, feeds: dict[str, np.ndarray]) -> float:
    """The largest difference of any output, relative to the largest value of that output of `a`."""
    left, right = run(a, feeds), run(b, feeds)
    return max(float(np.abs(left[k] - right[k]).max() / max(np.abs(left[k]).max(), 1e-12)) for k in left)


def weights(model: Model) -> dict[str, np.ndarray]:
    """Every initialiser of at least two axes, by name."""
    return {k: t.values for k, t in model.constants().items() if t.values.ndim > 1}


def text(model: Model) -> bytes:
    return onnx.ModelProto.SerializeToString(model.to_proto())


class Samples:
    """Arrays as a data set: what passes that look at data are given."""

    name, synthetic, labelled = "samples", False, False

    def __init__(self, **arrays: np.ndarray):
        self.arrays = arrays
        self.samples = len(next(iter(arrays.values())))

    def batches(self, size: int = 32, limit: int | None = None):
        for at in range(0, self.samples if limit is None else min(limit, self.samples), size):
            stop = min(at + size, self.samples if limit is None else limit)
            yield Batch({name: a[at:stop] for name, a in self.arrays.items()}, stop - at)


def given(**arrays: np.ndarray) -> dict:
    """Arguments of `apply` for a pass that looks at these arrays."""
    runner, data = Runner(optimise=False), Samples(**arrays)
    return {"runner": runner, "data": data, "synthetic": False, "evaluator": Evaluator(runner, data)}
