"""clean on golden cases, each against ONNX Runtime; bounds, determinism, idempotence."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxc.ir.files import load
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.clean import Clean
from onnxc.passes.clean.fold import SMALL
from onnxc.runtime.reference import Session
from tests import golden
from tests.apart import differences

CASES = golden.cases("clean")


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    before, after, report = golden.check("clean", name, Clean(), update=update_golden)
    removes = {n.name for n in before.nodes} - {n.name for n in after.nodes}
    assert not (name.startswith("do_not") and (removes or report.edits)), [e.what for e in report.edits]
    assert name.startswith("do_not") or report.edits
    if "random" not in name:
        feeds = golden.feeds(before)
        a, b = (Session(m.to_proto(), optimise=False).run(feeds) for m in (before, after))
        for k, d in differences(a, b).items():
            assert d.max_rel <= 1e-6, k
    again, second = apply(Clean(), after)
    assert not second.edits and dump(again) == dump(after)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not") for name in CASES) >= 8


def test_a_missing_golden_fails(tmp_path, monkeypatch):
    folder = tmp_path / "clean"
    folder.mkdir()
    (folder / "new.onnx.txt").write_text((golden.ROOT / "clean/flatten.onnx.txt").read_text())
    monkeypatch.setattr(golden, "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="is missing"):
        golden.check("clean", "new", Clean(), update=False)


def test_two_runs_give_the_same_bytes(resnet20_path):
    first, second = (
        apply(Clean(), load(resnet20_path))[0].to_proto().SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def test_a_fill_costs_one_element_until_it_is_written():
    text = """<ir_version: 8, opset_import: ["" : 9]>
    g (float[N,1000] x) => (float[N,4000] y) <int64[2] shape = {4000, 1000}> {
      w = ConstantOfShape <value = float[1] {0.5}> (shape)
      t = Transpose <perm = [1, 0]> (w)
      c = Cast <to = 1> (t)
      y = MatMul(x, c)
    }"""
    model, _ = apply(Clean(), load(golden.read(text)))
    (w,) = (t.values for t in model.constants().values())
    assert w.shape == (1000, 4000) and w.strides == (0, 0) and np.all(w == 0.5)
    assert w.nbytes > SMALL
    assert len(model.to_proto().graph.initializer[0].raw_data) == w.nbytes


def test_constants_that_differ_in_one_bit_stay_two():
    w = golden.weights([64, 64]).astype(np.float32)
    v = w.copy()
    v[37, 41] = np.nextafter(v[37, 41], np.float32(9))
    proto = golden.read(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,64] x) => (float[N,64] y) <float[64,64] w, float[64,64] v, float[64,64] u> {
          a = MatMul(x, w)
          b = MatMul(a, v)
          y = MatMul(b, u)
        }"""
    )
    model = load(proto)
    model.set_weight(model.nodes[1], 1, v)
    after, _ = apply(Clean(), model)
    assert len(after.constants()) == 2
    assert after.nodes[0].inputs[1] is after.nodes[2].inputs[1]


def test_the_original_is_left_alone():
    model = load(golden.read((golden.ROOT / "clean/identities.onnx.txt").read_text()))
    before = dump(model)
    apply(Clean(), model)
    assert dump(model) == before


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int16"])
@pytest.mark.parametrize("to", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_weight_stored_short_stays_short(dtype, to, scaled):
    kind = getattr(onnx.TensorProto, to)
    real = onnx.helper.tensor_dtype_to_np_dtype(kind)
    w = np.arange(-32, 32).reshape(8, 8).astype(dtype)
    nodes = [onnx.helper.make_node("Cast", ["w"], ["c"], name="cast", to=kind)]
    nodes += [onnx.helper.make_node("Mul", ["c", "s"], ["v"])] if scaled else []
    nodes.append(onnx.helper.make_node("MatMul", ["x", "v" if scaled else "c"], ["y"]))
    io = [onnx.helper.make_tensor_value_info(name, kind, ["N", 8]) for name in "xy"]
    stored = [
        onnx.numpy_helper.from_array(a, n) for n, a in (("w", w), ("s", np.array(0.5, real))) if n == "w" or scaled
    ]
    graph = onnx.helper.make_graph(nodes, "g", io[:1], io[1:], stored)
    done, report = apply(Clean(), load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])))
    assert done.constants()["w"].values.dtype == w.dtype and len(done.nodes) == len(nodes)
    assert any(r.node == "cast" and "on purpose" in r.reason for r in report.refusals)


def test_an_empty_batch_goes_where_it_went():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,C,H,W] x) => (float[a,b,c] y, float[d,e] z) <int64[1] one = {1}> {
      nc = Shape <start = 0, end = 2> (x)
      hw = Shape <start = 2> (x)
      p = ReduceProd <keepdims = 1> (hw)
      t = Concat <axis = 0> (nc, p)
      y = Reshape(x, t)
      chw = Shape <start = 1> (x)
      n = Shape <start = 0, end = 1> (x)
      q = ReduceProd <keepdims = 1> (chw)
      u = Concat <axis = 0> (n, q)
      z = Reshape(x, u)
    }"""
    model, _ = apply(Clean(), load(golden.read(text)))
    got = Session(model.to_proto(), optimise=False).run({"x": np.zeros((0, 3, 4, 5), np.float32)})
    assert got["y"].shape == (0, 3, 20) and got["z"].shape == (0, 60)
    assert [n.op for n in model.nodes if n.outputs[0].name == "z"] == ["Flatten"]
