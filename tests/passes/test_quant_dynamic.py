"""Matrix products in integers with ranges found at run time, beside the float model and ONNX Runtime's own quantiser."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.passes.base import apply
from onnxc.passes.registry import make
from tests.apart import differences

from .quant_helpers import model_of, run

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g '
RNG = np.random.default_rng(8)


def weights(*shape):
    return (RNG.normal(size=shape) * np.exp(RNG.normal(size=shape[-1:]))).astype(np.float32)


def test_products_of_all_kinds_run_in_integers_as_near_as_the_runtimes_own():
    text = (
        HEAD
        + """(float[N,T,32] x) => (y) {
        a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) d = MatMul(b, v2) e = Add(c, d) s = ReduceMean<axes=[1], keepdims=0>(e)
        y = Gemm<transB=1, alpha=0.5, beta=2.0>(s, w, k) }"""
    )
    model = model_of(text, u=weights(32, 64), v=weights(64, 48), v2=weights(64, 48), w=weights(10, 48), k=weights(10))
    done, report = apply(make("quant.dynamic", {}), model)
    assert len(report.edits) == 4 and not report.refusals
    ops = [n.op for n in done.nodes]
    assert ops.count("MatMulInteger") == 4 and ops.count("DynamicQuantizeLinear") == 3  # one input is shared
    feeds = {"x": RNG.normal(size=(3, 20, 32)).astype(np.float32)}
    before, after = run(model, feeds), run(done, feeds)
    assert differences(before, after)["y"].snr_db > 30
    same, _ = apply(make("quant.dynamic", {"skip": ["w"]}), model)  # ONNX Runtime's leaves Gemm alone
    ours = differences(before, run(same, feeds))["y"].snr_db
    theirs = differences(before, run_runtimes_own(model, feeds))["y"].snr_db
    assert ours > theirs - 0.5
    assert len(done.to_proto().SerializeToString()) < 0.45 * len(model.to_proto().SerializeToString())


def run_runtimes_own(model, feeds):
    from tempfile import TemporaryDirectory

    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        onnx.save(model.to_proto(), f"{folder}/a.onnx")
        quantize_dynamic(f"{folder}/a.onnx", f"{folder}/b.onnx", per_channel=True, weight_type=QuantType.QUInt8)
        session = ort.InferenceSession(f"{folder}/b.onnx", providers=["CPUExecutionProvider"])
        return dict(zip(["y"], session.run(["y"], feeds), strict=True))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 4), st.sampled_from(["MatMul", "Gemm"]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_extents(k, n, rows, op, turned):
    rng = np.random.default_rng([k, n, rows])
    w = rng.normal(size=(n, k) if turned and op == "Gemm" else (k, n)).astype(np.float32)
    node = f"Gemm<transB={int(turned)}>(x, w, b)" if op == "Gemm" else "MatMul(x, w)"
    model = model_of(HEAD + f"(float[N,{k}] x) => (y) {{ y = {node} }}", w=w, b=rng.normal(size=n).astype(np.float32))
    done, report = apply(make("quant.dynamic", {}), model)
    assert len(report.edits) == 1
    x = rng.normal(size=(rows, k)).astype(np.float32)
    before, after = run(model, {"x": x})["y"], run(done, {"x": x})["y"]
    assert before.shape == after.shape
    # half a step of each factor for each of k terms
    bound = k * (np.abs(w).max() * np.ptp(np.append(x, 0)) / 255 + np.abs(x).max() * np.abs(w).max() / 254)
    assert np.abs(before - after).max() <= bound


def test_older_models_are_raised():
    model = model_of(
        '<ir_version: 4, opset_import: ["" : 9]> g (float[N,8] x) => (y) { y = MatMul(x, w) }', w=weights(8, 8)
    )
    done, report = apply(make("quant.dynamic", {}), model)
    assert done.opset == 11 and len(report.edits) == 1 and "raised from opset 9 to 11" in report.notes


@pytest.mark.parametrize(
    "body, said",
    [
        ("{ y = Conv(x, c) }", "no fast convolution"),
        ("{ y = MatMul(x, x) }", "both sides are activations"),
        ("{ y = MatMul(c, x) }", "left side is the constant"),
        ("{ y = MatMul(x, c) }", "no matrix"),
    ],
)
def test_what_is_left_alone_is_said(body, said):
    _, report = apply(
        make("quant.dynamic", {}), model_of(HEAD + "(float[N,4,4,4] x) => (y) " + body, c=weights(4, 4, 4, 4))
    )
    assert not report.edits and said in str(report.refusals)
