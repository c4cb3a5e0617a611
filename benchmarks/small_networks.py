"""Networks of random weights (He 2015) for images [N, 1, 28, 28] and ten classes, which the benchmarks of training train."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Chain:
    """A network that is built operator behind operator; each layer and its tensors bear the name that it is given."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.last = "image"

    def weight(self, name: str, values: np.ndarray | float) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def layer(self, op: str, name: str, *shape: int, bias: bool = True, **attrs) -> None:
        w = self.weight(f"{name}.w", np.sqrt(2 / np.prod(shape[1:])) * self.rng.standard_normal(shape))
        b = [self.weight(f"{name}.b", np.zeros(shape[0]))] if bias else []
        self.nodes.append(helper.make_node(op, [self.last, w, *b], [name], name=name, **attrs))
        self.last = name

    def norm(self, name: str, channels: int) -> None:
        rest = [self.weight(f"{name}.{k}", np.full(channels, v)) for k, v in zip("gbmv", (1.0, 0.0, 0.0, 1.0))]
        self.nodes.append(helper.make_node("BatchNormalization", [self.last, *rest], [name], name=name))
        self.last = name

    def then(self, op: str, more: tuple[str, ...] = (), **attrs) -> None:
        """An operator on the last tensor and, behind it, those that `more` names."""
        made = f"{self.last}_{op}"
        self.nodes.append(helper.make_node(op, [self.last, *more], [made], name=made, **attrs))
        self.last = made

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["N", 10])],
            self.tensors,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lenet(name: str, seed: int = 0) -> onnx.ModelProto:
    """LeNet-300-100 or LeNet-5 (in Caffe's form) as Han (2016) compresses them."""
    net = Chain(seed)
    if name == "LeNet-5":
        for layer, *shape in (("conv1", 20, 1), ("conv2", 50, 20)):
            net.layer("Conv", layer, *shape, 5, 5)
            net.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        sizes = [800, 500, 10]
    else:
        sizes = [784, 300, 100, 10]
    net.then("Flatten")
    for k in range(1, len(sizes)):
        net.layer("Gemm", f"ip{k}", sizes[k], sizes[k - 1], transB=1)
        if k + 1 < len(sizes):
            net.then("Relu")
    return net.model()


def normed(widths: tuple[int, ...], seed: int = 0) -> onnx.ModelProto:
    """3x3 convolutions of these widths with batch normalisation and Relu, halved twice, and one fully connected layer."""
    net = Chain(seed)
    for k, (made, read) in enumerate(zip(widths, (1, *widths))):
        net.layer("Conv", f"conv{k}", made, read, 3, 3, pads=[1, 1, 1, 1])
        net.norm(f"bn{k}", made)
        net.then("Relu")
        if k in (0, len(widths) // 2):
            net.then("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.then("GlobalAveragePool")
    net.then("Flatten")
    net.layer("Gemm", "fc", 10, widths[-1], transB=1)
    return net.model()
