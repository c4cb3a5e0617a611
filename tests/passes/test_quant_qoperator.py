"""quant.int8(form=qoperator): the same integers as the QDQ form, by standard operators."""

from collections import Counter

import numpy as np
import onnx
import onnx.version_converter
import pytest

from onnxc.ir.verify import verify
from onnxc.pipeline import Pipeline

from .quant_helpers import feeds_of, model_of, quantised, run

CONV = "Conv<pads=[1,1,1,1]>"


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {
    "w": weight(4, 4, 3, 3),
    "b": weight(4, seed=1),
    "w8": weight(3, 8, 1, 1, seed=2),
    "fc": weight(4, 5, seed=3),
    "fct": weight(5, 4, seed=4),
    "b5": weight(5, seed=5),
    "m": weight(8, 8, seed=6),
    "zero": np.float32(0),
    "six": np.float32(6),
    "one": np.float32(1),
}


def case(body: str, opset: int = 13):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4,8,8] x) => (float y) {{ {body} }}'
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    text = text.replace("(float y)", "(float[N,A] y)" if "Flatten" in body else "(float[N,A,B,C] y)")
    return model_of(text, **{k: v for k, v in WEIGHTS.items() if k in words})


def exact(model, feeds):
    """Outputs by ONNX's own reference: on x86 without VNNI ONNX Runtime's products of uint8 and int8 saturate."""
    from onnx.reference import ReferenceEvaluator

    newer = onnx.version_converter.convert_version(model.to_proto(), 21)  # the oldest that it knows whole
    runner = ReferenceEvaluator(newer)
    return dict(zip(runner.output_names, runner.run(None, dict(feeds)), strict=True))


@pytest.mark.parametrize(
    "body, made",
    [
        (f"c = {CONV}(x, w, b) r = Relu(c) y = {CONV}(r, w)", {"QLinearConv": 2}),
        (f"c = {CONV}(x, w) a = Clip(c, zero, six) y = {CONV}(a, w, b)", {"QLinearConv": 2}),
        (f"c = {CONV}(x, w) p = MaxPool<kernel_shape=[2,2]>(c) y = {CONV}(p, w)", {"QLinearConv": 2, "MaxPool": 1}),
        (f"c = {CONV}(x, w) d = {CONV}(x, w, b) k = Concat<axis=1>(c, d) y = Conv(k, w8)", {"Concat": 1}),
        ("y = MatMul(x, m)", {"MatMulInteger": 1, "Cast": 1}),
        ("n = MatMul(x, m) r = Relu(n) y = MatMul(r, m)", {"QLinearMatMul": 1, "MatMulInteger": 1}),
        ("g = GlobalAveragePool(x) f = Flatten(g) y = Gemm<transB=1>(f, fct, b5)", {"MatMulInteger": 1, "Add": 1}),
        ("g = GlobalAveragePool(x) f = Flatten(g) y = Gemm<alpha=0.5>(f, fc)", {"MatMulInteger": 1}),
    ],
    ids=["relu", "clip", "pool", "concat", "matmul", "matmuls", "gemm", "gemm-alpha"],
)
def test_both_forms_give_the_same(body, made):
    model = case(body)
    qdq, _ = quantised(model)
    done, _ = quantised(model, form="qoperator")
    verify(done, like=model)
    ops = Counter(n.op for n in done.nodes)
    assert all(ops[op] == n for op, n in made.items()), ops
    assert not {"Conv", "MatMul", "Gemm", "Relu", "Clip"} & set(ops)
    feeds = feeds_of(model)
    expected, found = run(qdq, feeds)["y"], exact(done, feeds)["y"]
    assert np.abs(found - expected).max() <= 1.1 * np.ptp(expected) / 255  # a step of the output's quantiser


@pytest.mark.parametrize(
    "options", [{"symmetric": True}, {"per_channel": False}, {"bits": 4, "rounding": "gptq"}], ids=str
)
def test_other_options_go_with_it(options):
    model = case(f"c = {CONV}(x, w, b) r = Relu(c) m1 = MatMul(r, m) y = {CONV}(m1, w)")
    qdq, _ = quantised(model, **options)
    done, _ = quantised(model, form="qoperator", **options)
    feeds = feeds_of(model)
    expected, found = run(qdq, feeds)["y"], exact(done, feeds)["y"]
    assert {"QLinearConv", "QLinearMatMul"} <= {n.op for n in done.nodes}
    assert np.abs(found - expected).max() <= 1.1 * np.ptp(expected) / 240


def test_a_sum_and_a_bound_that_integers_pass_stay_in_qdq_form():
    done, report = quantised(
        case(f"c = {CONV}(x, w) d = {CONV}(x, w, b) s = Add(c, d) y = {CONV}(s, w)"), form="qoperator"
    )
    ops = Counter(n.op for n in done.nodes)
    assert ops["QLinearConv"] == 3 and ops["Add"] == 1 and ops["DequantizeLinear"] == 3
    assert any("keep the QDQ form" in note for note in report.notes)
    done, _ = quantised(case(f"c = {CONV}(x, w) a = Clip(c, one, six) y = {CONV}(a, w)"), form="qoperator")
    assert {"Clip", "QLinearConv"} <= {n.op for n in done.nodes}


def test_resnet20_agrees_to_the_bit_with_what_the_runtime_fuses(resnet20_path, calib_data_path):
    model = Pipeline("clean,fuse", check="shapes").transform(resnet20_path).model
    qdq, _ = quantised(model, calib_data_path)
    done, _ = quantised(model, calib_data_path, form="qoperator")
    assert Counter(n.op for n in done.nodes)["QLinearConv"] == 21
    feeds = {"image": np.load(calib_data_path)["image"][:32]}
    expected, found = (run(m, feeds, True)["logits"] for m in (qdq, done))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
