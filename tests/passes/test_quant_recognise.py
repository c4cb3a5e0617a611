"""quant.recognise: every pattern keeps what the model computes; whole thresholds on random layers; bits in the file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxc
from onnxc.ir import functions
from onnxc.ir.errors import BadOption
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.quant.few_bits import integers
from onnxc.passes.quant.thresholds import thresholds
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests import golden

from .quant_helpers import model_of, quantised, run

ROOT = Path(__file__).resolve().parents[2]
CASES = golden.cases("recognise")
HEAD = '<ir_version: 8, opset_import: ["" : {opset}]>'
X = np.array([[-2.0, -0.5, -0.25, 0.0], [0.25, 0.5, 1.5, 3.0]], np.float32)


def recognised(model, data=None, **options):
    source = open_data(data, input_specs(model.to_proto()), samples=8)
    return apply(make("quant.recognise", options), model, runner=Runner(optimise=False), data=source)


def small(body: str, opset: int = 13):
    """A model of x [N, 4] -> y with scalars zero, one, two, m (minus one), tenth, t (0.5)."""
    text = HEAD.format(opset=opset) + f" g (float[N,4] x) => (float[N,4] y) {{ {body} }}"
    numbers = {"zero": 0, "one": 1, "two": 2, "m": -1, "tenth": 0.1, "t": 0.5, "s": 0.25, "three": 3, "low": -2}
    return model_of(text, **{k: np.float32(v) for k, v in numbers.items()})


UP = [
    "c = GreaterOrEqual(x, zero) y = Where(c, one, m)",
    "c = LessOrEqual(zero, x) y = Where(c, one, m)",
    "c = Less(x, zero) y = Where(c, m, one)",
    "c = Less(x, zero) d = Not(c) y = Where(d, one, m)",
    "c = GreaterOrEqual(x, t) y = Where(c, one, m)",
    "c = GreaterOrEqual(x, zero) y = Where(c, m, one)",
    "c = Greater(x, zero) e = Equal(x, zero) d = Or(c, e) y = Where(d, one, m)",
    "c = GreaterOrEqual(x, zero) f = Cast<to=1>(c) g = Mul(f, two) y = Sub(g, one)",
    "c = GreaterOrEqual(x, zero) f = Cast<to=1>(c) g = Mul(two, f) y = Add(m, g)",
    "a = Sign(x) b = Add(a, tenth) y = Sign(b)",
]
DOWN = [
    "c = Greater(x, zero) y = Where(c, one, m)",
    "c = Less(zero, x) y = Where(c, one, m)",
    "c = LessOrEqual(x, zero) y = Where(c, m, one)",
    "c = Greater(x, t) y = Where(c, one, m)",
    "c = Greater(x, zero) f = Cast<to=1>(c) g = Mul(f, two) y = Sub(g, one)",
    "a = Sign(x) b = Sub(a, tenth) y = Sign(b)",
]
NOT = [
    "y = Sign(x)",
    "c = GreaterOrEqual(x, zero) y = Where(c, one, zero)",
    "c = GreaterOrEqual(x, zero) y = Cast<to=1>(c)",
    "c = Equal(x, zero) y = Where(c, one, m)",
    "c = GreaterOrEqual(x, zero) f = Cast<to=1>(c) g = Mul(f, two) y = Sub(g, two)",
]
STEPS = [
    ("d = Div(x, s) r = Round(d) c = Clip(r, low, three) y = Mul(c, s)", 4),
    ("d = Div(x, s) c = Clip(d, low, three) r = Round(c) y = Mul(s, r)", 4),
    ("r = Round(x) y = Clip(r, low, three)", 2),
    ("c = Clip(x, zero, one) n = Mul(c, three) r = Round(n) y = Div(r, three)", 3),
    ("d = Div(x, s) r = Round(d) c = Clip(r, low, three) y = Mul(c, t)", 4),
]


def calls(model, name: str) -> list:
    return [n for n in model.nodes if functions.calls(n, name)]


@pytest.mark.parametrize("body", UP)
def test_upward_steps_are_binarize(body):
    model = small(body)
    done, report = recognised(model, {"x": X})
    assert len(calls(done, "Binarize")) == 1 and not report.refusals and len(report.edits) == 1
    assert np.array_equal(run(done, {"x": X})["y"], run(model, {"x": X})["y"])


@pytest.mark.parametrize("body", DOWN)
@pytest.mark.parametrize("seen", [True, False])
def test_downward_steps_stay_exact_where_the_threshold_turns_up(body, seen):
    model = small(body)
    data = X if seen else X + np.float32(0.01)
    done, _ = recognised(model, {"x": data})
    assert len(calls(done, "Binarize")) == 1
    turned = any(n.op == "Neg" for n in done.nodes) or any(
        np.any(n.inputs[1].values == -1) for n in done.nodes if n.op == "Mul"
    )
    assert turned == seen
    assert np.array_equal(run(done, {"x": data})["y"], run(model, {"x": data})["y"])


@pytest.mark.parametrize("body", NOT)
def test_other_steps_stay(body):
    model = small(body)
    done, _ = recognised(model, {"x": X})
    assert not calls(done, "Binarize")
    assert np.array_equal(run(done, {"x": X})["y"], run(model, {"x": X})["y"])


def test_sign_is_binarize_only_where_zero_never_turns_up():
    model = small("y = Sign(x)")
    done, report = recognised(model, {"x": X})
    assert not calls(done, "Binarize") and "0 turned up 1 times" in report.refusals[0].reason
    assert calls(recognised(model, {"x": X + np.float32(0.1)})[0], "Binarize")
    assert calls(recognised(model, {"x": X}, zero="plus")[0], "Binarize")
    assert not calls(recognised(model, {"x": X + np.float32(0.1)}, zero="keep")[0], "Binarize")
    without, report = apply(make("quant.recognise"), model)
    assert not calls(without, "Binarize") and "no data" in report.refusals[0].reason


@pytest.mark.parametrize("body, kept", STEPS)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_uniform_quantisers(body, kept, opset):
    model = small(body, opset)
    done, _ = recognised(model, {"x": X})
    assert len(calls(done, "Quantize")) == 1
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * 2
    assert np.array_equal(run(done, {"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4"])
def test_pairs_of_quantize_and_dequantize(kind):
    text = (
        HEAD.format(opset=21)
        + """ g (float[N,4,2] x) => (float[N,4,2] y) {
        q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z) }"""
    )
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, kind)) if kind.endswith("int4") else np.dtype(kind)
    model = model_of(text, s=np.array([0.1, 0.2, 0.3, 0.4], np.float32), z=np.full(4, 3).astype(dtype))
    x = np.random.default_rng(0).normal(size=(40, 4, 2)).astype(np.float32) * 3
    done, _ = recognised(model, {"x": x}, qdq="all")
    assert [n.op for n in done.nodes] == ["Quantize"]
    assert np.array_equal(run(done, {"x": x})["y"], run(model, {"x": x})["y"])
    few, _ = recognised(model, {"x": x})
    assert ([n.op for n in few.nodes] == ["Quantize"]) == kind.endswith("int4")


def test_integers_of_fewer_bits_than_their_bytes_are_packed():
    rng = np.random.default_rng(0)
    text = HEAD.format(opset=13) + " g (float[N,8,6,6] x) => (float[N,M,P,Q] y) { y = Conv(x, w) }"
    model, _ = quantised(model_of(text, w=rng.normal(size=(16, 8, 3, 3)).astype(np.float32)), bits=2)
    done, report = recognised(model, bits=2)
    assert any("weights of 3 values in 2 bits" in e.what for e in report.edits)
    x = rng.normal(size=(2, 8, 6, 6)).astype(np.float32)
    assert np.array_equal(run(done, {"x": x})["y"], run(model, {"x": x})["y"])
    kept, report = recognised(model, qdq="none")
    assert not report.edits and any(n.op == "DequantizeLinear" and not n.inputs[0].inputs for n in kept.nodes)


# thresholds


@settings(max_examples=200, deadline=None)
@given(st.floats(-50, 50), st.floats(-500, 500), st.integers(1, 30))
def test_a_threshold_decides_as_the_real_numbers_do(factor, shift, most):
    sign, offset = (float(v[0]) for v in thresholds(np.array([factor]), np.array([shift]), np.array([float(most)])))
    p = np.arange(-most, most + 1)
    value = factor * p + shift
    clear = np.abs(value) > 1e-9 * max(abs(shift), 1)
    assert offset.is_integer() and abs(offset) <= most + 1
    assert np.array_equal((sign * p + offset >= 0)[clear], (value >= 0)[clear])


@st.composite
def layers(draw):
    """A random few-bit layer: geometry, padding value, what follows."""
    group = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "group": group, "inputs": group * draw(st.integers(1, 4)), "outputs": group * draw(st.integers(1, 4)),
        "kernel": (draw(st.integers(1, 3)), draw(st.integers(1, 3))), "stride": draw(st.integers(1, 2)),
        "dilation": draw(st.integers(1, 2)), "pads": tuple(draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))),
        "value": draw(st.sampled_from([0.0, -1.0, 1.0])), "pool": draw(st.booleans()), "bias": draw(st.booleans()),
        "levels": draw(st.sampled_from(["Binarize", "Quantize"])), "seed": draw(st.integers(0, 1 << 16)),
    }  # fmt: skip


def few_bit_layer(c):
    """x -> quantiser -> Pad -> Conv of +-1 -> BatchNormalization -> [MaxPool] -> Binarize."""
    rng = np.random.default_rng(c["seed"])
    bias = ", b" if c["bias"] else ""
    pads = np.array([0, 0, *c["pads"][:2], 0, 0, *c["pads"][2:]])
    pool = "p = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(n)" if c["pool"] else "p = Identity(n)"
    first = "s = GreaterOrEqual(x, zero) q = Where(s, one, m)"
    if c["levels"] == "Quantize":
        first = "d = Div(x, step) r = Round(d) l = Clip(r, low, high) q = Mul(l, step)"
    padded = "a = Identity(q)"
    if any(c["pads"]):
        padded = "a = Pad(q, pads, value)" if c["levels"] == "Binarize" else "a = Pad(q, pads)"
    text = (
        HEAD.format(opset=13)
        + f""" g (float[N,{c["inputs"]},9,9] x) => (float[N,O,P,Q] y) {{ {first} {padded}
        v = Conv<group={c["group"]}, strides=[{c["stride"]},{c["stride"]}], dilations=[{c["dilation"]},1]>(a, w{bias})
        n = BatchNormalization(v, g, h, e, f) {pool} u = GreaterOrEqual(p, zero) y = Where(u, one, m) }}"""
    )
    o = c["outputs"]
    signs = np.where(rng.normal(size=(o, c["inputs"] // c["group"], *c["kernel"])) >= 0, 1, -1)
    made = {
        "w": signs * rng.uniform(0.5, 2, (o, 1, 1, 1)), "b": rng.normal(size=o), "g": rng.normal(size=o),
        "h": rng.normal(size=o), "e": rng.normal(size=o), "f": rng.uniform(0.5, 2, o), "zero": 0, "one": 1, "m": -1,
        "value": c["value"], "step": 0.3, "low": -2, "high": 1,
    }  # fmt: skip
    made["g"][0] = 0.0
    return model_of(text, pads=pads, **{k: np.asarray(v, np.float32) for k, v in made.items()})


@settings(max_examples=40, deadline=None)
@given(layers())
def test_any_few_bit_layer_becomes_a_whole_threshold(c):
    model, _ = apply(make("clean"), few_bit_layer(c))
    done, report = recognised(model)
    verify(done, like=model)
    assert any("whole thresholds" in e.what for e in report.edits)
    assert not any(n.op == "BatchNormalization" for n in done.nodes)
    product = next(n for n in done.nodes if n.op == "Conv")
    if c["levels"] == "Binarize":
        assert np.array_equal(product.inputs[2].values, np.rint(product.inputs[2].values))
    x = np.random.default_rng(c["seed"] + 1).normal(size=(3, c["inputs"], 9, 9)).astype(np.float32)
    for optimise in (False, True):
        assert np.array_equal(run(done, {"x": x}, optimise)["y"], run(model, {"x": x})["y"])
    assert not recognised(done)[1].edits


@pytest.mark.parametrize("op", ["MatMul", "Gemm<transB=1>", "Gemm"])
def test_thresholds_of_matrix_products(op):
    rng = np.random.default_rng(0)
    text = (
        HEAD.format(opset=13)
        + f""" g (float[N,70] x) => (float[N,9] y) {{ c = GreaterOrEqual(x, zero)
        a = Where(c, one, m) v = {op}(a, w) k = Mul(v, g) n = Add(k, h) d = GreaterOrEqual(n, zero) y = Where(d, one, m) }}"""
    )
    w = np.where(rng.normal(size=(70, 9)) >= 0, 1, -1).astype(np.float32)
    g, h = (rng.normal(size=9).astype(np.float32) for _ in range(2))
    model = model_of(
        text, w=w.T if "trans" in op else w, g=g, h=h, zero=np.float32(0), one=np.float32(1), m=np.float32(-1)
    )
    done, report = recognised(model)
    assert any("whole thresholds of 9 channels" in e.what for e in report.edits)
    x = rng.normal(size=(200, 70)).astype(np.float32)
    assert np.array_equal(run(done, {"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize("step, fused", [("0.5", True), ("0.7", False)])
def test_ties_that_rounding_decides_stay(step, fused):
    """Sums of multiples of 0.7 * 0.3 may come to zero but for rounding; of 0.5 and 0.25 they are exact."""
    rng = np.random.default_rng(0)
    text = (
        HEAD.format(opset=13)
        + """ g (float[N,30] x) => (float[N,9] y) { d = Div(x, s) r = Round(d)
        l = Clip(r, low, high) a = Mul(l, s) v = MatMul(a, w) c = GreaterOrEqual(v, zero) y = Where(c, one, m) }"""
    )
    w = np.where(rng.normal(size=(30, 9)) >= 0, 1, -1) * (0.25 if fused else 0.3)
    numbers = {"s": float(step), "low": -2, "high": 1, "zero": 0, "one": 1, "m": -1}
    model = model_of(text, w=w.astype(np.float32), **{k: np.float32(v) for k, v in numbers.items()})
    done, report = recognised(model)
    assert any("float rounding decides" in r.reason for r in report.refusals) == (not fused)
    x = rng.normal(size=(300, 30)).astype(np.float32)
    assert np.array_equal(run(done, {"x": x})["y"], run(model, {"x": x})["y"])


def test_what_others_read_keeps_its_numbers():
    text = (
        HEAD.format(opset=13)
        + """ g (float[N,70] x) => (float[N,9] y, float[N,9] k) {
        c = GreaterOrEqual(x, zero) a = Where(c, one, m) v = MatMul(a, w) k = Mul(v, g)
        d = GreaterOrEqual(k, zero) y = Where(d, one, m) }"""
    )
    one = np.float32(1)
    model = model_of(text, w=np.ones((70, 9), np.float32), g=np.ones(9, np.float32) * 2, zero=0 * one, one=one, m=-one)
    _, report = recognised(model)
    assert any("has other readers" in r.reason for r in report.refusals)


def test_rows_of_whole_numbers():
    scale, whole = integers(np.array([[0.5, -0.5, 1.5], [0.3, 0.0, -0.9], [0, 0, 0]], np.float32))
    assert np.allclose(scale[:, 0], [0.5, 0.3, 1]) and whole.tolist() == [[1, -1, 3], [1, 0, -3], [0, 0, 0]]
    assert integers(np.array([[0.5, 0.7]])) is None


# the trained binary network


@pytest.mark.parametrize("passes", ["quant.recognise", "clean,fuse,quant.recognise"])
def test_the_trained_binary_network_keeps_every_prediction(passes, tmp_path):
    path = ROOT / "tests/data/binary_fashion.onnx"
    result = onnxc.run_passes(path, passes, data=ROOT / "onnxc/data/fashion_calib.npz")
    assert len(calls(result.model, "Binarize")) == 5 and not any(n.op == "Sign" for n in result.model.nodes)
    assert "5 read few-bit numbers, 5 have weights in bits" in result.report.rows[-1].notes[-1]
    result.model.save(tmp_path / "b.onnx")
    # 442,368 weights in bits, 9 thousand floats, and the graph
    assert (tmp_path / "b.onnx").stat().st_size < 442_368 // 8 + 4 * 13_000 + 16_000
    with np.load(ROOT / "onnxc/data/fashion_test.npz") as test:
        x = test["image"][:250]
    before, after = (Session(m).run({"image": x})["logits"] for m in (path.read_bytes(), result.model.to_proto()))
    assert np.array_equal(before.argmax(1), after.argmax(1))


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_old_models_are_raised_where_something_changes(opset):
    w = np.where(np.random.default_rng(0).normal(size=(64, 70)) >= 0, 1, -1).astype(np.float32)
    text = HEAD.format(opset=opset) + " g (float[N,70] x) => (float[N,64] y) { y = Gemm<transB=1>(x, w, b) }"
    done, report = recognised(model_of(text, w=w, b=np.zeros(64, np.float32)))
    assert done.opset == 13 and any("raised from opset" in n for n in report.notes)
    plain, _ = recognised(
        model_of(text, w=np.random.default_rng(1).normal(size=w.shape).astype(np.float32), b=np.zeros(64, np.float32))
    )
    assert plain.opset == opset


def test_options_are_checked():
    with pytest.raises(BadOption, match="0 to 8"):
        make("quant.recognise", {"bits": 9})


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    p = make("quant.recognise", {"zero": "plus"})
    golden.check("recognise", name, p, update=update_golden)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not_") for name in CASES) >= 2
