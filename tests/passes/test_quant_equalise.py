"""quant.equalise: channels are scaled, outputs stay, quantisers gain, and what cannot be scaled is left alone."""

import re

import numpy as np
import pytest

from onnxc.ir.errors import BadOption
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.apart import differences

from .quant_helpers import feeds_of, model_of, quantised, run

SPREAD = np.float32(2.0) ** np.arange(0, -8, -1)


def network(body: str, outputs: str = "float[N,3,4,4] y"):
    rng = np.random.default_rng(2)
    weights = {
        "w1": rng.normal(size=(8, 4, 3, 3)) * SPREAD[:, None, None, None],
        "b1": rng.normal(size=8) * SPREAD,
        "w2": rng.normal(size=(3, 8, 3, 3)) / SPREAD[:, None, None],
        "d": rng.normal(size=(8, 1, 1, 1)),
    }
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,8,8] x) => ({outputs}) {{ {body} }}'
    used = {k: v.astype(np.float32) for k, v in weights.items() if f" {k}," in body or f" {k})" in body}
    return model_of(text, **used)


def equalised(model, **options):
    data = open_data(None, input_specs(model.to_proto()), samples=8)
    return apply(make("quant.equalise", options), model, runner=Runner(optimise=False), data=data, synthetic=True)


@pytest.mark.parametrize(
    "between",
    ["r = Relu(c)", "r = LeakyRelu(c)", "p = MaxPool<kernel_shape=[1,1]>(c) r = Relu(p)", "e = Conv<group=8>(c, d) r = Relu(e)"],
    ids=["relu", "leaky", "pool", "depthwise"],
)  # fmt: skip
def test_ranges_become_alike_and_the_outputs_stay(between):
    model = network(f"c = Conv(x, w1, b1) {between} y = Conv(r, w2)")
    done, report = equalised(model, strength=1.0)
    feeds = feeds_of(model, seed=0, samples=8)
    real, ours = run(model, feeds)["y"], run(done, feeds)["y"]
    assert np.abs(real - ours).max() <= 1e-5 * np.abs(real).max() and report.edits
    name = next(n for n in model.nodes if n.outputs[0].name == "c").outputs[0].name
    tops = [np.abs(Runner(optimise=False)(m.to_proto(), feeds, [name])[name]).max((0, 2, 3)) for m in (model, done)]
    assert tops[1].max() / tops[1].min() < 0.2 * tops[0].max() / tops[0].min()


def test_a_quantised_network_gains():
    model = network("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)")
    feeds = feeds_of(model, seed=0, samples=8)
    real = run(model, feeds)
    before, after = (differences(real, run(quantised(m)[0], feeds))["y"].snr_db for m in (model, equalised(model)[0]))
    assert after > before + 6


def test_weights_around_a_channel_get_one_range_and_the_outputs_stay():
    """Cross-layer equalisation: after it the ranges of a channel in both weights are equal (Nagel 2019, eq. 9 to 11)."""
    model = network("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)")
    done, report = equalised(model, method="weights")
    feeds = feeds_of(model, seed=0, samples=8)
    real, ours = run(model, feeds)["y"], run(done, feeds)["y"]
    assert np.abs(real - ours).max() <= 1e-5 * np.abs(real).max() and report.edits
    first, second = (n.inputs[1].values for n in done.nodes if n.op == "Conv")
    made, read = np.abs(first).max((1, 2, 3)), np.abs(second).max((0, 2, 3))
    np.testing.assert_allclose(made / made.max(), read / read.max(), rtol=1e-3)


def test_what_a_channel_is_at_least_moves_into_biases():
    model = network("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)")
    first = next(n for n in model.nodes if n.op == "Conv")
    lifted = np.array(first.inputs[2].values)
    lifted[:2] += 200
    model.set_weight(first, 2, lifted)
    done, report = equalised(model, method="weights")
    assert any("2 channels lowered" in e.what for e in report.edits)
    feeds = feeds_of(model, seed=0, samples=8)
    real, ours = run(model, feeds)["y"], run(done, feeds)["y"]
    assert np.abs(real - ours).max() <= 1e-4 * np.abs(real).max()
    first = next(n for n in done.nodes if n.op == "Conv")
    assert np.abs(first.inputs[2].values[:2] / np.abs(first.inputs[1].values[:2]).max((1, 2, 3))).max() < 100


def test_of_both_ways_and_none_the_one_of_the_nearest_outputs_stays():
    model = network("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)")
    data = open_data(None, input_specs(model.to_proto()), samples=8)
    runner = Runner(optimise=False)
    done, report = apply(
        make("quant.equalise"), model, runner=runner, data=data, synthetic=True, evaluator=Evaluator(runner, data)
    )
    said = dict(re.findall(r"(as it is|activations|weights) ([0-9.]+) dB", report.notes[-1]))
    assert len(said) == 3 and report.edits
    feeds = feeds_of(model, seed=0, samples=8)
    got = differences(run(model, feeds), run(quantised(done)[0], feeds))["y"].snr_db
    assert got == pytest.approx(max(map(float, said.values())), abs=1.5)


def test_strength_zero_does_nothing():
    model = network("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)")
    done, _ = equalised(model, strength=0.0)
    assert all(np.array_equal(t.values, done.constants()[name].values) for name, t in model.constants().items())


@pytest.mark.parametrize(
    "body, outputs, why",
    [
        ("c = Conv(x, w1, b1) r = Sigmoid(c) y = Conv(r, w2)", "float[N,3,4,4] y", "does not keep a scale"),
        ("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2)", "float[N,3,4,4] y, float[N,8,6,6] r", "output of the model"),
        ("c = Conv(x, w1, b1) y = Relu(c)", "float[N,8,6,6] y", "output of the model"),
    ],
)  # fmt: skip
def test_do_not_scale_what_the_readers_would_notice(body, outputs, why):
    model = network(body, outputs)
    done, report = equalised(model)
    assert why in report.refusals[0].reason and not report.edits
    assert dump(done) == dump(model)


@pytest.mark.parametrize(
    "options", [{"strength": 1.5}, {"strength": -0.1}, {"bits": 9}, {"method": "weights", "strength": 0.5}]
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        make("quant.equalise", options)
