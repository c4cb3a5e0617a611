"""quant.binary: layers of every geometry against NumPy, methods against their aims, what is left alone, a real network."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxc
from onnxc.ir import functions, quantisers
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.verify import verify
from onnxc.measure.inspect import inspect
from onnxc.passes.base import apply
from onnxc.passes.quant import binary_weights as weights
from onnxc.passes.quant import rounding
from onnxc.passes.quant.binary_inputs import best_scale, calibrate, half_gaussian, planes
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator, accuracy
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests import golden

from .quant_helpers import model_of, run

ROOT = Path(__file__).resolve().parents[2]
CASES = golden.cases("binary")
HEAD = '<ir_version: 8, opset_import: ["" : 13]>'
ALL = {"first": True, "last": True, "depthwise": True, "pointwise": True}


def binarised(model, data=None, seed=0, **options):
    source = open_data(data, input_specs(model.to_proto()), samples=16)
    runner = Runner(optimise=False)
    judges = Evaluator(runner, source)
    return apply(make("quant.binary", options), model, runner=runner, data=source, seed=seed, evaluator=judges)


# layers of every geometry


@st.composite
def layers(draw):
    group = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "group": group, "inputs": group * draw(st.integers(1, 5)), "outputs": group * draw(st.integers(1, 3)),
        "kernel": (draw(st.integers(1, 3)), draw(st.integers(1, 3))), "stride": draw(st.integers(1, 2)),
        "dilation": draw(st.integers(1, 2)), "pads": draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)),
        "positive": draw(st.booleans()), "bias": draw(st.booleans()), "seed": draw(st.integers(0, 1 << 16)),
        "weights": draw(st.sampled_from(["bwn", "ternary", "proximal", "hashing", "residual", "admm", "none"])),
        "how": draw(st.sampled_from([("sign", 1), ("horq", 1), ("horq", 3), ("horq", 6), ("uniform", 2), ("hwgq", 2), ("none", 1)])),
        "sparsity": draw(st.sampled_from([None, 0.5, 0.75])), "dynamic": draw(st.booleans()),
    }  # fmt: skip


def convolution(c):
    rng = np.random.default_rng(c["seed"])
    bias = ", b" if c["bias"] else ""
    text = (
        HEAD
        + f""" g (float[N,{c["inputs"]},8,7] x) => (float[N,O,P,Q] y) {{
        y = Conv<group={c["group"]}, strides=[{c["stride"]},1], dilations=[1,{c["dilation"]}], pads={c["pads"]}>(x, w{bias}) }}"""
    )
    w = rng.normal(size=(c["outputs"], c["inputs"] // c["group"], *c["kernel"])).astype(np.float32)
    x = rng.normal(size=(12, c["inputs"], 8, 7)).astype(np.float32)
    return model_of(text, w=w, b=rng.normal(size=c["outputs"]).astype(np.float32)), np.abs(x) if c["positive"] else x


def by_hand(done, x: np.ndarray) -> np.ndarray:
    """The layer without a function: every node up to the Conv in NumPy, the Conv itself as it stands, weights as floats."""
    made = {"x": x}
    for node in done.nodes:
        if functions.is_lookup(node):
            made[node.outputs[0].name] = functions.weight(node)
            continue
        got = [made.get(t.name, getattr(t, "values", None)) for t in node.inputs]
        out = node.outputs[0].name
        if node.op == "Sub":
            made[out] = got[0] - got[1]
        elif node.op == "Add":
            made[out] = got[0] + got[1]
        elif node.op == "Mul":
            made[out] = got[0] * got[1]
        elif node.op == "Max":
            made[out] = np.maximum(*got)
        elif node.op in ("Greater", "Cast"):
            made[out] = got[0] > got[1] if node.op == "Greater" else got[0].astype(np.float32)
        elif node.op == "Pad":
            n = len(got[1]) // 2
            made[out] = np.pad(got[0], list(zip(got[1][:n], got[1][n:], strict=True)), constant_values=got[2])
        elif node.op == "Conv":
            attrs = ", ".join(f"{k}={v}" for k, v in node.attrs.items())
            bias = ", b" if len(got) > 2 else ""
            text = HEAD + f" g (float[A,B,C,D] x) => (float[N,O,P,Q] y) {{ y = Conv<{attrs}>(x, w{bias}) }}"
            plain = model_of(text, w=got[1], **({"b": got[2]} if bias else {}))
            made[out] = run(plain, {"x": got[0]})["y"]
        else:
            twin = {"Binarize": "binarize", "Quantize": "quantize", "ResidualBinarize": "residual_binarize",
                    "DynamicResidualBinarize": "dynamic_residual_binarize"}[node.op]  # fmt: skip
            made[out] = getattr(quantisers, twin)(*got)
    return made["y"]


@settings(max_examples=60, deadline=None)
@given(layers())
def test_any_convolution_equals_itself_by_hand(c):
    model, x = convolution(c)
    inputs, bits = c["how"]
    if inputs == "none" and c["weights"] == "none":
        return
    options = {
        "weights": c["weights"],
        "inputs": inputs,
        "bits": bits,
        "dynamic": inputs == "horq" and c["dynamic"],
        "sparsity": c["sparsity"] if inputs == "hwgq" else None,
        **ALL,
    }
    done, report = binarised(model, {"x": x}, **options)
    verify(done, like=model)
    assert len(report.edits) == 1
    assert all(p == 0 for n in done.nodes if n.op == "Conv" for p in n.attrs.get("pads", [0])) or inputs in (
        "none", "uniform", "hwgq",
    )  # fmt: skip
    got = run(done, {"x": x})["y"]
    assert np.allclose(got, by_hand(done, x), rtol=1e-4, atol=1e-4)
    # the bias takes the mean error of every output away, as far as sampled rows show it
    want = run(model, {"x": x})["y"]
    assert np.abs((got - want).mean((0, 2, 3))).max() <= 0.02 * max(np.abs(want).max(), 1)


@pytest.mark.parametrize(
    "options", [{"weights": "bwn"}, {"weights": "residual", "weight_bits": 3}, {"weights": "admm"}], ids=str
)
def test_bits_and_floats_are_the_same_model(options):
    model, x = chain()
    bits, _ = binarised(model, {"x": x}, **options, **ALL)
    floats, _ = binarised(model, {"x": x}, store="floats", **options, **ALL)
    assert any(functions.is_lookup(n) for n in bits.nodes) and not any(functions.is_lookup(n) for n in floats.nodes)
    for optimise in (False, True):
        assert np.array_equal(run(bits, {"x": x}, optimise)["y"], run(floats, {"x": x}, optimise)["y"])


def chain():
    """Convolutions plain, 1x1 and depthwise, then MatMul and Gemm."""
    rng = np.random.default_rng(0)
    text = (
        HEAD
        + """ g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) b = Conv(r, w2) s = Relu(b)
        c = Conv<group=16>(s, w3) t = Relu(c) d = Conv<pads=[1,1,1,1]>(t, w4) u = Relu(d)
        p = GlobalAveragePool(u) f = Flatten(p) m = MatMul(f, w5) v = Relu(m) y = Gemm<transB=1>(v, w6, b6) }"""
    )
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 1, 1), "w3": (16, 1, 3, 3), "w4": (24, 16, 3, 3),
              "w5": (24, 70), "w6": (5, 70), "b6": (5,)}  # fmt: skip
    made = {k: (rng.normal(size=s) / np.sqrt(max(np.prod(s[1:]), 1))).astype(np.float32) for k, s in shapes.items()}
    return model_of(text, **made), rng.normal(size=(16, 3, 8, 8)).astype(np.float32)


def test_which_layers_take_part():
    model, x = chain()
    _, report = binarised(model, {"x": x}, correct=False)
    assert len(report.edits) == 2
    reasons = " ".join(r.reason for r in report.refusals)
    assert all(word in reasons for word in ("first layer", "last layer", "1x1 layer", "depthwise layer"))
    assert len(binarised(model, {"x": x}, correct=False, **ALL)[1].edits) == 6
    names = [e.node for e in report.edits]
    assert len(binarised(model, {"x": x}, correct=False, skip=[names[0]])[1].edits) == 1


def test_layers_left_in_float_are_fitted_to_what_reaches_them():
    model, x = chain()
    errors = []
    for correct in (False, True):
        done, report = binarised(model, {"x": x}, inputs="uniform", correct=correct)
        errors.append(np.abs(run(done, {"x": x})["y"] - run(model, {"x": x})["y"]).mean())
        assert any("in float, fitted" in e.what for e in report.edits) == correct
    assert errors[1] < 0.7 * errors[0]


def test_sensitivity_keeps_layers_that_cannot_bear_it():
    model, x = chain()
    assert not binarised(model, {"x": x}, bear=200.0)[1].edits
    every = binarised(model, {"x": x}, bear=-100.0)[1]
    assert sum("weights hashing" in e.what for e in every.edits) == 2
    _, report = binarised(model, {"x": x}, bear=200.0)
    assert any("alone it leaves the outputs" in r.reason for r in report.refusals)


def test_bit_operations_and_bytes_fall():
    model, x = chain()
    done, _ = binarised(model, {"x": x}, **ALL)
    before, after = (cost(m, verify(m)) for m in (model, done))
    assert after.bops < before.bops / 500 and after.bytes < before.bytes / 3


def test_inspect_counts_operations_as_xnor_net_does():
    model, x = chain()
    done, _ = binarised(model, {"x": x}, inputs="horq", bits=2, **ALL)
    first, *_, last = (layer for layer in inspect(done).layers if layer.planes)
    for layer, terms in ((first, 3 * 9), (last, 70)):  # sums of a 3x3 convolution of three channels, of 70 features
        assert (layer.planes, layer.bits) == (2, 1)
        assert layer.speedup == pytest.approx(terms / (2 * (terms / 64 + 1)), abs=0.01)


def test_xnor_is_the_published_product():
    """y = (sign(x) * B) K alpha, K the box-filtered mean magnitude over channels."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(4, 6, 3, 3)).astype(np.float32)
    x = rng.normal(size=(5, 6, 7, 7)).astype(np.float32)
    model = model_of(HEAD + " g (float[N,6,7,7] x) => (float[N,4,P,Q] y) { y = Conv<strides=[2,2]>(x, w) }", w=w)
    done, _ = binarised(model, {"x": x}, inputs="xnor", weights="bwn", correct=False, **ALL)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2]
    k = np.abs(windows).mean((1, 4, 5))
    alpha = np.abs(w).mean((1, 2, 3))
    signs = np.einsum("ncpqij,ocij->nopq", np.where(windows >= 0, 1, -1), np.where(w >= 0, 1, -1))
    assert np.allclose(run(done, {"x": x})["y"], signs * k[:, None] * alpha[:, None, None], atol=1e-4)


def test_two_readers_share_a_quantiser():
    rng = np.random.default_rng(0)
    text = (
        HEAD
        + """ g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1]>(x, w2) y = Add(a, b) }"""
    )
    w = rng.normal(size=(2, 4, 4, 3, 3)).astype(np.float32)
    done, _ = binarised(model_of(text, w1=w[0], w2=w[1]), inputs="horq", **ALL)
    assert sum(functions.calls(n, "ResidualBinarize") for n in done.nodes) == 1


# methods


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 20)) @ rng.normal(size=(20, 20))
    return rng.normal(size=(1, 6, 20)), (x.T @ x / 400)[None]


def errors(v, u, h) -> np.ndarray:
    return rounding.error(v, u, h)[0]


def test_methods_near_the_outputs_err_less_there():
    for seed in range(5):
        u, h = problem(seed)
        assert (errors(weights.hashing(u, h), u, h) <= errors(weights.bwn(u), u, h)).mean() > 0.8
        assert errors(weights.admm(u, h, 2), u, h).sum() < errors(weights.ternary(u), u, h).sum()
        assert errors(weights.admm(u, h, 3), u, h).sum() < errors(weights.admm(u, h, 2), u, h).sum()
        falling = [errors(weights.sketched(u, h, k), u, h).sum() for k in (1, 2, 3, 4)]
        assert falling == sorted(falling, reverse=True)


def test_hashing_finds_nearly_the_best_signs():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 8))
    u, h = rng.normal(size=(1, 4, 8)), (x.T @ x / 50)[None]
    damped = rounding.damped(h, rounding.DAMP)
    every = ((np.arange(256)[:, None] >> np.arange(8)) & 1) * 2.0 - 1
    power, cross = np.einsum("si,ij,sj->s", every, damped[0], every), every @ damped[0] @ u[0].T
    best = np.einsum("oi,ij,oj->o", u[0], damped[0], u[0]) - (np.maximum(cross, 0) ** 2 / power[:, None]).max(0)
    found = errors(weights.hashing(u, h), u, damped)
    assert (found >= best - 1e-9).all() and found.sum() <= 1.25 * best.sum()


def test_ternary_is_the_best_of_all_thresholds():
    w = np.random.default_rng(0).normal(size=(1, 3, 15))
    got = ((w - weights.ternary(w)) ** 2).sum(2)
    for t in np.sort(np.abs(w).ravel()):
        kept = np.abs(w) >= t
        alpha = (np.abs(w) * kept).sum(2, keepdims=True) / np.maximum(kept.sum(2, keepdims=True), 1)
        assert (got <= ((w - np.sign(w) * kept * alpha) ** 2).sum(2) + 1e-12).all()


def test_levels_of_admm():
    u, h = problem()
    for bits, count in ((2, 3), (3, 7)):
        for row in weights.admm(u, h, bits)[0]:
            scaled = row / np.abs(row[row != 0]).min()
            assert len(np.unique(np.round(row, 9))) <= count and np.allclose(scaled, np.rint(scaled))


def test_proximal_with_equal_curvature_is_bwn():
    w, _ = problem()
    assert np.allclose(weights.proximal(w, 3 * np.eye(20)[None]), weights.bwn(w))


def test_proximal_steps_go_on_from_the_first():
    for seed in range(3):
        u, h = problem(seed)
        d = np.einsum("gii->gi", h)[:, None, :]
        first = np.sign(u) * (np.abs(u) * d).sum(2, keepdims=True) / d.sum(2, keepdims=True)
        lost, before = errors(weights.proximal(u, h), u, h), errors(first, u, h)
        assert (lost <= before).all() and lost.sum() < 0.75 * before.sum()


def test_planes_come_nearer_with_each_order():
    x = np.maximum(np.random.default_rng(0).normal(size=5000), 0)
    lost = []
    for order in (1, 2, 3, 4):
        c, scales = planes(x, order, True)
        lost.append(((c + quantisers.residual_binarize(x - c, np.array(scales)) - x) ** 2).mean())
    assert all(b < 0.7 * a for a, b in pairwise(lost)) and lost[3] < 0.005 * (x**2).mean()


def test_scales_are_the_best_of_their_kind():
    x = np.random.default_rng(0).normal(size=20000)
    s = best_scale(x, -2, 1)
    loss = lambda t: ((np.clip(np.rint(x / t), -2, 1) * t - x) ** 2).mean()  # noqa: E731
    assert all(loss(s) <= 1.001 * loss(t) for t in np.linspace(0.2, 3, 50))
    half = half_gaussian(3)
    assert np.isclose(best_scale(np.maximum(x, 0), 0, 3), half, rtol=0.05)


def test_half_zeros_are_the_published_grid():
    """The steps of Cai 2017, section 4.2: 0.538 deviations at 2 bits; all that is positive becomes at least one."""
    assert half_gaussian(3, 0.0) == pytest.approx(0.538, abs=2e-3)
    x = np.maximum(np.random.default_rng(0).normal(size=(2000, 20)), 0).astype(np.float32)
    text = HEAD + " g (float[N,20] x) => (float[N,20] y) { y = MatMul(x, w) }"
    model = model_of(text, w=np.eye(20, dtype=np.float32))  # ternary weights are the same: y is the codes
    for kind, sparsity, step in (("hwgq", 0.5, 0.538), ("two_step", 0.75, 0.787)):
        options = {"inputs": kind, "bits": 2, "sparsity": sparsity, "weights": "ternary", "correct": False, **ALL}
        got = run(binarised(model, {"x": x}, **options)[0], {"x": x})["y"]
        scale = got[got > 0].min()
        assert scale == pytest.approx(step, rel=0.05) and (got == 0).mean() == pytest.approx(sparsity, abs=0.02)
        levels = np.clip(np.maximum(np.rint(x / scale), 1), 0, 3) * (x > x[got == 0].max()) * scale
        assert np.allclose(got, levels, atol=1e-5)


def test_what_is_never_negative_is_unsigned_or_centred():
    x = np.abs(np.random.default_rng(0).normal(size=1000))
    assert calibrate("uniform", 2, False, x, None).low == 0 and calibrate("uniform", 2, False, -x, None).low == -2
    assert calibrate("sign", 1, False, x, None).centre > 0 and calibrate("sign", 1, False, x - 1, None).centre == 0
    assert calibrate("sign", 1, False, x, False).centre == 0


# a real network


@pytest.mark.slow
def test_few_bits_keep_a_trained_network_within_a_point():
    path = ROOT / "onnxc/data/resnet20_fashion.onnx"
    with np.load(ROOT / "onnxc/data/fashion_calib.npz") as calib:
        data = {"image": calib["image"][:64]}
    result = onnxc.run_passes(
        path, "clean,fuse,quant.binary(weights=admm,weight_bits=3,inputs=uniform,bits=4)", data=data, check="shapes"
    )
    with np.load(ROOT / "onnxc/data/fashion_test.npz") as test:
        x, labels = test["image"][:500], test["labels"][:500]
    before, after = (Session(m).run({"image": x})["logits"] for m in (path.read_bytes(), result.model.to_proto()))
    assert accuracy(after, labels) >= accuracy(before, labels) - 0.02


@pytest.mark.parametrize(
    "options, said",
    [
        ({"inputs": "horq", "bits": 9}, "1 to 8"),
        ({"inputs": "uniform", "sparsity": 0.5}, "needs inputs=hwgq or two_step"),
        ({"inputs": "hwgq", "sparsity": 0.4}, "0.5 to 0.99"),
        ({"weights": "admm", "weight_bits": 4}, "one of 2, 3"),
        ({"weights": "none", "inputs": "none"}, "neither"),
        ({"dynamic": True}, "needs inputs=horq"),
        ({"inputs": "xnor", "weights": "admm"}, "made by themselves"),
    ],
    ids=str,
)
def test_options_are_checked(options, said):
    with pytest.raises(BadOption, match=said):
        make("quant.binary", options)


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    before = golden.read((golden.ROOT / "binary" / f"{name}.onnx.txt").read_text(encoding="utf-8"))
    model = onnxc.load(before)
    shape = [d if isinstance(d, int) else 4 for d in model.inputs[0].shape]
    x = ((np.arange(np.prod(shape)) * 5 % 17 - 8) / 4).reshape(shape).astype(np.float32)
    after, report = binarised(model, {model.inputs[0].name: x}, weights="bwn", correct=False, first=True)
    golden.compare("binary", name, golden.text_of(after, report), update=update_golden)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not_") for name in CASES) >= 2
