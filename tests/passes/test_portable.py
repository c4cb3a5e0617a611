"""portable: standard operators alone, the same outputs, a byte a weight where that is exact."""

import numpy as np
import onnx
import pytest

from onnxc.cli.app import main
from onnxc.ir.model import DOMAIN
from onnxc.pipeline import run_passes

from .quant_helpers import feeds_of, model_of, run


def network():
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,6,6] x) => (float[N,24] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a)
        e = Conv(b, w3) r = Relu(e) c = GlobalAveragePool(r) d = Flatten(c) y = MatMul(d, w2) }"""
    return model_of(text, w1=rng.normal(size=(32, 8, 3, 3)).astype("f"), w2=rng.normal(size=(32, 24)).astype("f"),
                    w3=rng.normal(size=(32, 32, 3, 3)).astype("f"))  # fmt: skip


def bare(model) -> bool:
    proto = model.to_proto()
    return not proto.functions and {n.domain for n in proto.graph.node} <= {""} and DOMAIN not in model.opsets


@pytest.mark.parametrize(
    ("passes", "stored"),
    [("quant.cluster(bits=3)", np.float32), ("quant.pow2(bits=3)", np.int8), ("quant.hash", np.float32),
     ("quant.product(centroids=8,correct=false)", np.float32), ("quant.binary", np.int8), ("quant.binary(inputs=horq)", np.int8),
     ("quant(bits=4,store=bits)", np.int8)],
)  # fmt: skip
def test_nothing_of_its_own_is_left_and_the_outputs_stay(passes, stored):
    model = network()
    packed = run_passes(model, passes).model
    plain = run_passes(packed, "portable")
    feeds = feeds_of(model)
    assert not bare(packed) and bare(plain.model)
    onnx.checker.check_model(plain.model.to_proto(), full_check=True)
    assert np.allclose(run(packed, feeds)["y"], run(plain.model, feeds)["y"], atol=1e-6)
    kinds = {t.values.dtype for t in plain.model.constants().values() if t.values.size > 500}
    assert np.dtype(stored) in kinds and (stored == np.int8 or kinds == {np.dtype(np.float32)})
    assert all("bytes, " in e.what or "written out" in e.what for e in plain.report.rows[-1].edits)


def test_floats_where_they_are_asked_for():
    plain = run_passes(network(), "quant.pow2(bits=3),portable(store=floats)").model
    assert bare(plain) and all(n.op != "DequantizeLinear" for n in plain.nodes)


def test_what_has_no_standard_form_is_told():
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[2,3] x) => (float[2,3] y)
        { y = com.microsoft.Gelu(x) }"""
    row = run_passes(model_of(text), "portable").report.rows[-1]
    assert not row.edits and "com.microsoft.Gelu has no standard form" in row.refusals[0].reason


def test_the_flag_puts_it_last(tmp_path):
    network().save(tmp_path / "m.onnx")
    out = tmp_path / "p.onnx"
    assert main(["passes", str(tmp_path / "m.onnx"), "-p", "quant.cluster", "-o", str(out), "--portable"]) == 0
    assert not onnx.load(out).functions
