"""Networks of known architectures with random weights, built with onnx.helper: what `networks.py` measures.

Batch normalisation is taken to be folded already. Weights are drawn so that activations keep their scale (He et al., 2015).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph that grows: methods append nodes and return the name of the result; `shape` follows them."""

    def __init__(self, *shape: int, seed: int = 0):
        self.nodes: list = []
        self.weights: list = []
        self.rng = np.random.default_rng(seed)
        self.shape = {"x": shape}

    def op(self, kind: str, inputs: list[str], shape, **attributes) -> str:
        """A node with one result of `shape`."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.shape[name] = tuple(shape)
        return name

    def constant(self, array) -> str:
        """An initialiser."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def drawn(self, *shape: int, fan: int, gain: float = 2.0) -> str:
        """Random weights with variance gain / fan."""
        return self.constant((self.rng.standard_normal(shape, np.float32) * math.sqrt(gain / fan)).astype("f"))

    def act(self, x: str, kind: str) -> str:
        """An activation, or none."""
        if kind == "relu6":
            limits = [self.constant(np.float32(limit)) for limit in (0, 6)]
            return self.op("Clip", [x, *limits], self.shape[x])
        if kind == "silu":
            return self.op("Mul", [x, self.op("Sigmoid", [x], self.shape[x])], self.shape[x])
        return self.op({"relu": "Relu", "sigmoid": "Sigmoid"}[kind], [x], self.shape[x]) if kind else x

    def conv(self, x: str, oc: int, k: int = 3, stride: int = 1, groups: int = 1, act: str = "relu", pad=None) -> str:
        """A convolution with bias."""
        n, c, h, w = self.shape[x]
        pad = k // 2 if pad is None else pad
        fan = c // groups * k * k
        inputs = [x, self.drawn(oc, c // groups, k, k, fan=fan), self.drawn(oc, fan=oc)]
        out = [(extent + 2 * pad - k) // stride + 1 for extent in (h, w)]
        more = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        return self.act(self.op("Conv", inputs, (n, oc, *out), **more), act)

    def pool(self, x: str, k: int, stride: int, pad: int = 0) -> str:
        """MaxPool."""
        n, c, h, w = self.shape[x]
        out = [(extent + 2 * pad - k) // stride + 1 for extent in (h, w)]
        return self.op("MaxPool", [x], (n, c, *out), kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)

    def add(self, a: str, b: str, act: str = "") -> str:
        return self.act(self.op("Add", [a, b], self.shape[a]), act)

    def vector(self, x: str) -> str:
        """Mean over rows and columns, flat."""
        n, c, _, _ = self.shape[x]
        mean = self.op("GlobalAveragePool", [x], (n, c, 1, 1))
        return self.op("Flatten", [mean], (n, c))

    def gemm(self, x: str, size: int, act: str = "") -> str:
        """A fully connected layer."""
        n, c = self.shape[x]
        inputs = [x, self.drawn(size, c, fan=c), self.drawn(size, fan=size)]
        return self.act(self.op("Gemm", inputs, (n, size), transB=1), act)

    def linear(self, x: str, size: int) -> str:
        """MatMul and Add on the last axis."""
        *rest, c = self.shape[x]
        made = self.op("MatMul", [x, self.drawn(c, size, fan=c, gain=1.0)], (*rest, size))
        return self.op("Add", [made, self.drawn(size, fan=size)], (*rest, size))

    def norm(self, x: str) -> str:
        """LayerNormalization on the last axis."""
        c = self.shape[x][-1]
        scale, shift = self.constant(np.ones(c, "f")), self.constant(np.zeros(c, "f"))
        return self.op("LayerNormalization", [x, scale, shift], self.shape[x], axis=-1)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", [x], [self.shape[x][i] for i in perm], perm=list(perm))

    def gelu(self, x: str) -> str:
        """0.5 x (1 + erf(x / sqrt(2))), as exporters write it."""
        shape = self.shape[x]
        half, one, root = (self.constant(np.float32(v)) for v in (0.5, 1.0, math.sqrt(2)))
        inner = self.op("Add", [self.op("Erf", [self.op("Div", [x, root], shape)], shape), one], shape)
        return self.op("Mul", [self.op("Mul", [x, inner], shape), half], shape)

    def attention(self, x: str, heads: int) -> str:
        """Multi-head self-attention with one joined projection."""
        n, length, width = self.shape[x]
        size = width // heads
        joined = self.transpose(self.reshape(self.linear(x, 3 * width), n, length, 3, heads, size), 2, 0, 3, 1, 4)
        shape = (n, heads, length, size)
        q, k, v = (self.op("Gather", [joined, self.constant(np.int64(i))], shape, axis=0) for i in range(3))
        scores = self.op("MatMul", [q, self.transpose(k, 0, 1, 3, 2)], (n, heads, length, length))
        scores = self.op("Mul", [scores, self.constant(np.float32(size**-0.5))], self.shape[scores])
        mixed = self.op("MatMul", [self.op("Softmax", [scores], self.shape[scores], axis=-1), v], shape)
        return self.linear(self.reshape(self.transpose(mixed, 0, 2, 1, 3), n, length, width), width)

    def block(self, x: str, heads: int) -> str:
        """A transformer block with norms ahead."""
        x = self.add(x, self.attention(self.norm(x), heads))
        width = self.shape[x][-1]
        return self.add(x, self.linear(self.gelu(self.linear(self.norm(x), 4 * width)), width))

    def model(self, y: str) -> onnx.ModelProto:
        """The model whose result is `y`."""
        self.nodes[-1].output[0] = "y" if self.nodes[-1].output[0] == y else self.nodes[-1].output[0]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shape[s]) for n, s in (("x", "x"), ("y", y))]
        graph = helper.make_graph(self.nodes, "net", ends[:1], ends[1:], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made)


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> onnx.ModelProto:
    """ResNet-18 or -50 (He et al., 2016), stride in the 3 x 3 layer."""
    net = Net(1, 3, 224, 224)
    x = net.pool(net.conv("x", 64, 7, 2), 3, 2, 1)
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for i in range(count):
            stride, oc = 2 if stage and not i else 1, width * (4 if bottleneck else 1)
            short = x if net.shape[x][1] == oc and stride == 1 else net.conv(x, oc, 1, stride, act="")
            if bottleneck:
                y = net.conv(net.conv(net.conv(x, width, 1), width, 3, stride), oc, 1, act="")
            else:
                y = net.conv(net.conv(x, width, 3, stride), oc, 3, act="")
            x = net.add(y, short, "relu")
    return net.model(net.gemm(net.vector(x), 1000))


def vgg16() -> onnx.ModelProto:
    """VGG-16 (Simonyan and Zisserman, 2015)."""
    net = Net(1, 3, 224, 224)
    x = "x"
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, width)
        x = net.pool(x, 2, 2)
    x = net.op("Flatten", [x], (1, 25088))
    return net.model(net.gemm(net.gemm(net.gemm(x, 4096, "relu"), 4096, "relu"), 1000))


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNet v2 (Sandler et al., 2018)."""
    net = Net(1, 3, 224, 224)
    x = net.conv("x", 32, 3, 2, act="relu6")
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, oc, count, first in rows:
        for i in range(count):
            c, stride = net.shape[x][1], first if not i else 1
            y = net.conv(x, c * expand, 1, act="relu6") if expand > 1 else x
            y = net.conv(net.conv(y, c * expand, 3, stride, c * expand, "relu6"), oc, 1, act="")
            x = net.add(x, y) if stride == 1 and c == oc else y
    return net.model(net.gemm(net.vector(net.conv(x, 1280, 1, act="relu6")), 1000))


def efficientnet_b0() -> onnx.ModelProto:
    """EfficientNet-B0 (Tan and Le, 2019)."""
    net = Net(1, 3, 224, 224)
    x = net.conv("x", 32, 3, 2, act="silu")
    rows = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3))  # fmt: skip
    for expand, oc, count, first, k in rows:
        for i in range(count):
            c, stride = net.shape[x][1], first if not i else 1
            y = net.conv(x, c * expand, 1, act="silu") if expand > 1 else x
            y = net.conv(y, c * expand, k, stride, c * expand, "silu")
            n, wide, _, _ = net.shape[y]
            gate = net.op("GlobalAveragePool", [y], (n, wide, 1, 1))
            gate = net.conv(net.conv(gate, c // 4, 1, act="silu"), wide, 1, act="sigmoid")
            y = net.conv(net.op("Mul", [y, gate], net.shape[y]), oc, 1, act="")
            x = net.add(x, y) if stride == 1 and c == oc else y
    return net.model(net.gemm(net.vector(net.conv(x, 1280, 1, act="silu")), 1000))


def unet(size: int = 128, width: int = 32) -> onnx.ModelProto:
    """U-Net (Ronneberger et al., 2015) with padding, four levels."""
    net = Net(1, 3, size, size)

    def pair(x: str, oc: int) -> str:
        return net.conv(net.conv(x, oc), oc)

    x, kept = "x", []
    for level in range(4):
        kept.append(pair(x, width << level))
        x = net.pool(kept[-1], 2, 2)
    x = pair(x, width << 4)
    for skip in reversed(kept):
        n, c, h, w = net.shape[x]
        inputs = [x, net.drawn(c, c // 2, 2, 2, fan=c), net.drawn(c // 2, fan=c)]
        up = net.op("ConvTranspose", inputs, (n, c // 2, 2 * h, 2 * w), kernel_shape=[2, 2], strides=[2, 2])
        x = pair(net.op("Concat", [skip, up], (n, c, 2 * h, 2 * w), axis=1), c // 2)
    return net.model(net.conv(x, 2, 1, act=""))


def vit_tiny(width: int = 192, heads: int = 3, depth: int = 12) -> onnx.ModelProto:
    """ViT-tiny on 224 x 224 (Dosovitskiy et al., 2021; Touvron et al., 2021): 197 tokens."""
    net = Net(1, 3, 224, 224)
    x = net.transpose(net.reshape(net.conv("x", width, 16, 16, act="", pad=0), 1, width, 196), 0, 2, 1)
    token = net.constant(net.rng.standard_normal((1, 1, width), np.float32))
    x = net.op("Concat", [token, x], (1, 197, width), axis=1)
    x = net.add(x, net.constant(net.rng.standard_normal((1, 197, width), np.float32)))
    for _ in range(depth):
        x = net.block(x, heads)
    first = net.op("Gather", [net.norm(x), net.constant(np.int64(0))], (1, width), axis=1)
    return net.model(net.gemm(first, 1000))


def encoder(length: int = 128, width: int = 256, heads: int = 4, depth: int = 4) -> onnx.ModelProto:
    """A small text encoder."""
    net = Net(1, length, width)
    x = "x"
    for _ in range(depth):
        x = net.block(x, heads)
    return net.model(net.linear(net.norm(x), width))


def resnet8() -> onnx.ModelProto:
    """ResNet-8 on 32 x 32 pixels (MLPerf Tiny)."""
    net = Net(1, 3, 32, 32)
    x = net.conv("x", 16)
    for width in (16, 32, 64):
        stride = 1 if width == 16 else 2
        short = x if stride == 1 else net.conv(x, width, 1, stride, act="")
        x = net.add(net.conv(net.conv(x, width, 3, stride), width, act=""), short, "relu")
    return net.model(net.gemm(net.vector(x), 10))


def mobilenet_quarter() -> onnx.ModelProto:
    """MobileNet v1 0.25 on 96 x 96 pixels (MLPerf Tiny)."""
    net = Net(1, 3, 96, 96)
    x = net.conv("x", 8, 3, 2)
    for oc, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        c = net.shape[x][1]
        x = net.conv(net.conv(x, c, 3, stride, c), oc, 1)
    return net.model(net.gemm(net.vector(x), 2))


def ds_cnn() -> onnx.ModelProto:
    """DS-CNN for keywords (MLPerf Tiny): 49 x 10 features."""
    net = Net(1, 1, 49, 10)
    x = net.conv("x", 64, 5, 2)
    for _ in range(4):
        x = net.conv(net.conv(x, 64, 3, 1, 64), 64, 1)
    return net.model(net.gemm(net.vector(x), 12))


def autoencoder() -> onnx.ModelProto:
    """The fully connected autoencoder of MLPerf Tiny."""
    net = Net(1, 640)
    x = "x"
    for size in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = net.gemm(x, size, "relu")
    return net.model(net.gemm(x, 640))


NETWORKS = {
    "ResNet-18": lambda: resnet((2, 2, 2, 2), False), "ResNet-50": lambda: resnet((3, 4, 6, 3), True), "VGG-16": vgg16,
    "MobileNet v2": mobilenet_v2, "EfficientNet-B0": efficientnet_b0, "U-Net 128": unet, "ViT-tiny": vit_tiny,
    "encoder 4 x 256": encoder, "ResNet-8": resnet8, "MobileNet 0.25": mobilenet_quarter, "DS-CNN": ds_cnn,
    "autoencoder": autoencoder,
}  # fmt: skip
