"""One small network for each kind of structure that pruning goes through: something is cut, and the twin agrees."""

import numpy as np
import pytest
from onnx import helper, numpy_helper, parser

from onnxc.ir.cost import cost
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.prune import groups
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import input_specs

IMAGE = "float[N, 3, 8, 8] x"


def network(
    body: str, weights: dict, inputs: str = IMAGE, output: str = "float[N, 5, 8, 8] y", opset: int = 18, **ints
):
    """`weights`: shapes to fill, or arrays; `ints`: int64 operands."""
    rng = np.random.default_rng(0)
    graph = parser.parse_graph(f"g ({inputs}) => ({output}) {{ {body} }}")
    for name, given in {**weights, **{k: np.array(v, np.int64) for k, v in ints.items()}}.items():
        values = given
        if isinstance(given, tuple):
            values = (rng.normal(size=given) / np.sqrt(max(np.prod(given[1:]), 1))).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, name))
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def heads(body: str, **more):
    """Self-attention of 4 heads of 8 over tokens of 16, projections as MatMul."""
    weights = {"wq": (16, 32), "wk": (16, 32), "wv": (16, 32), "wo": (32, 16), "half": np.float32(8**-0.5)}
    return network(body, weights | more, "float[N, 6, 16] x", "float[N, 6, 16] y", split=[0, 0, 4, 8], join=[0, 0, 32])


CONV = {"wa": (12, 3, 3, 3), "wh": (5, 12, 3, 3)}
FIRST, LAST = "[a] a = Conv<pads=[1,1,1,1]>(x, wa)", "[head] y = Conv<pads=[1,1,1,1]>(h, wh)"
ATTENTION = """[q] q0 = MatMul(x, wq) q1 = Reshape(q0, split) q = Transpose<perm=[0,2,1,3]>(q1)
    [k] k0 = MatMul(x, wk) k1 = Reshape(k0, split) k = Transpose<perm=[0,2,3,1]>(k1)
    [v] v0 = MatMul(x, wv) v1 = Reshape(v0, split) v = Transpose<perm=[0,2,1,3]>(v1)
    s0 = MatMul(q, k) s1 = Mul(s0, half) s = Softmax<axis=-1>(s1) o0 = MatMul(s, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0) o2 = Reshape(o1, join) [o] y = MatMul(o2, wo)"""
QDQ = {
    "qw": np.random.default_rng(1).integers(-127, 127, (12, 3, 3, 3), np.int8), "sw": np.full(12, 0.01, np.float32),
    "zw": np.zeros(12, np.int8), "sx": np.float32(0.05), "zx": np.uint8(128),
}  # fmt: skip

CASES = {
    "residual by Add": lambda: network(
        f"{FIRST} b = Conv<pads=[1,1,1,1]>(a, wb) c = Conv<pads=[1,1,1,1]>(b, wc) d = Add(a, c) h = Relu(d) {LAST}",
        CONV | {"wb": (8, 12, 3, 3), "wc": (12, 8, 3, 3)},
    ),
    "residual by Sum": lambda: network(
        f"{FIRST} b = Conv<pads=[1,1,1,1]>(a, wb) c = Conv<pads=[1,1,1,1]>(a, wb2) h = Sum(a, b, c) {LAST}",
        CONV | {"wb": (12, 12, 3, 3), "wb2": (12, 12, 3, 3)},
    ),
    "dense concats": lambda: network(
        f"{FIRST} b = Conv(a, wb) c = Concat<axis=1>(a, b) d = Conv(c, wc) h = Concat<axis=1>(c, d) {LAST}",
        {"wa": (12, 3, 3, 3), "wb": (4, 12, 1, 1), "wc": (4, 16, 1, 1), "wh": (5, 20, 3, 3)},
    ),
    "split": lambda: network(
        f"{FIRST} b, c = Split<axis=1>(a, sizes) d = Sigmoid(b) h = Mul(c, d) {LAST}",
        {"wa": (12, 3, 3, 3), "wh": (5, 6, 3, 3)}, sizes=[6, 6],
    ),
    "slice": lambda: network(
        f"{FIRST} h = Slice(a, start, stop, axis) {LAST}",
        {"wa": (12, 3, 3, 3), "wh": (5, 8, 3, 3)}, start=[4], stop=[12], axis=[1],
    ),
    "channel shuffle": lambda: network(
        f"""{FIRST} b = Conv<group=2>(a, wb) c = Reshape(b, five) d = Transpose<perm=[0,2,1,3,4]>(c)
            h = Reshape(d, four) {LAST}""",
        CONV | {"wb": (12, 6, 1, 1)}, five=[0, 2, 6, 8, 8], four=[0, 12, 8, 8],
    ),
    "flatten to fully connected": lambda: network(
        f"{FIRST} h = MaxPool<kernel_shape=[4,4], strides=[4,4]>(a) f = Flatten(h) y = Gemm<transB=1>(f, wf, bf)",
        {"wa": (12, 3, 3, 3), "wf": (5, 48), "bf": (5,)}, output="float[N, 5] y",
    ),
    "depthwise": lambda: network(
        f"{FIRST} b = Conv<group=12, pads=[1,1,1,1]>(a, wd) h = Clip(b, low, high) {LAST}",
        CONV | {"wd": (12, 1, 3, 3), "low": np.float32(0), "high": np.float32(6)},
    ),
    "grouped": lambda: network(f"{FIRST} h = Conv<group=3, pads=[1,1,1,1]>(a, wg) {LAST}", CONV | {"wg": (12, 4, 3, 3)}),
    "transposed convolution": lambda: network(
        f"{FIRST} b = ConvTranspose<strides=[2,2]>(a, wt, bt) h = AveragePool<kernel_shape=[2,2], strides=[2,2]>(b) {LAST}",
        {"wa": (12, 3, 3, 3), "wt": (12, 10, 2, 2), "bt": (10,), "wh": (5, 10, 3, 3)},
    ),
    "squeeze and excite": lambda: network(
        f"""{FIRST} p = GlobalAveragePool(a) q = Conv(p, w1, b1) r = Relu(q) s = Conv(r, w2, b2) t = Sigmoid(s)
            h = Mul(a, t) {LAST}""",
        CONV | {"w1": (4, 12, 1, 1), "b1": (4,), "w2": (12, 4, 1, 1), "b2": (12,)},
    ),
    "squeeze and excite, fully connected": lambda: network(
        f"""{FIRST} p = GlobalAveragePool(a) p1 = Squeeze(p) q = Gemm<transB=1>(p1, w1) r = Relu(q)
            s = Gemm<transB=1>(r, w2) t = Sigmoid(s) t1 = Unsqueeze(t, back) h = Mul(a, t1) {LAST}""",
        CONV | {"w1": (4, 12), "w2": (12, 4)}, inputs="float[2, 3, 8, 8] x", output="float[2, 5, 8, 8] y", back=[2, 3],
    ),
    "InstanceNormalization": lambda: network(
        f"{FIRST} h = InstanceNormalization(a, s, b) {LAST}", CONV | {"s": (12,), "b": (12,)}
    ),
    "GroupNormalization, by whole groups": lambda: network(
        f"{FIRST} h = GroupNormalization<num_groups=3>(a, s, b) {LAST}", CONV | {"s": (12,), "b": (12,)}, opset=21
    ),
    "GroupNormalization as exporters write it": lambda: network(
        f"{FIRST} g = Reshape(a, grouped) n = InstanceNormalization(g, s, b) r = Reshape(n, back) h = Mul(r, gain) {LAST}",
        CONV | {"s": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "gain": (12, 1, 1)},
        grouped=[0, 3, -1], back=[0, 12, 8, 8],
    ),
    "PRelu": lambda: network(f"{FIRST} h = PRelu(a, slope) {LAST}", CONV | {"slope": (12, 1, 1)}),
    "DepthToSpace": lambda: network(
        f"{FIRST} b = DepthToSpace<blocksize=2>(a) c = Conv(b, wc) h = SpaceToDepth<blocksize=2>(c) {LAST}",
        {"wa": (16, 3, 3, 3), "wc": (4, 4, 1, 1), "wh": (5, 16, 3, 3)},
    ),
    "attention": lambda: heads(ATTENTION),
    "MLP": lambda: network(
        """m = LayerNormalization(x, s, b) [up] u0 = MatMul(m, wu) u = Add(u0, bu) e0 = Div(u, root) e1 = Erf(e0)
           e2 = Add(e1, one) e3 = Mul(u, e2) [down] d0 = MatMul(e3, wd) d = Add(d0, bd) y = Add(x, d)""",
        {"wu": (16, 64), "bu": (64,), "wd": (64, 16), "bd": (16,), "s": (16,), "b": (16,),
         "root": np.float32(2**0.5), "one": np.float32(1)},
        "float[N, 6, 16] x", "float[N, 6, 16] y",
    ),
    "shared weights": lambda: network(
        f"{FIRST} b = Conv<pads=[1,1,1,1]>(a, ws) c = Relu(b) h = Conv<pads=[1,1,1,1]>(c, ws) {LAST}",
        CONV | {"ws": (12, 12, 3, 3)},
    ),
    "QuantizeLinear and DequantizeLinear": lambda: network(
        f"""xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx) w = DequantizeLinear<axis=0>(qw, sw, zw)
            [a] a = Conv<pads=[1,1,1,1]>(xd, w) aq = QuantizeLinear(a, sx, zx) h = DequantizeLinear(aq, sx, zx) {LAST}""",
        {"wh": (5, 12, 3, 3)} | QDQ,
    ),
    "quantised throughout": lambda: network(
        """xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx) w = DequantizeLinear<axis=0>(qw, sw, zw)
           b = DequantizeLinear<axis=0>(qb, sb, zb) [a] a = Conv<pads=[1,1,1,1]>(xd, w, b) aq = QuantizeLinear(a, sx, zx)
           h = DequantizeLinear(aq, sx, zx) v = DequantizeLinear<axis=0>(qv, sv, zv) [head] y = Conv<pads=[1,1,1,1]>(h, v)""",
        QDQ | {"qb": np.arange(12, dtype=np.int32) * 40, "sb": np.full(12, 5e-4, np.float32), "zb": np.zeros(12, np.int32),
               "qv": np.random.default_rng(2).integers(-127, 127, (5, 12, 3, 3), np.int8),
               "sv": np.full(5, 0.01, np.float32), "zv": np.zeros(5, np.int8)},
    ),
}  # fmt: skip


def outputs(model):
    feeds = next(open_data(None, input_specs(model.to_proto()), seed=3, samples=2).batches(2))
    return Session(model.to_proto(), optimise=False).run(feeds)["y"]


@pytest.mark.parametrize("name", CASES)
def test_it_is_cut_and_equals_its_twin(name):
    model, _ = apply(make("clean"), CASES[name]())
    found = groups(model)
    found.cut(0.5)
    small = found.apply()
    assert cost(small, verify(small)).macs <= 0.7 * cost(model, verify(model)).macs
    got, want = outputs(small), outputs(found.zeroed())
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_the_report_says_what_is_only_statistical():
    """The mean over channels changes when channels go: that has to be asked for, and is said."""
    model = network(
        "a = MatMul(x, wa) h = LayerNormalization(a, s, b) y = MatMul(h, wh)",
        {"wa": (16, 24), "s": (24,), "b": (24,), "wh": (24, 5)}, "float[N, 6, 16] x", "float[N, 6, 5] y",
    )  # fmt: skip
    whole, report = apply(make("prune"), model)
    assert not report.edits and "takes a statistic over its channels" in report.refusals[0].reason
    small, report = apply(make("prune", {"statistics": "all"}), model)
    assert cost(small, verify(small)).macs * 2 == cost(whole, verify(whole)).macs
    assert outputs(small).shape == outputs(model).shape
    assert any("not exact" in n for n in report.notes)


def test_heads_go_whole_or_all_heads_get_narrower():
    """Queries and keys of each head lose the same share; values too, together with what reads them."""
    model, _ = apply(make("clean"), CASES["attention"]())
    small, _ = apply(make("prune", {"ratio": 0.5}), model)
    shapes = {n.name: n.inputs[1].values.shape for n in small.nodes if n.name in ("q", "k", "v", "o")}
    assert shapes["q"] == shapes["k"] == (16, 16) and shapes["v"] == (16, 16) and shapes["o"] == (16, 16)


def test_codes_are_rated_by_what_they_stand_for():
    """Channel 3 has the largest codes and the smallest scale: it goes first."""
    model = CASES["quantised throughout"]()
    made = {c.name: c for c in model.constants().values()}
    node = next(n for n in model.nodes if any(t is made["qw"] for t in n.inputs))
    model.set_weight(
        node, 0, np.full((12, 3, 3, 3), 20, np.int8) + 100 * (np.arange(12) == 3)[:, None, None, None].astype(np.int8)
    )
    model.set_weight(node, 1, np.where(np.arange(12) == 3, 1e-6, 0.01).astype(np.float32))
    reader = next(n for n in model.nodes if any(t is made["qv"] for t in n.inputs))
    model.set_weight(reader, 0, np.full((5, 12, 3, 3), 9, np.int8))
    (group,) = groups(model)
    assert group.name == "a" and group.scores.argmin() == 3
    small, report = apply(make("prune", {"ratio": 0.08}), model)
    assert [e.node for e in report.edits] == ["a"] and [r.node for r in report.refusals] == ["head"]
    assert not np.isclose(small.constants()[node.inputs[1].name].values, 1e-6).any()


def test_a_symbolic_batch_stays_symbolic():
    small, _ = apply(make("prune"), CASES["channel shuffle"]())
    assert small.inputs[0].shape[0] == "N" and small.outputs[0].shape[0] == "N"
