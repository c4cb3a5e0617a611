# ruff: noqa: E501  graphs and tables read better on one line
"""Hypothesis graphs: small networks with random weights that run in a few milliseconds.

    @given(models())
    def test_something(proto): ...

A graph is a chain of blocks over a feature map [N, C, H, W] or a sequence [N, T, D], and a head. The blocks are those in
which channels get coupled: residual adds and sums, concats of concats, splits, slices, channel shuffles, grouped,
depthwise and transposed convolutions, squeeze-and-excitation, attention heads, layer normalisation, shared weights.
Activations stay near 1. The same arguments give the same graph, and fewer blocks a smaller one, so that failures shrink.
"""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSETS = tuple(range(11, 22))
MAX_BLOCKS = 6


@st.composite
def models(draw, opsets=OPSETS, max_blocks: int = MAX_BLOCKS) -> onnx.ModelProto:
    """A small checked-in-ORT network with one input `x` and outputs `y`, `y1`, ..."""
    blocks = draw(st.integers(1, max_blocks))
    return build(draw(st.integers(0, 2**32 - 1)), blocks, draw(st.sampled_from(opsets)))


def feeds(proto: onnx.ModelProto, seed: int = 0, batch: int = 2) -> dict[str, np.ndarray]:
    """Random inputs for a graph of this file; symbolic extents are `batch`."""
    rng = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value or batch for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def build(seed: int, blocks: int, opset: int) -> onnx.ModelProto:
    """The graph that these numbers name."""
    return Builder(seed, opset).network(blocks)


class Builder:
    """Nodes and weights of a graph in the making; tensors are (name, shape without batch)."""

    def __init__(self, seed: int, opset: int):
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kernels: dict[tuple, str] = {}
        self.count = 0

    # pieces

    def pick(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def const(self, values, stem: str = "c") -> str:
        """A weight, now and then in a Constant node."""
        name, values = self.name(stem), np.asarray(values)
        if self.chance(0.15):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name)))
        else:
            self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64), "i")

    def normal(self, *shape: int, fan: int | None = None, stem: str = "w") -> str:
        scale = 1.0 / np.sqrt(fan or 1)
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32), stem)

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape).astype(np.float32), "s")

    def op(self, op: str, inputs: list[str], shape, outputs: int = 1, **attrs):
        """A node; `shape` is that of its output without batch, or one for each output."""
        outs = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, **attrs))
        for o, s in zip(outs, [shape] if outputs == 1 else shape, strict=True):
            self.shapes[o] = tuple(s)
        return outs[0] if outputs == 1 else outs

    def by_axes(self, op: str, x: str, shape, axes: list[int], since: int, **attrs) -> str:
        """An operator whose axes were an attribute before opset `since`."""
        if self.opset >= since:
            return self.op(op, [x, self.ints(*axes)], shape, **attrs)
        return self.op(op, [x], shape, axes=axes, **attrs)

    # layers of a feature map

    def conv(self, x: str, out: int, k: int = 3, stride: int = 1, group: int = 1, shared: bool = False) -> str:
        c, h, w = self.shapes[x]
        k = k if min(h, w) >= k else 1
        key = (c, out, k, group)
        if shared and key in self.kernels:
            kernel = self.kernels[key]
        else:
            kernel = self.kernels[key] = self.normal(out, c // group, k, k, fan=c // group * k * k)
        pad = k // 2
        sizes = [(n + 2 * pad - k) // stride + 1 for n in (h, w)]
        inputs = [x, kernel] + ([self.normal(out, stem="b")] if self.chance(0.5) else [])
        return self.op("Conv", inputs, (out, *sizes), pads=[pad] * 4, strides=[stride] * 2, group=group)

    def norm(self, x: str) -> str:
        c = self.shapes[x][0]
        kind = self.pick("bn", "bn", "bn", "in", "gn")
        if kind == "in":
            return self.op("InstanceNormalization", [x, self.positive(c), self.normal(c)], self.shapes[x])
        if kind == "gn" and self.opset >= 21 and c % 2 == 0:
            return self.op("GroupNormalization", [x, self.positive(c), self.normal(c)], self.shapes[x], num_groups=2)
        inputs = [x, self.positive(c), self.normal(c), self.normal(c), self.positive(c)]
        return self.op("BatchNormalization", inputs, self.shapes[x])

    def act(self, x: str) -> str:
        shape = self.shapes[x]
        ops = [
            "Relu",
            "Relu",
            "Sigmoid",
            "Tanh",
            "LeakyRelu",
            "Clip",
            "Elu",
            "Identity",
            "Dropout",
            "PRelu",
            "swish",
            "where",
        ]
        op = self.pick(*ops, *(["HardSwish"] if self.opset >= 14 else []), *(["Gelu"] if self.opset >= 20 else []))
        if op == "Clip":
            return self.op(
                "Clip", [x, self.const(np.float32(-1)), "" if self.chance(0.3) else self.const(np.float32(2))], shape
            )
        if op == "PRelu":
            slope = (shape[0], *[1] * (len(shape) - 1)) if self.chance(0.7) else (1,) * len(shape)
            return self.op("PRelu", [x, self.positive(*slope)], shape)
        if op == "swish":
            return self.op("Mul", [x, self.op("Sigmoid", [x], shape)], shape)
        if op == "where":
            return self.op(
                "Where", [self.op("Greater", [x, self.const(np.float32(0))], shape), x, self.normal(*shape)], shape
            )
        return self.op(op, [x], shape)

    def layer(self, x: str, out: int | None = None) -> str:
        """A convolution of any kind, perhaps normalised and activated."""
        c, h, w = self.shapes[x]
        out = out or self.pick(4, 6, 8, 12)
        kind = self.pick("conv", "conv", "point", "group", "depth", "transposed")
        groups = [g for g in (2, 3, 4) if c % g == 0 and out % g == 0]
        if kind == "group" and groups:
            y = self.conv(x, out, group=self.pick(*groups))
        elif kind == "depth":
            y = self.conv(self.conv(x, c, group=c), out, k=1)
        elif kind == "transposed":
            group = self.pick(1, *groups)
            kernel = self.normal(c, out // group, 3, 3, fan=c * 9)
            y = self.op("ConvTranspose", [x, kernel], (out, h, w), pads=[1] * 4, group=group)
        else:
            y = self.conv(x, out, k=1 if kind == "point" else 3, shared=self.chance(0.3))
        y = self.norm(y) if self.chance(0.6) else y
        return self.act(y) if self.chance(0.7) else y

    # blocks: feature map -> feature map

    def block_plain(self, x: str) -> str:
        return self.layer(x)

    def block_residual(self, x: str) -> str:
        c = self.shapes[x][0]
        y = self.layer(self.layer(x), c)
        if self.chance(0.3):
            return self.op("Sum", [x, y, self.layer(x, c)], self.shapes[x])
        y = self.op("Add", [x, y] if self.chance(0.5) else [y, x], self.shapes[x])
        return self.act(y) if self.chance(0.5) else y

    def block_shortcut(self, x: str) -> str:
        out = self.pick(4, 8)
        stride = 2 if min(self.shapes[x][1:]) >= 4 else 1
        a = self.norm(self.conv(x, out, stride=stride))
        b = self.conv(x, out, k=1, stride=stride)
        return self.op("Add", [a, b], self.shapes[a])

    def concat(self, parts: list[str]) -> str:
        shape = self.shapes[parts[0]]
        return self.op(
            "Concat", parts, (sum(self.shapes[p][0] for p in parts), *shape[1:]), axis=self.pick(1, 1 - len(shape) - 1)
        )

    def block_concat(self, x: str) -> str:
        parts = [self.layer(x, self.pick(2, 3, 4)) for _ in range(self.pick(1, 2))]
        inner = self.concat([x, *parts]) if self.chance(0.5) else self.concat([*parts, self.layer(x, 4)])
        return self.concat([inner, self.layer(inner, 2)]) if self.chance(0.4) else inner

    def split(self, x: str, sizes: list[int]) -> list[str]:
        shapes = [(n, *self.shapes[x][1:]) for n in sizes]
        if len(set(sizes)) == 1 and self.chance(0.5):
            extra = {"num_outputs": len(sizes)} if self.opset >= 18 else {}
            return self.op("Split", [x], shapes, len(sizes), axis=1, **extra)
        if self.opset >= 13:
            return self.op("Split", [x, self.ints(*sizes)], shapes, len(sizes), axis=1)
        return self.op("Split", [x], shapes, len(sizes), axis=1, split=sizes)

    def block_split(self, x: str) -> str:
        c = self.shapes[x][0]
        if c < 4:
            return self.layer(x)
        first = c // 2 if c % 2 == 0 and self.chance(0.5) else self.pick(1, 2, 3)
        a, b = self.split(x, [first, c - first])
        parts = [self.layer(a, self.shapes[a][0]) if self.chance(0.6) else a, b]
        return self.concat(parts if self.chance(0.5) else parts[::-1])

    def block_slice(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if c < 4:
            return self.layer(x)
        lo = self.pick(0, 1, 2)
        hi = self.pick(c, c - 1)
        ends = self.ints(self.pick(hi, hi - c) if hi < c else 2**31)
        step = [self.ints(1)] if self.chance(0.5) else []
        y = self.op(
            "Slice",
            [x, self.ints(lo if self.chance(0.5) or lo == 0 else lo - c), ends, self.ints(1), *step],
            (hi - lo, h, w),
        )
        return self.op("Add", [y, self.layer(x, hi - lo)], (hi - lo, h, w)) if self.chance(0.5) else y

    def block_shuffle(self, x: str) -> str:
        c, h, w = self.shapes[x]
        groups = [g for g in (2, 3, 4) if c % g == 0 and c > g]
        if not groups:
            return self.layer(x)
        g = self.pick(*groups)
        y = self.op("Reshape", [x, self.ints(0, g, c // g, h, w)], (g, c // g, h, w))
        y = self.op("Transpose", [y], (c // g, g, h, w), perm=[0, 2, 1, 3, 4])
        y = self.op("Reshape", [y, self.ints(*self.pick((0, c, h, w), (0, -1, h, w)))], (c, h, w))
        return self.conv(y, c, group=self.pick(1, g, c))

    def block_gate(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if self.chance(0.5):
            y = self.op("GlobalAveragePool", [x], (c, 1, 1))
        else:
            y = self.by_axes("ReduceMean", x, (c, 1, 1), [2, -1], 18, keepdims=1)
        y = self.op("Relu", [self.conv(y, 4, k=1)], (4, 1, 1))
        y = self.op("Sigmoid", [self.conv(y, self.pick(c, c, 1), k=1)], (c, 1, 1))
        return self.op("Mul", [x, y] if self.chance(0.5) else [y, x], (c, h, w))

    def block_pool(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if min(h, w) < 4:
            return self.layer(x)
        op = self.pick("MaxPool", "AveragePool")
        ceil = int(h % 2 == 0 and w % 2 == 0 and self.chance(0.3))
        return self.op(op, [x], (c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)

    def block_depth(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if c % 4 == 0 and h <= 8 and self.chance(0.6):
            y = self.op("DepthToSpace", [x], (c // 4, h * 2, w * 2), blocksize=2, mode=self.pick("DCR", "CRD"))
        elif h % 2 == 0 and w % 2 == 0:
            y = self.op("SpaceToDepth", [x], (c * 4, h // 2, w // 2), blocksize=2)
        else:
            return self.layer(x)
        return self.layer(y)

    def block_resize(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if h > 8:
            return self.layer(x)
        roi = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32))
        if self.chance(0.5):
            inputs = [x, roi, self.const(np.array([1, 1, 2, 2], np.float32))]
        else:  # sizes hold the batch, which may be symbolic: they are taken from the input
            scales = self.const(np.zeros(0, np.float32)) if self.opset < 13 else ""
            size = self.op("Shape", [x], ())
            head = self.op("Slice", [size, self.ints(0), self.ints(2), self.ints(0)], ())
            inputs = [x, roi, scales, self.op("Concat", [head, self.ints(2 * h, 2 * w)], (), axis=0)]
        return self.op("Resize", inputs, (c, 2 * h, 2 * w), mode=self.pick("nearest", "linear"))

    def block_pad(self, x: str) -> str:
        c, h, w = self.shapes[x]
        if self.chance(0.5):
            mode = self.pick("constant", "reflect", "edge") if min(h, w) > 1 else "constant"
            return self.op("Pad", [x, self.ints(0, 0, 1, 0, 0, 0, 0, 1)], (c, h + 1, w + 1), mode=mode)
        y = self.op("Pad", [x, self.ints(0, 1, 0, 0, 0, 2, 0, 0), self.const(np.float32(0.5))], (c + 3, h, w))
        return self.layer(y)

    def block_scale(self, x: str) -> str:
        c, h, w = self.shapes[x]
        op = self.pick("Mul", "Add", "Sub", "Div", "Min", "Max")
        return self.op(op, [x, self.positive(*self.pick((c, 1, 1), (1, c, 1, 1), (1,), (c, h, w), (h, 1)))], (c, h, w))

    def block_channels_last(self, x: str) -> str:
        c, h, w = self.shapes[x]
        y = self.op("Transpose", [x], (h, w, c), perm=[0, 2, 3, 1])
        out = self.pick(c, 6)
        y = self.op("MatMul", [y, self.normal(c, out, fan=c)], (h, w, out))
        y = self.op("Add", [self.normal(out), y], (h, w, out))
        return self.op("Transpose", [y], (out, h, w), perm=[0, 3, 1, 2])

    # blocks: sequence -> sequence

    def dense(self, x: str, out: int) -> str:
        shape = (*self.shapes[x][:-1], out)
        y = self.op("MatMul", [x, self.normal(self.shapes[x][-1], out, fan=self.shapes[x][-1])], shape)
        return self.op("Add", [y, self.normal(out)], shape) if self.chance(0.6) else y

    def layer_norm(self, x: str) -> str:
        shape = self.shapes[x]
        if self.opset >= 17:
            return self.op("LayerNormalization", [x, self.positive(shape[-1]), self.normal(shape[-1])], shape, axis=-1)
        mean = self.by_axes("ReduceMean", x, (*shape[:-1], 1), [-1], 18, keepdims=1)
        d = self.op("Sub", [x, mean], shape)
        square = self.op("Pow", [d, self.const(np.float32(2))], shape)
        var = self.by_axes("ReduceMean", square, (*shape[:-1], 1), [-1], 18, keepdims=1)
        root = self.op(
            "Sqrt", [self.op("Add", [var, self.const(np.float32(1e-3))], (*shape[:-1], 1))], (*shape[:-1], 1)
        )
        return self.op("Mul", [self.op("Div", [d, root], shape), self.positive(shape[-1])], shape)

    def block_mlp(self, x: str) -> str:
        y = self.dense(self.layer_norm(x) if self.chance(0.5) else x, self.pick(6, 8, 12))
        shape = self.shapes[y]
        if self.chance(0.5):
            erf = self.op("Erf", [self.op("Div", [y, self.const(np.float32(1.4142))], shape)], shape)
            y = self.op("Mul", [y, self.op("Add", [erf, self.const(np.float32(1))], shape)], shape)
        else:
            y = self.op("Relu", [y], shape)
        return self.op("Add", [x, self.dense(y, self.shapes[x][-1])], self.shapes[x])

    def block_attention(self, x: str) -> str:
        t, d = self.shapes[x]
        heads, width, wide = self.pick(1, 2, 3), self.pick(2, 4), self.pick(2, 3)
        x1 = self.layer_norm(x) if self.chance(0.4) else x

        def project(n: int, perm: list[int], shape) -> str:
            y = self.op("Reshape", [self.dense(x1, heads * n), self.ints(0, t, heads, n)], (t, heads, n))
            return self.op("Transpose", [y], shape, perm=perm)

        q = project(width, [0, 2, 1, 3], (heads, t, width))
        k = project(width, [0, 2, 3, 1], (heads, width, t))
        v = project(wide, [0, 2, 1, 3], (heads, t, wide))
        scores = self.op("Mul", [self.op("MatMul", [q, k], (heads, t, t)), self.const(np.float32(0.5))], (heads, t, t))
        y = self.op(
            "MatMul",
            [self.op("Softmax", [scores], (heads, t, t), axis=-1 if self.opset >= 13 else 3), v],
            (heads, t, wide),
        )
        y = self.op("Transpose", [y], (t, heads, wide), perm=[0, 2, 1, 3])
        y = self.op("Reshape", [y, self.ints(0, t, self.pick(-1, heads * wide))], (t, heads * wide))
        return self.op("Add", [x, self.dense(y, d)], (t, d))

    # the whole

    IMAGE = (
        "plain", "plain", "residual", "residual", "shortcut", "concat", "split", "slice", "shuffle", "gate", "pool", "depth", "resize", "pad",
        "scale", "channels_last",
    )  # fmt: skip
    SEQUENCE = ("mlp", "attention")

    def to_sequence(self, x: str) -> str:
        c, h, w = self.shapes[x]
        y = self.op("Reshape", [x, self.ints(0, c, h * w)], (c, h * w))
        return self.op("Transpose", [y], (h * w, c), perm=[0, 2, 1])

    def head(self, x: str) -> str:
        shape = self.shapes[x]
        kind = self.pick("flat", "mean", "map") if len(shape) == 3 else self.pick("mean", "flat", "dense")
        if kind == "map":
            return self.conv(x, 3, k=1)
        if kind == "dense":
            return self.dense(x, 3)
        if kind == "mean" and len(shape) == 3:
            if self.chance(0.5):
                x = self.op("GlobalMaxPool", [x], (shape[0], 1, 1))
                x = self.by_axes("Squeeze", x, shape[:1], [2, 3], 13)
            else:
                x = self.by_axes("ReduceMean", x, shape[:1], [2, 3], 18, keepdims=0)
        elif kind == "mean":
            x = self.by_axes("ReduceMean", x, shape[1:], [1], 18, keepdims=0)
        elif self.chance(0.5):
            x = self.op("Flatten", [x], (int(np.prod(shape)),))
        else:
            x = self.op("Reshape", [x, self.ints(0, -1)], (int(np.prod(shape)),))
        n = self.shapes[x][0]
        if self.chance(0.5):
            x = self.op("Relu", [self.op("Gemm", [x, self.normal(8, n, fan=n), self.normal(8)], (8,), transB=1)], (8,))
            n = 8
        if self.chance(0.3):
            return self.dense(x, 5)
        return self.op("Gemm", [x, self.normal(n, 5, fan=n), self.normal(5)], (5,))

    def network(self, blocks: int) -> onnx.ModelProto:
        size = self.pick(6, 8)
        channels = self.pick(3, 4)
        self.shapes["x"] = (channels, size, size)
        x = self.layer("x")
        extra = []
        for i in range(blocks):
            image = len(self.shapes[x]) == 3
            if image and blocks > 1 and i >= blocks // 2 and self.chance(0.3) and np.prod(self.shapes[x][1:]) <= 64:
                x, image = self.to_sequence(x), False
            x = getattr(self, f"block_{self.pick(*(self.IMAGE if image else self.SEQUENCE))}")(x)
            if self.chance(0.08):
                extra.append(x)
        outputs = [self.head(x)]
        if self.chance(0.2):
            outputs.append(self.head(x))
        outputs += [e for e in extra if e != x or self.chance(0.5)]
        batch = self.pick("N", 2)
        infos = [
            helper.make_tensor_value_info(o, TensorProto.FLOAT, [batch, *self.shapes[o]])
            for o in dict.fromkeys(outputs)
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, size, size])]
        graph = helper.make_graph(self.nodes, "generated", inputs, infos, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
