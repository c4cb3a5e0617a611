"""Whole models in float16: near the original, in ONNX Runtime, with what would overflow or vanish left in float32."""

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.apart import differences
from tests.strategies import build, feeds

from .quant_helpers import model_of, run

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
RNG = np.random.default_rng(9)


def half(model, data=True, **options):
    source = open_data(None, input_specs(model.to_proto()), samples=8) if data else None
    return apply(make("quant.half", options), model, runner=Runner(optimise=False) if data else None, data=source)


def casts(model):
    return sum(node.op == "Cast" for node in model.nodes)


def test_a_network_computes_in_float16_between_two_casts(resnet20_path):
    model = onnxc.run_passes(resnet20_path, "clean,fuse,quant.half").model
    floats = {t.values.dtype for t in model.constants().values() if t.values.dtype.kind == "f"}
    assert casts(model) == 2 and floats == {np.dtype(np.float16)}
    assert [t.dtype for t in (*model.inputs, *model.outputs)] == [onnx.TensorProto.FLOAT] * 2
    assert len(model.to_proto().SerializeToString()) < 0.52 * resnet20_path.stat().st_size


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_stay_near(seed):
    proto = build(seed, 3, 17)
    done, _ = half(onnxc.load(proto))
    there = feeds(proto, seed)
    found = differences(Runner(optimise=False)(proto, there), Runner(optimise=True)(done.to_proto(), there))
    assert all(d.snr_db > 35 for d in found.values()), found
    onnx.checker.check_model(done.to_proto(), full_check=True)


def test_what_overflows_on_the_data_stays_in_float32():
    text = HEAD + "(float[N,4] x) => (y) { a = Relu(x) b = Mul(a, big) c = Sqrt(b) y = Mul(c, small) }"
    model = model_of(text, big=np.full(4, 6e4, np.float32), small=np.full(4, 0.01, np.float32))
    done, report = half(model)
    said = {r.node: r.reason for r in report.refusals}
    assert len(said) == 2 and all("on the data" in reason for reason in said.values())
    there = {"x": np.abs(RNG.normal(size=(5, 4))).astype(np.float32) + 1}
    before, after = run(model, there)["y"], run(done, there)["y"]
    assert np.isfinite(after).all() and np.abs(before - after).max() < 3e-3 * np.abs(before).max()
    _, blind = half(model, data=False)
    assert not blind.refusals and "no data" in " ".join(blind.notes)


@pytest.mark.parametrize(
    "body, weights, said",
    [
        ("{ y = Add(x, c) }", {"c": np.full(4, 1e5, np.float32)}, "holds 1e+05"),
        ("{ y = Add(x, c) }", {"c": np.float32(1e-9)}, "would become zero"),
        ("{ q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }", {}, "takes no float16"),
        ("{ y = Relu(x) }", {}, "skip names it"),
    ],
)
def test_what_stays_in_float32_is_said(body, weights, said):
    model = model_of(HEAD + "(float[N,4] x) => (y) " + body, **weights)
    done, report = half(model, skip=["*"] if said == "skip names it" else [])
    assert said in " ".join(r.reason for r in report.refusals)
    there = {"x": RNG.normal(size=(5, 4)).astype(np.float32)}
    assert np.abs(run(model, there)["y"] - run(done, there)["y"]).max() <= 0


def test_an_output_that_is_read_inside_and_a_tensor_of_both_worlds():
    text = (
        HEAD
        + '(float[N,1,4,4] x) => (y, z) { y = Relu(x) r = Resize<mode="nearest">(y, , s) t = Add(r, c) z = Sigmoid(t) }'
    )
    model = model_of(text, s=np.array([1, 1, 2, 2], np.float32), c=np.float32(1e6))
    done, report = half(model)
    assert [r.node for r in report.refusals] == [n.name for n in model.nodes if n.op in ("Add", "Sigmoid")]
    there = {"x": RNG.normal(size=(2, 1, 4, 4)).astype(np.float32)}
    for name, values in run(done, there).items():
        assert values.dtype == np.float32 and np.abs(values - run(model, there)[name]).max() < 2e-3
