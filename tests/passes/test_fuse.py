"""fuse on golden cases and on every pair of linear and affine node, each against ONNX Runtime."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.files import load
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.clean import Clean
from onnxc.passes.fuse import Fuse
from onnxc.runtime.reference import Session
from tests import golden
from tests.apart import differences
from tests.passes.prune_models import network

CASES = golden.cases("fuse")
KINDS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def error(before, after, feeds) -> float:
    a, b = (Session(m.to_proto(), optimise=False).run(feeds) for m in (before, after))
    return max(d.max_rel for d in differences(a, b).values())


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    before, after, report = golden.check("fuse", name, Fuse(), update=update_golden)
    if name.startswith("do_not"):
        # what does no harm anywhere: a division by a constant is a multiplication, equal constants are one
        assert all("becomes a multiplication" in e.what or "the same as" in e.what for e in report.edits)
        assert (
            report.refusals
            or report.notes
            or "constant" in name
            or "rank" in name
            or "softmax" in name
            or "broadcasts" in name
        )
    else:
        assert report.edits
    assert error(before, after, golden.feeds(before)) <= 1e-5
    again, second = apply(Fuse(), after)
    assert not second.edits and dump(again) == dump(after)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not") for name in CASES) >= 8


def model_of(linear: str, affine: str, *, first: str, kind: str = "float32", bias: bool = True):
    """A linear node and an affine node, one after the other."""
    rng = np.random.default_rng(zlib.crc32(f"{linear} {affine} {first}".encode()))
    weights: dict[str, np.ndarray] = {}

    def weight(name, *shape, positive=False):
        v = rng.standard_normal(shape)
        weights[name] = np.asarray(np.abs(v) + 0.5 if positive else v + np.sign(v) * 0.3, kind)
        return name

    op, shape, wshape, out, attrs = {
        "Conv": ("Conv", ["N", 6, 5, 5], (8, 6, 3, 3), 8, {}),
        "padded Conv": ("Conv", ["N", 6, 5, 5], (8, 6, 3, 3), 8, {"pads": [1, 1, 1, 1]}),
        "grouped Conv": ("Conv", ["N", 6, 5, 5], (9, 2, 3, 3), 9, {"group": 3}),
        "depthwise Conv": ("Conv", ["N", 6, 5, 5], (6, 1, 3, 3), 6, {"group": 6, "strides": [2, 2]}),
        "Conv of rank 3": ("Conv", ["N", 6, 5], (8, 6, 2), 8, {"dilations": [2]}),
        "SAME Conv": ("Conv", ["N", 6, 5, 5], (8, 6, 1, 1), 8, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        "ConvTranspose": (
            "ConvTranspose",
            ["N", 6, 5, 5],
            (6, 8, 3, 3),
            8,
            {"strides": [2, 2], "output_padding": [1, 1]},
        ),
        "grouped ConvTranspose": ("ConvTranspose", ["N", 6, 5, 5], (6, 4, 3, 3), 8, {"group": 2}),
        "Gemm": ("Gemm", ["N", 6], (6, 8), 8, {"alpha": 0.5, "beta": 2.0}),
        "Gemm transB": ("Gemm", ["N", 6], (8, 6), 8, {"transB": 1}),
        "MatMul": ("MatMul", ["N", 6], (6, 8), 8, {}),
        "batched MatMul": ("MatMul", ["N", 3, 6], (6, 8), 8, {}),
    }[linear]
    channels = out if first == "linear" else 6
    last = op == "MatMul"
    along = [channels] if last or op == "Gemm" else [channels] + [1] * (len(shape) - 2)
    if affine == "BatchNormalization" and last and len(shape) == 3:
        pytest.skip("channels of BatchNormalization are axis 1")
    a_in, a_out = ("h", "y") if first == "linear" else ("x", "h")
    l_in, l_out = ("x", "h") if first == "linear" else ("h", "y")
    inputs = [l_in, weight("w", *wshape)]
    if bias and op != "MatMul":
        inputs.append(weight("bias", out))
    one = helper.make_node(op, inputs, [l_out], "linear", **attrs)
    if affine == "BatchNormalization":
        parts = [weight(n, channels, positive=n == "var") for n in ("scale", "shift", "mean", "var")]
        two = helper.make_node("BatchNormalization", [a_in, *parts], [a_out], "affine")
    else:
        name, side, form = affine.split()
        c = weight("c", *(along if form == "channel" else []))
        two = helper.make_node(name, [a_in, c] if side == "right" else [c, a_in], [a_out], "affine")
    nodes = [one, two] if first == "linear" else [two, one]
    info = [helper.make_tensor_value_info(n, KINDS[kind], s) for n, s in (("x", shape), ("y", [None] * len(shape)))]
    graph = helper.make_graph(
        nodes, "g", info[:1], info[1:], [numpy_helper.from_array(v, n) for n, v in weights.items()]
    )
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


LINEAR = [
    "Conv", "padded Conv", "grouped Conv", "depthwise Conv", "Conv of rank 3", "SAME Conv", "ConvTranspose",
    "grouped ConvTranspose", "Gemm", "Gemm transB", "MatMul", "batched MatMul",
]  # fmt: skip
AFFINE = [
    "BatchNormalization", "Mul right channel", "Mul left scalar", "Div right channel", "Add right channel",
    "Add left scalar", "Sub right channel", "Sub left channel",
]  # fmt: skip


@pytest.mark.parametrize("linear, affine", list(itertools.product(LINEAR, AFFINE)))
def test_affine_after_linear(linear, affine):
    before = model_of(linear, affine, first="linear", bias="left" not in affine)
    after, report = apply(Fuse(), before)
    shifts = not affine.startswith(("Mul", "Div"))
    ops = [n.op for n in after.nodes]
    if linear == "batched MatMul" and shifts:
        assert len(ops) == 2
    else:
        assert ops == [
            "Gemm"
            if linear == "MatMul" and shifts
            else linear.split()[-1]
            if "rank" not in linear and "transB" not in linear
            else ops[0]
        ]
    assert len(report.edits) >= (linear != "batched MatMul")
    assert error(before, after, golden.feeds(before)) <= 1e-5


@pytest.mark.parametrize("linear, affine", list(itertools.product(LINEAR, AFFINE)))
def test_affine_before_linear(linear, affine):
    before = model_of(linear, affine, first="affine")
    after, report = apply(Fuse(), before)
    shifts = not affine.startswith(("Mul", "Div"))
    stays = shifts and ("padded" in linear or "Transpose" in linear or "MatMul" in linear)
    assert len(after.nodes) == 1 + stays
    assert not stays or any("it is not folded" in r.reason for r in report.refusals)
    assert error(before, after, golden.feeds(before)) <= 1e-5


# ONNX Runtime has no convolution of float64
@pytest.mark.parametrize(
    "kind, linear, affine, limit",
    [("float16", "Conv", "BatchNormalization", 5e-3), ("float64", "Gemm", "Mul right channel", 1e-14)],
)
@pytest.mark.parametrize("first", ["linear", "affine"])
def test_other_types(kind, linear, affine, limit, first):
    before = model_of(linear, affine, first=first, kind=kind)
    after, _ = apply(Fuse(), before)
    assert len(after.nodes) == 1
    assert {t.values.dtype.name for t in after.constants().values()} == {kind}
    assert error(before, after, golden.feeds(before)) <= limit


def test_a_float16_weight_that_would_overflow_stays():
    before = model_of("Conv", "Mul right channel", first="linear", kind="float16", bias=False)
    mul = before.nodes[1]
    before.set_weight(mul, 1, np.full(mul.inputs[1].values.shape, 60000, np.float16))
    after, report = apply(Fuse(), before)
    assert len(after.nodes) == 2
    assert any("overflows" in r.reason for r in report.refusals)


def test_weights_are_replaced_never_written_into():
    before = model_of("Conv", "BatchNormalization", first="linear")
    old = {k: t.values.copy() for k, t in before.constants().items()}
    apply(Fuse(), before)
    assert all(np.array_equal(old[k], t.values) for k, t in before.constants().items())


def test_two_runs_give_the_same_bytes(trained_path):
    def run():
        model, _ = apply(Clean(), load(trained_path))
        return apply(Fuse(), model)[0].to_proto().SerializeToString(deterministic=True)

    assert run() == run()


@pytest.mark.parametrize(
    "mean, deviation, folds", [(2020, 5, False), (101325, 0.5, False), (127, 60, True), (0.5, 0.25, True)]
)
@pytest.mark.parametrize("norm", [False, True], ids=["Sub and Mul", "BatchNormalization"])
def test_a_shift_that_cancels_is_not_folded_into_a_bias(mean, deviation, folds, norm):
    """Sensors, years, pressures: W (x - m) / s, against float64; where it is folded, no digits are lost."""
    rng = np.random.default_rng(0)
    body = "z = BatchNormalization<epsilon=0.0>(x, one, zero, mu, v)" if norm else "c = Sub(x, mu) z = Mul(c, i)"
    weights = {
        "w": rng.standard_normal((16, 8)) * 0.3, "b": rng.standard_normal(8), "mu": np.full(16, mean),
        "i": np.array(1 / deviation), "one": np.ones(16), "zero": np.zeros(16), "v": np.full(16, deviation**2),
    }  # fmt: skip
    model = network(f"g (float[N, 16] x) => (float[N, 8] y) {{ {body} y = Gemm(z, w, b) }}", **weights)
    clean = apply(Clean(), model)[0]
    done, report = apply(Fuse(), clean)
    assert (len(done.nodes) == 1) == folds
    assert folds or any("would cost digits" in r.reason for r in report.refusals)
    x = (mean + rng.standard_normal((64, 16)) * deviation).astype(np.float32)
    real = (x.astype(np.float64) - mean) / deviation @ weights["w"].astype(np.float32) + weights["b"].astype(np.float32)
    before, after = (Session(m.to_proto(), optimise=False).run({"x": x})["y"] for m in (clean, done))
    # ONNX Runtime's own BatchNormalization cancels as well
    assert np.abs(after - real).max() < max(1e-5 * np.abs(real).max(), 1.01 * np.abs(before - real).max())
