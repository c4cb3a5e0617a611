"""quant.int8 on Concats of unlike ranges: weak branches keep their bits, the float model stays what it was."""

import numpy as np
import pytest

from onnxc.ir.difference import decibels
from onnxc.ir.verify import verify
from onnxc.passes.base import Context, Report
from onnxc.passes.quant.joined import balance
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs

from .quant_helpers import feeds_of, model_of, quantised, run

JOINS = {
    "relu": "q = Relu(b) c = Concat<axis=1>(r, q) y = Conv(c, w3)",
    "pool": "q = Relu(b) c = Concat<axis=1>(r, q) p = MaxPool<kernel_shape=[2,2]>(c) y = Conv(p, w3)",
    "sigmoid": "q = Sigmoid(b) c = Concat<axis=1>(r, q) y = Conv(c, w3)",
    "shared": "q = Relu(b) z = Conv(q, w4) c = Concat<axis=1>(r, q) d = Conv(c, w3) y = Add(d, z)",
    "tanh": "q = Relu(b) c = Concat<axis=1>(r, q) d = Tanh(c) y = Conv(d, w3)",
}


def model(name: str, strong: float = 100.0):
    rng = np.random.default_rng(0)

    def w(*shape, size=1.0):
        return (rng.normal(size=shape) * size / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    w3 = w(8, 16, 1, 1)
    w3[:, :8] /= strong  # the weak branch is what the outputs feel
    w3[:, 8:] *= 100
    return model_of(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,8,8] x) => (float[N,8,a,b] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) b = Conv<pads=[1,1,1,1]>(x, w2, b2) {JOINS[name]} }}""",
        w1=w(8, 4, 3, 3, size=strong), b1=w(8), w2=w(8, 4, 3, 3, size=0.1), b2=w(8) / 10, w3=w3, w4=w(8, 8, 1, 1),
    )  # fmt: skip


def snr(a, b) -> float:
    return decibels(float(np.square(a - b).sum() / np.square(a).sum()))


@pytest.mark.parametrize("name", ["relu", "pool", "sigmoid", "shared"])
def test_a_weak_branch_keeps_its_bits(name):
    made, feeds = model(name), feeds_of(model(name), 32)
    done, report = quantised(made, samples=32)
    assert snr(run(made, feeds)["y"], run(done, feeds)["y"]) > 25  # 0 dB with one scale for both as they come
    assert any("differ" in n and "enlarged" in n for n in report.notes)


@pytest.mark.parametrize("name", JOINS)
def test_the_float_model_keeps_its_outputs(name):
    made, feeds = model(name), feeds_of(model(name))
    want = run(made, feeds)["y"]
    ctx = Context(
        verify(made), runner=Runner(optimise=False), data=open_data(None, input_specs(made.to_proto()), samples=8)
    )
    report = Report()
    apart = balance(made, ctx, lambda node: True, 8, report)
    assert np.abs(run(made, feeds)["y"] - want).max() <= 1e-5 * np.abs(want).max()
    assert (apart == {next(n.name for n in made.nodes if n.op == "Concat")}) == (name == "tanh") and report.notes


def test_do_not_touch_branches_alike():
    done, report = quantised(model("relu", strong=0.2), samples=16)
    assert not any("differ" in n for n in report.notes)
    assert all(n.op != "Mul" for n in done.nodes)
