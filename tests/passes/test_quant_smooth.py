"""quant.smooth: outputs keep their bits, quantisers gain, and what cannot be scaled is left alone."""

import numpy as np
import pytest

from onnxc.ir.errors import BadOption
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.apart import differences

from .quant_helpers import feeds_of, model_of, quantised, run

OUTLIERS = np.where(np.arange(16) % 8 == 3, 60.0, 1.0)
"""Two channels that rule a quantiser of the whole tensor."""


def network(body: str, outputs: str = "float[N,5,8] y"):
    rng = np.random.default_rng(4)
    weights = {
        "v": rng.normal(size=(16, 16)) * OUTLIERS,
        "c": rng.normal(size=16) * OUTLIERS,
        "gamma": rng.uniform(0.5, 1, 16) * OUTLIERS,
        "beta": rng.normal(size=16),
        "w": rng.normal(size=(16, 8)) / OUTLIERS[:, None],
        "wt": rng.normal(size=(8, 16)),
        "two": np.float32(2),
        "cube": rng.normal(size=(5, 16)),
    }
    used = {k: np.asarray(v, np.float32) for k, v in weights.items() if f" {k}," in body or f" {k})" in body}
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,5,16] x) => ({outputs}) {{ {body} }}'
    return model_of(text, **used)


def smoothed(model, **options):
    data = open_data(None, input_specs(model.to_proto()), samples=8)
    return apply(make("quant.smooth", options), model, runner=Runner(optimise=False), data=data, synthetic=True)


@pytest.mark.parametrize(
    "ahead",
    [
        "t = LayerNormalization<axis=-1>(x, gamma, beta)",
        "n = LayerNormalization<axis=-1>(x, gamma) t = Add(n, beta)",
        "m = Mul(x, gamma) t = Add( beta, m)",
        "m = Mul( two, x) n = Add(m, c) t = Mul(n, gamma)",
        "m = MatMul(x, v) t = Add(m, c)",
    ],
    ids=["norm", "norm-add", "affine", "scalar", "product"],
)
def test_outliers_move_into_the_weights_and_the_outputs_keep_their_bits(ahead):
    model = network(f"{ahead} y = MatMul(t, w)")
    done, report = smoothed(model)
    feeds = feeds_of(model, seed=0, samples=8)
    real, ours = run(model, feeds)["y"], run(done, feeds)["y"]
    assert len(report.edits) == 1 and np.array_equal(real, ours)
    tops = [np.abs(Runner(optimise=False)(m.to_proto(), feeds, ["t"])["t"]).max((0, 1)) for m in (model, done)]
    assert tops[1].max() / np.median(tops[1]) < 0.3 * tops[0].max() / np.median(tops[0])


def test_a_quantiser_of_the_whole_tensor_gains():
    model = network("m = MatMul(x, v) t = Add(m, c) y = MatMul(t, w)")
    feeds = feeds_of(model)
    real = run(model, feeds)
    plain, smooth = (run(quantised(m)[0], feeds) for m in (model, smoothed(model)[0]))
    assert differences(real, smooth)["y"].snr_db > differences(real, plain)["y"].snr_db + 6


def test_several_readers_and_transposed_weights_share_one_scale():
    model = network("m = Mul(x, gamma) t = Add(m, beta) a = MatMul(t, w) b = MatMul(t, w) y = Mul(a, b)")
    assert len(smoothed(model)[1].edits) == 1
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,8] y) {
        t = Mul(x, gamma) y = Gemm<transB=1, alpha=0.5>(t, wt) }"""
    gemm = model_of(text, gamma=OUTLIERS.astype(np.float32), wt=np.ones((8, 16), np.float32))
    for one in (model, gemm):
        feeds = feeds_of(one)
        done, report = smoothed(one)
        assert report.edits and np.array_equal(run(one, feeds)["y"], run(done, feeds)["y"])


@pytest.mark.parametrize(
    "body, reason",
    [
        ("m = Mul(x, gamma) y = MatMul(m, w) z = Relu(m)", "not only products"),
        ("m = Mul(x, gamma) t = Relu(m) y = MatMul(t, w)", "no constant"),
        ("t = Mul(x, cube) y = MatMul(t, w)", "no constant"),
        ("m = Relu(x) t = Add(m, beta) y = MatMul(t, w)", "no constant"),
        ("m = Mul(x, gamma) t = Add(m, beta) z = Relu(m) y = MatMul(t, w)", "no constant"),
        ("y = MatMul(x, w)", "no constant"),
    ],
    ids=["other reader", "relu", "by position", "sum", "read ahead", "input"],
)
def test_do_not_smooth_what_no_constant_scales(body, reason):
    model = network(body, "float[N,5,8] y, float[N,5,16] z" if "z =" in body else "float[N,5,8] y")
    done, report = smoothed(model)
    assert [r.reason for r in report.refusals] and reason in report.refusals[0].reason
    assert not report.edits and dump(done) == dump(model)


def test_smoothing_again_changes_nothing():
    done, _ = smoothed(network("t = LayerNormalization<axis=-1>(x, gamma, beta) y = MatMul(t, w)"))
    again, report = smoothed(done)
    assert not report.edits and dump(again) == dump(done)


def test_alpha_lies_between_0_and_1():
    with pytest.raises(BadOption):
        make("quant.smooth", {"alpha": 1.5})
