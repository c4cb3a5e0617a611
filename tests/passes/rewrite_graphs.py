"""Random chains of the operators that clean and fuse rewrite: views, casts, pads, bounds, constants, convolutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH = 3
LIMIT = 20_000
"""Elements beyond which a tensor is not read any further."""


class Chain:
    """A graph under construction: each step reads one of the last tensors and adds a few nodes."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice([13, 14, 17, 18, 20, 21]))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.live: list[tuple[str, list[int]]] = [("x", [BATCH, 4, 6, 6])]

    def constant(self, values) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def normal(self, *shape: int) -> str:
        return self.constant((self.rng.standard_normal(shape) / 2).astype(np.float32))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs):
        outs = [f"t{len(self.nodes)}_{j}" for j in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), outs, f"n{len(self.nodes)}", **attrs))
        return outs[0] if outputs == 1 else outs

    def model(self, steps: int) -> onnx.ModelProto:
        for _ in range(steps):
            name, shape = self.live[int(self.rng.integers(max(0, len(self.live) - 3), len(self.live)))]
            step = STEPS[int(self.rng.integers(len(STEPS)))]
            made = step(self, name, shape, len(shape)) if np.prod(shape) <= LIMIT else None
            if made is not None:
                self.live.append((made[0], [int(n) for n in made[1]]))
        batch = "N" if self.rng.random() < 0.6 else BATCH
        extra = int(self.rng.integers(len(self.live)))
        chosen = {k: s for k, s in (self.live[-1], self.live[extra]) if k != "x"} or {self.node("Relu", "x"): [1] * 4}
        outs = [helper.make_tensor_value_info(k, 1, [batch] + [None] * (len(s) - 1)) for k, s in chosen.items()]
        data = helper.make_tensor_value_info("x", 1, [batch, 4, 6, 6])
        graph = helper.make_graph(self.nodes, "g", [data], outs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


Step = Callable[[Chain, str, list[int], int], "tuple[str, list[int]] | None"]


def transpose(c: Chain, t: str, s: list[int], n: int):
    perm = [0, *(int(k) for k in 1 + c.rng.permutation(n - 1))]
    return c.node("Transpose", t, perm=perm), [s[k] for k in perm]


def reshape(c: Chain, t: str, s: list[int], n: int):
    rest = int(np.prod(s[1:]))
    d = int(c.rng.choice([d for d in range(1, rest + 1) if rest % d == 0]))
    targets = [[0, d, rest // d], [-1, d, rest // d], [0, d, -1], [0, -1]]
    form = int(c.rng.integers(4 if n > 1 else 3))
    return c.node("Reshape", t, c.ints(*targets[form])), [s[0], rest] if form == 3 else [s[0], d, rest // d]


def unsqueeze(c: Chain, t: str, s: list[int], n: int):
    k = int(c.rng.integers(1, n + 1))
    return c.node("Unsqueeze", t, c.ints(k)), [*s[:k], 1, *s[k:]]


def squeeze(c: Chain, t: str, s: list[int], n: int):
    ones = [k for k in range(1, n) if s[k] == 1]
    return (c.node("Squeeze", t, c.ints(ones[-1] - n)), [*s[: ones[-1]], *s[ones[-1] + 1 :]]) if ones else None


def flatten(c: Chain, t: str, s: list[int], n: int):
    return c.node("Flatten", t), [s[0], int(np.prod(s[1:]))]


def casts(c: Chain, t: str, s: list[int], n: int):
    to = int(c.rng.choice([TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.FLOAT]))
    return c.node("Cast", c.node("Cast", t, to=to), to=TensorProto.FLOAT), s


def pad(c: Chain, t: str, s: list[int], n: int):
    pads = c.rng.integers(0, 3, 2 * n) * (c.rng.random(2 * n) < 0.4)
    pads[[0, n]] = 0
    value = [c.number(c.rng.choice([0, 0, 0, 1, -np.inf]))] if c.rng.random() < 0.5 else []
    return c.node("Pad", t, c.ints(*pads), *value), np.add(s, pads[:n] + pads[n:]).tolist()


def cut(c: Chain, t: str, s: list[int], n: int):
    k, step = int(c.rng.integers(1, n)) if n > 1 else 0, int(c.rng.choice([1, 1, 1, 2, -1]))
    start = int(c.rng.integers(-s[k], s[k]))
    end = int(c.rng.choice([s[k], 2**62, -1])) if step > 0 else -(2**62)
    left = len(range(s[k])[start:end:step])
    if k == 0 or left == 0:
        return None
    return c.node("Slice", t, *(c.ints(v) for v in (start, end, k, step))), [*s[:k], left, *s[k + 1 :]]


def split(c: Chain, t: str, s: list[int], n: int):
    if n < 2 or s[1] < 2:
        return None
    parts = c.node("Split", t, c.ints(1, s[1] - 1), outputs=2, axis=1)
    return c.node("Concat", *(parts if c.rng.random() < 0.6 else parts[::-1]), axis=1), s


def unary(c: Chain, t: str, s: list[int], n: int):
    return c.node(str(c.rng.choice(["Neg", "Abs", "Relu", "Floor", "Sigmoid", "Tanh", "Identity", "Dropout"])), t), s


def clip(c: Chain, t: str, s: list[int], n: int):
    low = c.number(c.rng.choice([-1, 0, 0.5, 2, 6])) if c.rng.random() < 0.8 else ""
    return c.node("Clip", t, low, c.number(c.rng.choice([-1, 0, 1, 6]))), s


def bound(c: Chain, t: str, s: list[int], n: int):
    return c.node(str(c.rng.choice(["Min", "Max"])), t, c.number(c.rng.choice([-1, 0, 1, 6]))), s


def affine(c: Chain, t: str, s: list[int], n: int):
    shape = [[], [1], [*s[1:2], *[1] * (n - 2)], s[-1:], [1] * n][int(c.rng.integers(5))]
    values = (
        c.rng.choice([-2, -1, 0.25, 0.5, 1, 3], shape) if c.rng.random() < 0.8 else np.full(shape, c.rng.choice([0, 1]))
    )
    op = str(c.rng.choice(["Add", "Sub", "Mul", "Div"]))
    if n < 2 or (op == "Div" and not np.all(values)):
        return None
    other = c.constant(values.astype(np.float32))
    return c.node(op, *((other, t) if op != "Div" and c.rng.random() < 0.4 else (t, other))), s


def shape_chain(c: Chain, t: str, s: list[int], n: int):
    shape = c.node("Shape", t)
    first = c.node("Gather", shape, c.ints(0))
    if n < 2 or c.rng.random() < 0.5:
        return c.node("Reshape", t, c.node("Concat", first, c.ints(-1), axis=0)), [s[0], int(np.prod(s[1:]))]
    second = c.node("Slice", shape, c.ints(1), c.ints(2))
    target = c.node("Concat", first, c.ints(1), second, c.ints(-1), axis=0)
    return c.node("Reshape", t, target), [s[0], 1, s[1], int(np.prod(s[2:]))]


def window(c: Chain, t: str, s: list[int], n: int):
    if n != 4 or min(s[2:]) < 4:
        return None
    if c.rng.random() < 0.5:
        pads = c.rng.integers(0, 2, 4)
        t = c.node("Pad", t, c.ints(0, 0, *pads[:2], 0, 0, *pads[2:]))
        s = [*s[:2], *np.add(s[2:], pads[:2] + pads[2:]).tolist()]
    k, stride = int(c.rng.integers(1, 4)), int(c.rng.integers(1, 3))
    own = c.rng.integers(0, k, 4).tolist() if c.rng.random() < 0.4 else [0] * 4
    op = str(c.rng.choice(["MaxPool", "AveragePool", "Conv", "Conv"]))
    sizes = [(s[2 + j] + own[j] + own[2 + j] - k) // stride + 1 for j in (0, 1)]
    if op == "Conv":
        return c.node(op, t, c.normal(5, s[1], k, k), c.normal(5), pads=own, strides=[stride] * 2), [s[0], 5, *sizes]
    attrs = {"count_include_pad": int(c.rng.random() < 0.5)} if op == "AveragePool" else {}
    return c.node(op, t, kernel_shape=[k, k], pads=own, strides=[stride] * 2, **attrs), [*s[:2], *sizes]


def depthwise(c: Chain, t: str, s: list[int], n: int):
    return (c.node("Conv", t, c.normal(s[1], 1, 3, 3), group=s[1], pads=[1] * 4), s) if n == 4 else None


def product(c: Chain, t: str, s: list[int], n: int):
    if n == 2 and c.rng.random() < 0.5:
        return c.node("Gemm", t, c.normal(s[1], 5), c.normal(5), alpha=0.5), [s[0], 5]
    return (c.node("MatMul", t, c.normal(s[-1], 5)), [*s[:-1], 5]) if n > 1 else None


def batch_norm(c: Chain, t: str, s: list[int], n: int):
    variance = c.constant((c.rng.random(s[1]) + 0.5).astype(np.float32)) if n > 1 else ""
    return (c.node("BatchNormalization", t, *(c.normal(s[1]) for _ in range(3)), variance), s) if n > 1 else None


def join(c: Chain, t: str, s: list[int], n: int):
    return c.node("Add", t, str(c.rng.choice([k for k, other in c.live if other == s]))), s


def expand(c: Chain, t: str, s: list[int], n: int):
    return c.node("Expand", c.node("Identity", t), c.node("Shape", t)), s


def twins(c: Chain, t: str, s: list[int], n: int):
    return c.node("Add", c.node("Sigmoid", t), c.node("Sigmoid", t)), s


def hard_swish(c: Chain, t: str, s: list[int], n: int):
    line = c.node("Clip", c.node("Add", t, c.number(3)), c.number(0), c.number(6))
    return c.node("Div", c.node("Mul", t, line), c.number(6)), s


STEPS: list[Step] = [
    transpose, reshape, unsqueeze, squeeze, flatten, casts, pad, cut, split, unary, clip, bound, affine, affine, affine,
    shape_chain, window, window, depthwise, product, batch_norm, batch_norm, join, expand, twins, hard_swish,
]  # fmt: skip
