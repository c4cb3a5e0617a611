"""Functions, constant Ifs and small loops are opened; passes work within the bodies that stay; costs count them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.ir.bodies import inner
from onnxc.ir.cost import cost
from onnxc.ir.verify import verify
from onnxc.measure.inspect import inspect
from tests import golden

from .quant_helpers import feeds_of, model_of, run

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> '
FUNCTION = """g (float[N,16] x) => (float[N,16] y) { h = my.Lin(x, w) y = my.Lin(h, v) }
<domain: "my", opset_import: ["" : 17]> Lin (a, k) => (o) { t = MatMul(a, k) o = Relu(t) }"""
BRANCHES = """g (float[N,16] x, bool c) => (float[N,16] y) {
  s = Relu(x)
  y = If (c) <then_branch = t () => (float[N,16] a) { p = MatMul(s, w) q = Identity(p) a = Mul(q, k) },
              else_branch = e () => (float[N,16] b) { u = MatMul(s, w) dead = Exp(u) b = Add(u, k) }>
}"""
LOOP = """g (float[2,16] x) => (float[2,16] y, float[3,2,16] z) {
  y, z = Loop (n, true, x) <body = l (int64 i, bool go, float[2,16] s) => (bool on, float[2,16] r, float[2,16] o) {
    on = Identity(go) f = Cast<to = 1>(i) p = MatMul(s, w) r = Sub(p, f) o = Relu(r) }>
}"""
SCAN = """g (float[2,16] x, float[5,2,16] xs) => (float[2,16] y, float[2,5,16] z) {
  y, z = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1], scan_output_directions = [1],
               body = l (float[2,16] s, float[2,16] i) => (float[2,16] r, float[2,16] o) {
    p = MatMul(s, w) r = Sub(p, i) o = Relu(r) }> (x, xs)
}"""
W = {"w": golden.weights([16, 16]).astype(np.float32), "k": np.full(16, 0.5, np.float32)}


def same(before, after, **feeds):
    feeds = feeds or feeds_of(before)
    for name, a in run(before, feeds).items():
        np.testing.assert_allclose(run(after, feeds)[name], a, rtol=1e-6, atol=1e-6)


def kinds(model) -> list[str]:
    return [n.op for n in model.nodes]


def branches(**more):
    return model_of(HEAD + BRANCHES, **{**W, **more})


def test_functions_that_hide_products_are_opened():
    v = golden.weights([16, 16])[::-1].astype(np.float32)
    model = model_of(HEAD + FUNCTION, w=W["w"], v=v)
    assert cost(model, verify(model)).macs == 512
    assert [layer.name for layer in inspect(model).layers if layer.macs]
    done = onnxc.run_passes(model, "prune(ratio=0.5)")
    assert kinds(done.model) == ["MatMul", "Relu", "MatMul", "Relu"] and not done.model.functions
    assert done.report.rows[-1].after.macs == 256
    same(model, onnxc.run_passes(model, "clean").model)


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_if_is_decided(taken):
    text = HEAD + BRANCHES.replace(", bool c", "").replace("{\n  s", "{\n  c = Not(n)\n  s")
    model = model_of(text, **W, n=np.array(not taken))
    done = onnxc.run_passes(model, "clean").model
    assert kinds(done) == ["Relu", "MatMul", "Mul" if taken else "Add"]
    same(model, done)


@pytest.mark.parametrize("text", [LOOP, SCAN])
def test_a_small_loop_is_unrolled(text):
    model = model_of(HEAD + text, **W, n=np.array(3), true=np.array(True))
    done = onnxc.run_passes(model, "clean").model
    assert not {"Loop", "Scan"} & set(kinds(done)) and "MatMul" in kinds(done)
    assert cost(done, verify(done)).macs == cost(model, verify(model)).macs
    assert len(done.constants()["w"].outputs) == kinds(done).count("MatMul")
    same(model, done)


def test_do_not_unroll_what_is_long_or_computed():
    long = model_of(HEAD + LOOP.replace("float[3,", "float[M,"), **W, n=np.array(300), true=np.array(True))
    done = onnxc.run_passes(long, "clean")
    assert kinds(done.model) == ["Loop"] and "64 at most" in done.report.rows[0].refusals[0].reason
    open_ended = LOOP.replace("float[3,", "float[M,").replace(
        "on = Identity(go)", "h = ReduceMax<keepdims = 0>(s) on = Less(h, k)"
    )
    model = model_of(HEAD + open_ended, w=W["w"], k=np.array(9, np.float32), n=np.array(3), true=np.array(True))
    done = onnxc.run_passes(model, "clean")
    assert kinds(done.model) == ["Loop"] and "whether it goes on" in done.report.rows[0].refusals[0].reason


def test_bodies_are_cleaned_fused_and_shared_where_they_stand():
    model = branches()
    for c in (True, False):
        feeds = {"x": feeds_of(model)["x"], "c": np.array(c)}
        same(model, onnxc.run_passes(model, "clean,fuse").model, **feeds)
    done = onnxc.run_passes(model, "clean,fuse")
    bodies = inner(done.model, verify(done.model))
    assert [kinds(b.model) for b in bodies] == [["MatMul"], ["Gemm"]]
    assert any(e.node == "y/else_branch/dead" for e in done.report.rows[0].edits)
    clustered = onnxc.run_passes(model, "quant.cluster(bits=3)")
    assert [kinds(b.model)[0] for b in inner(clustered.model, verify(clustered.model))] == ["Lookup", "Lookup"]
    assert [e.node for e in clustered.report.rows[-1].edits] == ["y/then_branch/p", "y/else_branch/u"]
    onnx.checker.check_model(clustered.model.to_proto(), full_check=True)


def test_bodies_count():
    found = inspect(branches())
    assert found.cost.macs == 256 and found.cost.params == 256 + 16
    assert {"y/then_branch/p", "y/else_branch/u"} <= {layer.name for layer in found.layers}


def test_what_a_pass_leaves_in_bodies_is_told():
    done = onnxc.run_passes(branches(), "prune(ratio=0.5)")
    assert [r.reason for r in done.report.rows[-1].refusals if "/" in r.node] == [
        "1 product in a body stay: prune.channels works outside of bodies"
    ] * 2


def test_int8_within_bodies_looks_at_what_reaches_them():
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(6, 16)).astype(np.float32)}
    model = branches()
    turn = np.linalg.qr(golden.weights([16, 16]))[0].astype(np.float32)  # so that states do not grow
    done = onnxc.run_passes(model, "quant(bias_correction=true)", data={**data, "c": np.array(True)})
    assert [r.reason for r in done.report.rows[-1].refusals if "else" in r.node] == [
        "1 product in a body stay: no sample of the data goes there"
    ]
    assert any(e.node == "y/then_branch/p" for e in done.report.rows[-1].edits)
    for text, n in ((LOOP.replace("float[3,", "float[M,"), 30), (SCAN, 3)):
        model = model_of(
            HEAD + text.replace("float[5,", "float[T,").replace("float[2,5", "float[2,T"),
            w=turn,
            n=np.array(n),
            true=np.array(True),
        )
        done = onnxc.run_passes(model, "quant")
        edits = [e for e in done.report.rows[-1].edits if e.node == "y/body/p"]
        assert edits and done.report.rows[-1].error["snr_db"] > 20, done.report.rows[-1]


def test_a_weight_that_branches_share_is_quantised_once():
    v = golden.weights([16, 16])[::-1].astype(np.float32)
    text = BRANCHES.replace("u = MatMul(s, w) dead = Exp(u)", "o = MatMul(s, w) u = MatMul(o, v)").replace(
        "Mul(q, k)", "Tanh(q)"
    )
    model = model_of(HEAD + text, **W, v=v)
    done = onnxc.run_passes(model, "quant")
    stored = [t.values for t in done.model.constants().values() if t.values.dtype == np.int8 and t.values.ndim == 2]
    inside = [t for body in inner(done.model, verify(done.model)) for t in body.model.constants().values()]
    assert len(stored) == 1 and sum(t.values.shape == (16, 16) for t in inside) == 3  # v is one branch's alone
    assert not any("nothing to quantise" in note for note in done.report.rows[-1].notes)
    assert done.report.rows[-1].after.bytes < 0.6 * done.report.rows[0].before.bytes
    assert done.report.rows[-1].error["snr_db"] > 20


def test_the_body_of_a_scan_over_batches_is_fed_row_after_row():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 8]>
      g (float[2,16] i, float[2,5,16] x) => (float[2,16] f, float[2,5,16] y) { f, y = Scan<num_scan_inputs = 1,
        body = b (float[16] s, float[16] e) => (float[16] t, float[16] o) { t = Add(s, e) o = MatMul(t, w) }>("", i, x) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W["w"], "w"))
    assert onnxc.run_passes(onnxc.load(proto), "quant").report.rows[-1].name == "quant.int8"


def test_a_body_that_declares_other_shapes_than_it_has_is_worked_on():
    """As exporters of PaddlePaddle write loops: the number of the turn and what it carries have other ranks than declared."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[4,4] x, int64 m) => (float[4,4] y) <bool go = {1}> {
            y = Loop (m, go, x) <body = b (int64[1] i, bool c, float[4,4] s) => (bool d, float[4] t) {
                d = Identity(c) e = Identity(s) t = MatMul(e, e) }> }""")
    assert inspect(proto).cost.macs == 64
    done = onnxc.run_passes(proto, "clean")
    (loop,) = done.model.to_proto().graph.node
    body = loop.attribute[0].g
    assert [n.op_type for n in body.node].count("Identity") == 1 and done.report.rows[0].after.macs == 64
    assert body.output == proto.graph.node[0].attribute[0].g.output
