# ruff: noqa: E501  graphs and tables read better on one line
"""Golden numbers of the cost model, against published ones and an independent count."""

import gc
import math
import os
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnxc.ir import table
from onnxc.ir.analysis import analyse
from onnxc.ir.cost import cost
from onnxc.ir.files import load
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from tests.ops.harness import free_atoms
from tests.strategies import Builder, build

# Multiply-accumulates of one 224x224 image: the architectures' papers, or torchvision's and Caffe's tables.
MACS = {
    "light_bvlc_alexnet": 0.655e9,
    "light_densenet121": 2.834e9,
    "light_inception_v1": 1.432e9,
    "light_inception_v2": 2.019e9,
    "light_resnet50": 4.089e9,
    "light_shufflenet": 0.125e9,
    "light_squeezenet": 0.349e9,
    "light_vgg19": 19.63e9,
    "light_zfnet512": 1.482e9,
}


def counted(proto: onnx.ModelProto) -> int:
    """MACs by the formulas of convolution and Gemm, with the shapes that ONNX's inference gives."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {t.name: list(t.dims) for t in graph.initializer}
    total = 0
    for n in graph.node:
        if n.op_type == "Conv":
            total += math.prod(shapes[n.output[0]]) * math.prod(shapes[n.input[1]][1:])
        elif n.op_type == "Gemm":
            flags = {a.name: a.i for a in n.attribute}
            total += math.prod(shapes[n.output[0]]) * shapes[n.input[0]][0 if flags.get("transA") else 1]
        elif n.op_type == "MatMul":
            total += math.prod(shapes[n.output[0]]) * shapes[n.input[0]][-1]
    return total


def cost_of(proto, **sizes):
    model = load(proto)
    return cost(model, verify(model), sizes or None)


def test_macs_of_known_networks(light_path):
    got = cost_of(light_path).macs
    assert got == counted(onnx.load(light_path))
    assert got == pytest.approx(MACS[light_path.stem], rel=0.005)


def test_trained_networks(trained_path):
    proto = onnx.load(trained_path)
    got = cost_of(proto)
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert got.params >= sum(math.prod(t.dims) for t in floats)
    assert cost_of(proto, N=4).macs == 4 * got.macs


def text(body: str, inputs: str, outputs: str, opset: int = 17, **weights) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    return proto


def f32(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "body, inputs, outputs, weights, macs, params",
    [
        (
            "y = Conv<group=2, pads=[1, 1, 1, 1]>(x, w, b)",
            "float[1, 4, 5, 5] x",
            "float[1, 6, 5, 5] y",
            {"w": f32(6, 2, 3, 3), "b": f32(6)},
            6 * 25 * 18,
            114,
        ),
        (
            "y = Conv<group=4>(x, w)",
            "float[2, 4, 5, 5] x",
            "float[2, 4, 3, 3] y",
            {"w": f32(4, 1, 3, 3)},
            2 * 4 * 9 * 9,
            36,
        ),
        (
            "y = ConvTranspose<strides=[2, 2]>(x, w)",
            "float[1, 4, 3, 3] x",
            "float[1, 5, 6, 6] y",
            {"w": f32(4, 5, 2, 2)},
            9 * 4 * 5 * 4,
            80,
        ),
        (
            "y = ConvTranspose<group=2>(x, w)",
            "float[1, 4, 3, 3] x",
            "float[1, 6, 4, 4] y",
            {"w": f32(4, 3, 2, 2)},
            9 * 4 * 3 * 4,
            48,
        ),
        ("y = MatMul(x, w)", "float[2, 3, 4] x", "float[2, 3, 5] y", {"w": f32(4, 5)}, 2 * 3 * 4 * 5, 20),
        ("y = Gemm<transB=1>(x, w, b)", "float[2, 4] x", "float[2, 5] y", {"w": f32(5, 4), "b": f32(5)}, 40, 25),
        ('y = Einsum<equation="bik,bjk->bij">(x, x)', "float[2, 3, 4] x", "float[2, 3, 3] y", {}, 2 * 3 * 3 * 4, 0),
        ("y = Relu(x)", "float[2, 4] x", "float[2, 4] y", {}, 0, 0),
        ("y = Reshape(x, t)", "float[2, 4] x", "float[8] y", {"t": np.array([8])}, 0, 0),
    ],
)
def test_hand_counts(body, inputs, outputs, weights, macs, params):
    got = cost_of(text(body, inputs, outputs, **weights))
    assert (got.macs, got.params) == (macs, params)
    assert got.bops == macs * 32 * 32
    assert got.bytes == sum(w.nbytes for w in weights.values())


def test_peak_bytes_by_hand():
    proto = text(
        "a = Concat<axis=1>(x, x) b = Relu(a) c = Slice(b, zero, three, one) y = Add(c, x)", "float[1, 3] x", "float[1, 3] y",
        zero=np.array([0]), three=np.array([3]), one=np.array([1]),
    )  # fmt: skip
    # x 12; + a 24 = 36; + b 24 = 60 (a dies); c 12: 12 + 24 + 12 = 48; y
    assert cost_of(proto).peak_bytes == 60
    assert cost_of(text("y = Relu(x)", "float[N, 3] x", "float[N, 3] y"), N=10).peak_bytes == 240
    assert cost_of(text("y = Cast<to=10>(x)", "float[4] x", "float16[4] y")).peak_bytes == 24


def test_bits_are_seen_through_quantisation():
    proto = text(
        """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear(w, s, v) y = MatMul(d, wd)""",
        "float[2, 4] x", "float[2, 5] y", opset=21, s=np.float32(0.1), z=np.uint8(3), v=np.int8(0), w=np.ones((4, 5), np.int8),
    )  # fmt: skip
    assert cost_of(proto).bops == 40 * 8 * 8
    assert cost_of(proto).bytes == 20 + 4 + 1 + 1


def test_four_bit_weights():
    import ml_dtypes

    w = np.ones((4, 5), ml_dtypes.int4)
    proto = text(
        "wd = DequantizeLinear(w, s) y = MatMul(x, wd)", "float[2, 4] x", "float[2, 5] y", opset=21, s=np.float32(0.1)
    )
    proto.ir_version = 10
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    got = cost_of(proto)
    assert (got.bops, got.bytes, got.params) == (40 * 32 * 4, 10 + 4, 21)


def test_the_dump_is_deterministic():
    want = dump(load(build(9, 5, 17)))
    assert dump(load(build(9, 5, 17)).copy()) == want
    code = "from tests.strategies import build; from onnxc.ir.text import dump; from onnxc.ir.files import load; import sys; sys.stdout.write(dump(load(build(9, 5, 17))))"
    for seed in ("1", "2"):
        got = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert got.stdout == want


def test_the_dump_names_what_changes():
    model = load(build(9, 2, 17))
    before = dump(model)
    node = next(n for n in model.nodes if n.op == "Conv")
    values = node.inputs[1].values.copy()
    values[0] += 1e-3
    model.set_weight(node, 1, values)
    assert sum(a != b for a, b in zip(before.splitlines(), dump(model).splitlines(), strict=True)) == 1


def chain(nodes: int) -> onnx.ModelProto:
    """Residual blocks (Conv, Relu, Conv, Add, Relu), `nodes` nodes in all, with shared weights."""
    b = Builder(0, 17)
    b.shapes["x"] = (4, 4, 4)
    b.chance = lambda p: False
    w = b.normal(4, 4, 1, 1, fan=8)
    x = "x"
    while len(b.nodes) < nodes:
        y = b.op("Relu", [b.op("Conv", [x, w], (4, 4, 4))], (4, 4, 4))
        x = b.op("Relu", [b.op("Add", [x, b.op("Conv", [y, w], (4, 4, 4))], (4, 4, 4))], (4, 4, 4))
    info = [helper.make_tensor_value_info(n, 1, [1, 4, 4, 4]) for n in ("x", x)]
    graph = helper.make_graph(b.nodes, "chain", info[:1], info[1:], b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def growth(small: onnx.ModelProto, large: onnx.ModelProto) -> float:
    """How many times the processor time of `small` the load and analysis of `large` takes: the best of three each, in
    turn, so that what else a machine does meets both, and without the garbage collector."""
    best = [math.inf, math.inf]
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            for k, proto in enumerate((small, large)):
                start = time.process_time()
                analyse(load(proto))
                best[k] = min(best[k], time.process_time() - start)
    finally:
        gc.enable()
    return best[1] / best[0]


def test_time_grows_linearly():
    """Four times the nodes: 4 would be linear, 16 quadratic; a cache that others use makes more nodes dearer."""
    assert growth(chain(2_500), chain(10_000)) < 8


def sums(concats: int) -> onnx.ModelProto:
    """x joined with a convolution of its own again and again: the last axis is a sum of `concats` + 1 parts."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["x0"])]
    for i in range(concats):
        nodes.append(helper.make_node("Conv", ["x", "w"], [f"c{i}"]))
        nodes.append(helper.make_node("Concat", [f"x{i}", f"c{i}"], [f"x{i + 1}"], axis=1))
    nodes.append(helper.make_node("Conv", [f"x{concats}", "last"], ["y"]))
    info = [helper.make_tensor_value_info(n, 1, [1, c, 1, 1]) for n, c in (("x", 2), ("y", 1))]
    weights = {"w": f32(2, 2, 1, 1), "last": f32(1, 2 + 2 * concats, 1, 1)}
    weights = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "sums", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_long_chains_of_concats_and_sums():
    """Deep nesting of sums meets no recursion limit, and every part of a sum stays an axis of its own."""
    assert len(free_atoms(verify(load(sums(1500))).analysis)) == 1501


def test_sums_of_sums_are_bounded(monkeypatch):
    """A chain of n concats has n * n / 2 parts, n doublings 2^n; what is beyond the bound is frozen, its extent stays."""
    monkeypatch.setattr(table, "ALL_PARTS", 1 << 14)
    analysis = analyse(load(sums(300)))
    assert analysis.shape("x300") == (1, 602, 1, 1)
    assert 1 << 14 < analysis.parts < 1 << 15
    assert len(free_atoms(analysis)) <= table.FEW < len(free_atoms(analyse(load(sums(100)))))
    doublings = " ".join(f"a{i + 1} = Concat<axis=1>(a{i}, a{i})" for i in range(40))
    body = f"a0 = Conv(x, w) {doublings} y = Shape(a40)"
    analysis = analyse(load(text(body, "float[1, 2, 1, 1] x", "int64[4] y", w=f32(2, 2, 1, 1))))
    assert analysis.shape("a40") == (1, 2 << 40, 1, 1)
    assert analysis.parts < 1 << 15


def test_lstm_costs_its_gates():
    """One direction takes T*B*4*H*(I + H) multiply-accumulates."""
    t, b, i, h = 5, 2, 3, 7
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=h)
    weights = [numpy_helper.from_array(np.zeros(s, "f"), n) for n, s in (("W", (1, 4 * h, i)), ("R", (1, 4 * h, h)))]
    info = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [t, b, i]), ("y", [t, 1, b, h]))]
    graph = helper.make_graph([node], "g", info[:1], info[1:], weights)
    assert cost_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).macs == t * b * 4 * h * (
        i + h
    )


def test_tensors_between_quantisers_are_held_at_their_bits():
    """Bytes go in and out of each convolution, and the dequantised weight is no activation."""
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (uint8[1,4,8,8] q) => (uint8[1,4,8,8] y) <float s = {0.5}, uint8 z = {3}, int8[4,4] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {
      d = DequantizeLinear(q, s, z)  k = DequantizeLinear(w, s)  ax = Constant<value = int64[2] {2, 3}>()
      v = Unsqueeze(k, ax)  c = Conv(d, v)  r = Relu(c)  p = QuantizeLinear(r, s, z)
      e = DequantizeLinear(p, s, z)  a = Conv(e, v)  y = QuantizeLinear(a, s, z) }""")
    n = 4 * 8 * 8
    assert cost_of(proto).peak_bytes == 2 * n
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Softmax"
    assert cost_of(proto).peak_bytes == n + 4 * n  # no kernel computes that on the way: its input is held as floats
