"""prune.dead: what gives nothing goes, and the outputs stay."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxc.ir.files import load
from onnxc.passes.base import apply
from onnxc.passes.prune.dead_products import quantised
from onnxc.passes.registry import make
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Session
from tests.passes.prune_models import chain, network


def same(model, small) -> None:
    a, b = Session(model.to_proto(), optimise=False), Session(small.to_proto(), optimise=False)
    feeds = random_feeds(a.inputs, 0)
    for name, y in a.run(feeds).items():
        np.testing.assert_allclose(b.run(feeds)[name], y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def scaled(shift: float, pad: int = 0):
    """`chain` with three normalisations of scale 0."""
    model = chain(scales=np.array([1, 0, 1, 0, 1, 1, 0, 1.0]), pad=pad)
    norm = next(n for n in model.nodes if n.name == "norm")
    values = norm.inputs[2].values.copy()
    values[[1, 3, 6]] = shift
    model.set_weight(norm, 2, values)
    return model


@pytest.mark.parametrize(
    "shift, pad, left",
    [
        (-1.0, 1, 5),  # the Relu makes zeros
        (0.0, 1, 5),
        (2.0, 0, 5),  # the constant goes into the bias
        (2.0, 1, 8),  # padding stands beside it
    ],
)
def test_normalisations_of_scale_zero(shift, pad, left):
    model = scaled(shift, pad)
    small, report = apply(make("prune.dead", {}), model)
    assert small.constants()["w1"].values.shape[0] == left
    assert bool(report.edits) == (left < 8)
    same(model, small)


def test_empty_depthwise_kernels_empty_the_layer_ahead():
    model = network(
        """g (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) {
            [first] a = Conv(x, w1, b1)
            [relu] r = Relu(a)
            [deep] d = Conv<group=4, pads=[1,1,1,1]>(r, wd)
            [last] y = Conv(d, w2)
        }""",
        w1=(4, 3, 1, 1), b1=(4,), wd=(4, 1, 3, 3), w2=(2, 4, 1, 1),
    )  # fmt: skip
    deep = next(n for n in model.nodes if n.name == "deep")
    values = deep.inputs[1].values.copy()
    values[[0, 2]] = 0
    model.set_weight(deep, 1, values)
    small, _ = apply(make("prune.dead", {}), model)
    assert small.constants()["w1"].values.shape[0] == 2
    same(model, small)


def test_do_not_remove_a_constant_that_is_summed_elsewhere():
    model = network(
        """g (float[N, 3, 4, 4] x) => (float[N, 1, 4, 4] y, float[N, 2, 4, 4] z) <int64[1] one = {1}> {
            [first] a = Conv(x, w1, b1)
            [sum] y = ReduceSum(a, one)
            [last] z = Conv(a, w2)
        }""",
        w1=np.concatenate([np.zeros((1, 3, 1, 1)), np.ones((3, 3, 1, 1))]), b1=np.array([5.0, 1, 1, 1]), w2=(2, 4, 1, 1),
    )  # fmt: skip
    small, _ = apply(make("prune.dead", {}), model)
    same(model, small)


def test_do_not_touch_what_is_alive():
    model = chain()
    small, report = apply(make("prune.dead", {}), model)
    assert not report.edits
    assert small.constants()["w1"].values.shape == (8, 3, 3, 3)
    assert not apply(make("prune.dead", {"threshold": 1e-9}), model)[1].edits


def eight(pad: int = 1, low: float = -1.0):
    """Conv 3->8, depthwise, Conv 8->6, mean, Gemm between quantisers: of the first layer's channels 0 and 3 have no weights, and
    channel 5 a bias beneath all that its weights can add. `low` is what the first two stand for behind the quantiser."""
    rng = np.random.default_rng(4)
    codes = {
        "k0": rng.integers(-127, 128, (8, 3, 1, 1)), "k1": rng.integers(-127, 128, (8, 1, 3, 3)),
        "k2": rng.integers(-127, 128, (6, 8, 1, 1)), "k3": rng.integers(-127, 128, (4, 6)),
    }  # fmt: skip
    biases = {key: rng.integers(-2000, 2000, len(values)) for key, values in codes.items()}
    codes["k0"][[0, 3]] = 0
    s, z, ws = np.float32(0.021), -128, np.linspace(0.004, 0.006, 8).astype(np.float32)
    biases["k0"][[0, 3]] = np.rint(low / (s * ws[[0, 3]])).astype(int)
    biases["k0"][5] = -127 * 3 * 255
    text = "g (float[1,3,6,6] x) => (float[1,4] y) { xq = QuantizeLinear(x, s, z) xf = DequantizeLinear(xq, s, z) "
    for key in codes:
        text += f"{key}f = DequantizeLinear<axis=0>({key}, {key}s, {key}z) "
        text += f"{key}bf = DequantizeLinear<axis=0>({key}b, {key}bs, {key}bz) "
    pair = "{0}q = QuantizeLinear({0}, s, z) {0}f = DequantizeLinear({0}q, s, z) "
    text += "a = Conv(xf, k0f, k0bf) " + pair.format("a")
    text += f"b = Conv<group=8, pads=[{pad},{pad},{pad},{pad}]>(af, k1f, k1bf) " + pair.format("b")
    text += "c = Conv(bf, k2f, k2bf) " + pair.format("c") + "m = GlobalAveragePool(cf) " + pair.format("m")
    text += "f = Flatten(mf) h = Gemm<transB=1>(f, k3f, k3bf) " + pair.format("h") + "y = Identity(hf) }"
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    stored = {"s": s, "z": np.int8(z)}
    for key, values in codes.items():
        scale = ws[: len(values)]
        stored |= {key: values.astype("i1"), key + "s": scale, key + "z": np.zeros(len(values), "i1")}
        stored |= {key + "b": biases[key].astype("i4"), key + "bs": scale * s, key + "bz": np.zeros(len(values), "i4")}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), key) for key, v in stored.items())
    return load(proto)


@pytest.mark.parametrize(
    "pad, low, left",
    [
        (1, -1.0, 5),  # the quantiser makes zeros of negative ones
        (0, 0.9, 5),  # another constant goes into the integer bias
        (1, 0.9, 7),  # padding stands beside it: what a depthwise layer makes of it varies
    ],
)
def test_channels_that_quantisers_make_constant(pad, low, left):
    model = eight(pad, low)
    small, _ = apply(make("prune.dead", {}), model)
    assert small.constants()["k0"].values.shape[0] == left == len(small.constants()["k1b"].values)
    a, b = Session(model.to_proto(), optimise=False), Session(small.to_proto(), optimise=False)
    feeds = random_feeds(a.inputs, 0)
    assert all(np.array_equal(b.run(feeds)[name], y) for name, y in a.run(feeds).items())
    if pad == 0:
        assert not np.array_equal(small.constants()["k2b"].values, model.constants()["k2b"].values)


def test_do_not_tell_a_constant_next_to_a_half():
    node = next(n for n in eight().nodes if n.op == "QuantizeLinear")
    steps = np.array([0.4, 0.5, 1.49999, 3e4])
    low, high = quantised(node, (steps * np.float32(0.021), steps * np.float32(0.021)), 4)
    assert (high - low).tolist() == [0, 1, 1, 0] and low.tolist() == [-128, -128, -127, 127]
