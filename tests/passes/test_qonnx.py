"""QONNX in and out, against what qonnx's own executor (1.0.0) made of the same files: tests/data/qonnx_*.npz."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxc
from onnxc import run_passes
from onnxc.ir import functions, qonnx
from onnxc.ir.errors import BadModel
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.reference import Session
from tests import golden

from .quant_helpers import model_of, run

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = sorted(p.stem for p in DATA.glob("qonnx_*.onnx"))
CASES = golden.cases("qonnx")
HEAD = '<ir_version: 8, opset_import: ["" : {}, "qonnx.custom_op.general" : 1, "ai.onnxc" : 1]>'
MODES = sorted(qonnx.ROUND)


def case(name: str):
    with np.load(DATA / f"{name}.npz") as found:
        model = load(DATA / f"{name}.onnx")
        return model, {model.inputs[0].name: found["x"]}, found["y"]


def out(model, feeds, optimise: bool = False) -> np.ndarray:
    return Session(model.to_proto(), optimise=optimise).run(feeds)[model.outputs[0].name]


def foreign(model) -> list[str]:
    return [n.op for n in model.nodes if n.domain in qonnx.DOMAINS]


def recognised(model, **options):
    return apply(make("quant.recognise", {"zero": "plus", **options}), apply(make("clean"), model)[0])


def test_there_are_files():
    assert len(FILES) >= 4


@pytest.mark.parametrize("name", [f for f in FILES if f != "qonnx_rounding"])
@pytest.mark.parametrize("optimise", [False, True])
def test_a_file_runs_through_our_bodies_as_in_qonnx(name, optimise):
    model, x, y = case(name)
    verify(model)
    assert np.allclose(out(model, x, optimise), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_and_comes_back_equal(name):
    model, x, y = case(name)
    done, report = recognised(model)
    assert set(foreign(done)) <= {"Trunc"} and report.edits
    assert np.allclose(out(done, x), y, rtol=1e-5, atol=1e-5)
    back, report = apply(make("quant.qonnx"), done)
    assert not [n for n in back.nodes if functions.calls(n)]
    assert np.allclose(out(back, x), y, rtol=1e-5, atol=1e-5)
    verify(back, like=model)


def test_the_network_is_recognised_whole():
    model, _, _ = case("qonnx_cnn")
    done, report = recognised(model)
    assert not foreign(done) and not any(domain in qonnx.DOMAINS for domain, _ in done.functions)
    assert report.notes[-1] == "of 4 products 3 read few-bit numbers, 3 have weights in bits"
    back, report = apply(make("quant.qonnx"), done)
    assert sorted(foreign(back)) == ["BipolarQuant", "BipolarQuant", "Quant", "Quant", "Quant", "Quant", "Quant"]
    bits = sorted(float(n.inputs[3].values) for n in back.nodes if n.op == "Quant")
    assert bits == [2, 2, 4, 4, 8]


def test_a_brevitas_export_is_recognised_whole():
    """Eight bits, 4-bit weights by channel, 2-bit weights, bipolar weights and activations; Brevitas 0.13 wrote the file."""
    model, _, _ = case("qonnx_from_brevitas")
    done, report = recognised(model)
    assert not foreign(done) and "4 read few-bit numbers" in report.notes[-1]
    assert any("whole thresholds of 16 channels" in e.what for e in report.edits)


def test_the_pipeline_takes_such_files(tmp_path):
    model, x, y = case("qonnx_zero_points")
    model.save(tmp_path / "m.onnx")
    result = onnxc.run_passes(tmp_path / "m.onnx", "quant.recognise", data=x)
    assert np.allclose(out(result.model, x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("opset", [12, 13, 18])
def test_a_body_is_its_numpy_twin(mode, signed, opset):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=40) * 3, np.arange(-3, 3, 0.25), [0.0, -0.0]]).astype(np.float32)[None]
    for bits, narrow, zero in ((1, 0, 0), (2, 1, 0), (3, 0, 1), (8, 1, 0)):
        text = (
            HEAD.format(opset)
            + f""" g (float[N,C] x) => (float[N,C] y) {{
            y = qonnx.custom_op.general.Quant<signed={signed}, narrow={narrow}, rounding_mode="{mode}">(x, s, z, b) }}"""
        )
        model = model_of(text, s=np.float32(0.5), z=np.float32(zero), b=np.float32(bits))
        got = run(model, {"x": x})["y"]
        assert np.array_equal(got, qonnx.evaluate(model.nodes[0], [x, *(t.values for t in model.nodes[0].inputs[1:])]))
        done, _ = recognised(model)
        assert not foreign(done) or (bits == 1 and zero)
        assert np.array_equal(run(done, {"x": x})["y"], got)


def test_modes_that_differ_have_no_one_body_but_can_be_read():
    model, x, y = case("qonnx_rounding")
    assert not model.functions
    with pytest.raises(Exception, match="Quant"):
        out(model, x)
    assert np.allclose(out(recognised(model)[0], x), y)


def test_a_body_of_the_models_own_is_kept():
    model, _, _ = case("qonnx_trunc")
    own = model.functions["qonnx.custom_op.general", "Trunc"]
    own.doc_string = "mine"
    assert load(model.to_proto()).functions["qonnx.custom_op.general", "Trunc"].doc_string == "mine"


def test_what_our_passes_make_is_written_for_others():
    rng = np.random.default_rng(0)
    text = (
        '<ir_version: 8, opset_import: ["" : 13]>'
        + """ g (float[N,4,8,8] x) => (float[N,6,6,6] y) {
        y = Conv(x, w) }"""
    )
    model = model_of(text, w=rng.normal(size=(6, 4, 3, 3)).astype(np.float32))
    x = rng.normal(size=(3, 4, 8, 8)).astype(np.float32)
    from onnxc.runtime.data import open_data
    from onnxc.runtime.reference import Runner
    from onnxc.runtime.specs import input_specs

    source = open_data({"x": x}, input_specs(model.to_proto()), samples=3)
    for inputs, expected in (("sign", "BipolarQuant"), ("horq", "BipolarQuant"), ("uniform", "Quant")):
        options = {"inputs": inputs, "first": True, "last": True}
        made, _ = apply(make("quant.binary", options), model, runner=Runner(optimise=False), data=source)
        back, report = apply(make("quant.qonnx"), made)
        assert not report.refusals and foreign(back).count(expected) >= (2 if inputs != "uniform" else 1)
        assert np.array_equal(run(back, {"x": x})["y"], run(made, {"x": x})["y"])
        onnx.checker.check_model(back.to_proto(), full_check=True)


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    golden.check("qonnx", name, make("quant.qonnx"), update=update_golden)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not_") for name in CASES) >= 2


def test_what_has_no_body_is_named(tmp_path):
    q = 'Quant <signed: int = 1, narrow: int = 0, rounding_mode = "%s">'
    text = """<ir_version: 8, opset_import: ["" : 17, "qonnx.custom_op.general" : 1]>
    g (float[N,4] x) => (float[N,4] y) <float s = {0.5}, float z = {0.0}, float b = {4.0}> {
      a = qonnx.custom_op.general.%s(x, s, z, b)
      y = qonnx.custom_op.general.%s(a, s, z, b)
    }"""
    for modes, message in ((("ASIDE", "ASIDE"), "rounding mode of Quant is not known.* found ASIDE"),
                           (("ROUND", "FLOOR"), "round in several ways")):  # fmt: skip
        with pytest.raises(BadModel, match=message):
            run_passes(golden.read(text % tuple(q % m for m in modes)), "clean")
