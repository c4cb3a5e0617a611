# ruff: noqa: E501  graphs and tables read better on one line
"""Reading and writing: what a model holds comes back, and ORT computes the same before and after."""

import copy
import errno
import os
import re

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxc.ir import writing
from onnxc.ir.errors import BadModel, OnnxcError, VerificationError
from onnxc.ir.files import load
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from tests.ops.harness import free_atoms, run
from tests.strategies import build, feeds


def parse(
    text: str, opset: int = 17, ir: int = 8, imports: str = "", functions: str = "", **weights
) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{imports}]> g {text} {functions}')
    for name, w in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(w), name))
    return proto


def check_round_trip(proto: onnx.ModelProto, inputs: dict | None = None, runs: bool = True) -> onnx.ModelProto:
    """load -> proto -> load is a fixed point, verifies, and computes what the original does."""
    once = load(proto)
    verify(once)
    written = once.to_proto()
    again = load(written.SerializeToString())
    assert dump(again) == dump(once)
    assert again.to_proto().SerializeToString(deterministic=True) == written.SerializeToString(deterministic=True)
    assert load(once).to_proto() == written
    onnx.checker.check_model(written, full_check=True)
    if runs:
        for a, b in zip(run(proto, inputs or {}), run(written, inputs or {}), strict=True):
            np.testing.assert_array_equal(a, b)
    return written


X = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}
W = np.arange(3, dtype=np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed):
    proto = build(seed, 4, 11 + seed % 11)
    check_round_trip(proto, feeds(proto))


@pytest.mark.parametrize("opset", range(7, 24))
def test_opsets(opset):
    check_round_trip(
        parse(
            "(float[N, 3] x) => (float[N, 3] y) { a = Add(x, w) y = Relu(a) }",
            opset=opset,
            ir=8 if opset < 23 else 11,
            w=W,
        ),
        X,
    )


@pytest.mark.parametrize("ir", [3, 4, 7, 8, 10, 11, 12, 13])
def test_ir_versions(ir):
    proto = parse("(float[2, 3] x, float[3] w) => (float[2, 3] y) { y = Add(x, w) }", ir=ir, w=W)
    model = load(proto)
    assert [t.name for t in model.inputs] == ["x"]  # an initialiser that is listed as an input too
    assert 4 <= model.to_proto().ir_version <= 10
    np.testing.assert_array_equal(run(model.to_proto(), X)[0], X["x"] + W)


def test_constant_nodes_become_initialisers():
    proto = parse(
        """(float[2, 3] x) => (float[2, 3] y, float[3] z, float last) {
        a = Constant<value=float[3] {1, 2, 3}>() b = Constant<value_float=2.0>() c = Constant<value_floats=[1.0, 2.0, 3.0]>()
        d = Constant<value_int=1>() e = Constant<value_ints=[2, 3]>() z = Constant<value=float[3] {4, 5, 6}>()
        f = Add(x, a) g = Mul(f, b) h = Add(g, c) i = Cast<to=1>(d) j = Sub(h, i) y = Reshape(j, e) last = Identity(b) }"""
    )
    model = load(proto)
    assert [n.op for n in model.nodes].count("Constant") == 1  # the one that is itself an output
    check_round_trip(proto, X)


def test_a_constant_node_behind_its_reader():
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { y = Add(x, w) w = Constant<value=float[3] {1, 2, 3}>() }")
    model = load(proto)
    np.testing.assert_allclose(run(model.to_proto(), X)[0], X["x"] + [1, 2, 3], rtol=1e-6)


def test_unsorted_nodes():
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { y = Relu(b) b = Neg(a) a = Exp(x) }")
    assert [n.op for n in load(proto).nodes] == ["Exp", "Neg", "Relu"]
    np.testing.assert_array_equal(run(load(proto).to_proto(), X)[0], np.zeros((2, 3)))


def test_shared_and_unused_initialisers():
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { a = Add(x, w) y = Mul(a, w) }", w=W, unused=W)
    model = load(proto)
    assert list(model.constants()) == ["w"]
    model.set_weight(model.nodes[0], 1, W + 1)
    np.testing.assert_allclose(run(model.to_proto(), X)[0], (X["x"] + W + 1) * W)
    check_round_trip(proto, X)


def test_outputs_that_are_inputs_or_weights():
    proto = parse("(float[2, 3] x) => (float[2, 3] x, float[3] w, float[2, 3] y) { y = Add(x, w) }", w=W)
    check_round_trip(proto, X)
    proto = parse("(float[2, 3] x) => (float[2, 3] x) { }")
    check_round_trip(proto, runs=False)


def test_sparse_initialisers():
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { a = Add(x, s) y = Add(a, t) }")
    for name, dims, at in (("s", (3,), [0, 2]), ("t", (2, 3), [[0, 1], [1, 2]])):
        values = numpy_helper.from_array(np.array([5, 7], np.float32), name)
        proto.graph.sparse_initializer.append(
            onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.array(at), "i"), dims=dims)
        )
    model = load(proto)
    np.testing.assert_array_equal(model.constants()["s"].values, [5, 0, 7])
    np.testing.assert_array_equal(model.constants()["t"].values, [[0, 5, 0], [0, 0, 7]])
    check_round_trip(proto, X, runs=False)
    np.testing.assert_allclose(run(model.to_proto(), X)[0], X["x"] + [[5, 5, 7], [5, 0, 14]])


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "float64",
        "int8",
        "uint16",
        "int32",
        "bool",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int4",
        "uint4",
        "complex64",
    ],
)
def test_element_types(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    values = np.array([[0, 1, 3], [2, 1, 0], [5, 4, 7]]).astype(kind)[:, :3]
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { y = Relu(x) z = Identity(w) }", opset=21, ir=10)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    proto.graph.output.append(helper.make_tensor_value_info("z", helper.np_dtype_to_tensor_dtype(kind), (3, 3)))
    model = load(proto)
    again = load(model.to_proto()).constants()["w"].values
    assert again.dtype == kind and again.tobytes() == values.tobytes()
    assert not again.flags.writeable
    verify(model)


@pytest.mark.parametrize("field, kind, values", [
    ("float_data", TensorProto.FLOAT, [1.5, 2, 3]), ("int32_data", TensorProto.INT8, [-1, 2, 3]), ("int64_data", TensorProto.INT64, [1, 2, 3]),
    ("double_data", TensorProto.DOUBLE, [1, 2, 3]), ("uint64_data", TensorProto.UINT32, [1, 2, 3]), ("int32_data", TensorProto.FLOAT16, [15360, 0, 0]),
    ("int32_data", TensorProto.BFLOAT16, [16256, 0, 0]), ("string_data", TensorProto.STRING, [b"a", b"", b"\xff"]),
])  # fmt: skip
def test_typed_fields(field, kind, values):
    t = TensorProto(name="w", dims=[3], data_type=kind)
    getattr(t, field).extend(values)
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { y = Relu(x) z = Identity(w) }")
    proto.graph.initializer.append(t)
    proto.graph.output.append(helper.make_tensor_value_info("z", kind, (3,)))
    model = load(proto)
    want = list(t.string_data) if kind == TensorProto.STRING else numpy_helper.to_array(t)
    np.testing.assert_array_equal(load(model.to_proto()).constants()["w"].values, want)
    verify(model)


def test_empty_optional_inputs_and_outputs():
    proto = parse(
        '(float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { a = Clip(x, "", w) y = Clip(a, "", "") z, "" = Dropout(a) }',
        w=np.float32(0.5),
    )
    model = load(proto)
    assert len(model.to_proto().graph.node[1].input) == 1  # trailing ones go
    check_round_trip(proto, X)


def test_node_names():
    proto = parse("(float[2, 3] x) => (float[2, 3] y) { a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c) }")
    for n, name in zip(proto.graph.node, ["same", "same", "", ""], strict=True):
        n.name = name
    names = [n.name for n in load(proto).nodes]
    assert len(set(names)) == 4 and all(names) and names[0] == "same"
    written = check_round_trip(proto, runs=False)  # ORT refuses the original
    np.testing.assert_array_equal(run(written, X)[0], np.maximum(X["x"], 0))


def test_foreign_operators_are_kept_and_frozen():
    proto = parse(
        "(float[2, 3] x) => (float[2, 3] y) { a = Add(x, w) b = org.example.Conv<alpha=1.0>(a) y = Relu(b) }",
        imports=', "org.example": 1',
        w=W,
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, (2, 3)))
    model = load(proto)
    analysis = verify(model).analysis
    # the domain is part of the name: a Conv of another domain is not ours
    assert analysis.shape("b") == (2, 3) and not analysis.facts[model.nodes[1].name].known
    written = model.to_proto()
    assert load(written).to_proto() == written
    kept, given = written.graph.node[1], proto.graph.node[1]
    assert (kept.domain, kept.op_type, list(kept.attribute)) == ("org.example", "Conv", list(given.attribute))
    assert [v.name for v in written.graph.value_info] == ["b"]


def test_model_local_functions():
    proto = parse(
        "(float[2, 3] x) => (float[2, 3] y) { a = local.twice<k=2.0>(x) y = local.twice(a) }",
        imports=', "local": 1',
        functions='<domain: "local", opset_import: ["": 17]> twice <k: float = 3.0> (p) => (q) { c = Constant<value_float: float = @k>() q = Mul(p, c) }',
    )
    model = load(proto)
    assert model.function(model.nodes[0]).name == "twice"
    analysis = verify(model).analysis
    assert analysis.shape("y") == (2, 3)
    check_round_trip(proto, X)


def test_overloaded_functions_are_refused():
    proto = parse(
        "(float[2, 3] x) => (float[2, 3] y) { y = local.f(x) }", imports=', "local": 1', ir=10,
        functions='<domain: "local", opset_import: ["": 17]> f (p) => (q) { q = Relu(p) }',
    )  # fmt: skip
    proto.functions[0].overload = proto.graph.node[0].overload = "b"
    with pytest.raises(BadModel, match="overload"):
        load(proto)


# bodies

IF = """(float[2, 3] x, bool c) => (float[2, 3] y) { a = Add(x, w)
 b = If (c) <then_branch = t () => (float[2, 3] p) { r = Mul(a, w) p = Relu(r) }, else_branch = e () => (float[2, 3] q) { q = Neg(a) }> y = Identity(b) }"""
LOOP = """(float[2, 3] x) => (float[2, 3] y) { a = Add(x, w) n = Constant<value_int=3>() go = Constant<value = bool {1}>()
 y = Loop (n, go, x) <body = l (int64 i, bool cond, float[2, 3] s) => (bool more, float[2, 3] o) { more = Identity(cond) m = Mul(s, w) o = Add(m, a) }> }"""
SCAN = """(float[2, 3] x) => (float[3] y, float[2, 3] z) { a = Relu(w)
 y, z = Scan <num_scan_inputs = 1, body = l (float[3] s, float[3] r) => (float[3] o, float[3] p) { o = Add(s, r) p = Mul(o, a) }> (w, x) }"""
NESTED = """(float[2, 3] x, bool c) => (float[2, 3] y) { a = Add(x, w)
 y = If (c) <then_branch = t () => (float[2, 3] p) { p = If (c) <then_branch = t2 () => (float[2, 3] p2) { p2 = Mul(a, w) }, else_branch = e2 () => (float[2, 3] q2) { q2 = Sub(a, w) }> },
 else_branch = e () => (float[2, 3] q) { q = Identity(a) }> }"""
BODIES = {"if": IF, "loop": LOOP, "scan": SCAN, "nested": NESTED}


def body_feeds(proto):
    values = {**X, "c": np.array(True)}
    return {i.name: values[i.name] for i in proto.graph.input}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name):
    proto = parse(BODIES[name], w=W)
    check_round_trip(proto, body_feeds(proto))
    analysis = verify(load(proto)).analysis
    assert [a for a in free_atoms(analysis) if a.size != 3] == []


@pytest.mark.parametrize("name", BODIES)
def test_captured_tensors_may_be_renamed_and_replaced(name):
    proto = parse(BODIES[name], w=W)
    want = run(proto, body_feeds(proto))
    model = load(proto)
    for t in list(model.tensors().values()):
        if t.name in ("a", "w"):
            t.name = model.fresh(f"renamed_{t.name}")
    for a, b in zip(want, run(model.to_proto(), body_feeds(proto)), strict=True):
        np.testing.assert_array_equal(a, b)
    model = load(proto)  # a reader's operand replaced by a fresh copy
    weight = model.constants()["w"]
    model.replace_uses(weight, model.constant("copy", weight.values.copy()))
    assert "w" not in {t.name for t in model.to_proto().graph.initializer}
    for a, b in zip(want, run(model.to_proto(), body_feeds(proto)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.drop_dead() == 0


def test_a_body_keeps_what_it_captures_alive():
    model = load(parse(IF, w=W))
    model.drop_dead()
    assert [n.op for n in model.nodes] == ["Add", "If", "Identity"]


# sources and files


def test_sources():
    proto = build(3, 3, 17)
    want = dump(load(proto))
    assert dump(load(proto.SerializeToString())) == want
    assert dump(load(bytearray(proto.SerializeToString()))) == want
    assert dump(load(load(proto))) == want
    graph = gs.import_onnx(proto)
    before = len(graph.nodes)
    for a, b in zip(run(load(graph).to_proto(), feeds(proto)), run(proto, feeds(proto)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert len(graph.nodes) == before
    with pytest.raises(BadModel):
        load(gs.Graph([gs.Node("Relu", inputs=[gs.Variable("a")], outputs=[gs.Variable("b")])], [], []))


def test_loading_changes_nothing_of_its_source():
    proto = build(5, 4, 17)
    before = copy.deepcopy(proto)
    model = load(proto)
    model.nodes[0].attrs["group"] = 7
    model.inputs[0].name = "renamed"
    assert proto == before


def test_light_models_round_trip(light_path):
    model = load(light_path)
    written = model.to_proto(weights=False)
    assert dump(load(model.to_proto())) == dump(model)
    assert load(model).to_proto(weights=False) == written


def test_trained_models_round_trip(trained_path, tmp_path):
    model = load(trained_path)
    model.save(tmp_path / "a.onnx")
    load(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    x = {model.inputs[0].name: np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)}
    for a, b in zip(run(onnx.load(trained_path), x), run(onnx.load(tmp_path / "a.onnx"), x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metadata_is_kept(tmp_path):
    proto = build(1, 2, 17)
    proto.producer_name, proto.doc_string, proto.domain, proto.model_version = "maker", "what it is", "org", 7
    proto.metadata_props.add(key="labels", value="cat,dog")
    load(proto).save(tmp_path / "m.onnx")
    got = onnx.load(tmp_path / "m.onnx")
    assert (got.producer_name, got.doc_string, got.domain, got.model_version) == ("maker", "what it is", "org", 7)
    assert got.metadata_props[0].value == "cat,dog"


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = load(build(1, 2, 17)), tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OnnxcError, match="no space left"):
        model.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    monkeypatch.setattr(writing, "fill", full)
    monkeypatch.setattr(writing, "PROTO_LIMIT", 10)
    with pytest.raises(OnnxcError):
        model.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(OnnxcError, match="cannot write"):
        model.save(tmp_path / "nowhere" / "m.onnx")


def test_large_models_use_external_data(tmp_path, monkeypatch):
    proto = parse("(float[2, 600] x) => (float[2, 600] y) { a = Add(x, w) b = Mul(a, v) y = Add(b, s) }",
                  w=np.arange(600, dtype=np.float32), v=np.ones(600, np.float32) * 2, s=np.float32(1))  # fmt: skip
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    load(proto).save(tmp_path / "m.onnx")
    model, data = sorted(p.name for p in tmp_path.iterdir())
    assert model == "m.onnx" and re.fullmatch(r"m\.onnx\.[0-9a-f]{32}\.data", data)
    x = {"x": np.ones((2, 600), np.float32)}
    import onnxruntime as ort

    got = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run(None, x)
    np.testing.assert_array_equal(got[0], run(proto, x)[0])
    again = load(tmp_path / "m.onnx")
    again.save(tmp_path / "m.onnx")  # over the files that its weights are mapped from
    np.testing.assert_array_equal(load(tmp_path / "m.onnx").constants()["w"].values, np.arange(600))
    monkeypatch.undo()
    again.save(tmp_path / "small.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", data, "small.onnx"]


@pytest.mark.slow
def test_beyond_two_gibibytes(tmp_path):
    """A sparse file of zeros holds the weights; they are mapped, never read whole."""
    rows = 280_000_000
    path = tmp_path / "m.onnx"
    with open(tmp_path / "w.bin", "wb") as f:
        f.truncate(2 * rows * 4)
    weights = []
    for i in range(2):
        t = TensorProto(
            name=f"w{i}", dims=[rows // 1000, 1000], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
        )
        for k, v in (("location", "w.bin"), ("offset", i * rows * 4), ("length", rows * 4)):
            t.external_data.add(key=k, value=str(v))
        weights.append(t)
    proto = parse(
        "(float[1] x) => (float[2, 1000] y) { a = Gather(w0, i) b = Gather(w1, i) y = Concat<axis=0>(a, b) }",
        i=np.array([7]),
    )
    proto.graph.initializer.extend(weights)
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    assert verify(model).analysis.shape("y") == (2, 1000)
    assert len(model.to_proto(weights=False).SerializeToString()) < 10_000
    assert sum(t.values.nbytes for t in model.constants().values()) > 2**31
    model.copy().save(tmp_path / "out.onnx")
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size >= 2 * rows * 4
    again = load(tmp_path / "out.onnx")
    assert again.constants()["w1"].values[-1, -1] == 0
    for p in tmp_path.iterdir():
        p.unlink()


def test_two_tensors_of_one_name_fail_verification():
    model = load(build(1, 2, 17))
    names = list(model.constants())
    model.constants()[names[0]].name = names[1]
    with pytest.raises(VerificationError, match="share a name"):
        verify(model)


def test_nodes_without_name_and_first_output_are_named_apart():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3,1,2] x, float[1,12,2] w, float[1,12,4] r) => (float[1,1,4] h, float[1,1,4] k) {
          , h = GRU <hidden_size = 4> (x, w, r)
          , k = GRU <hidden_size = 4> (x, w, r)
        }""")
    names = [node.name for node in load(model).nodes]
    assert len(set(names)) == 2 and all(names)


@pytest.mark.parametrize("text", ["GroupNormalization <num_groups = 2> (x, s, s)", "MeanVarianceNormalization (x)"])
def test_what_only_the_checks_of_onnx_refuse_is_sound(text):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[1,4,3,3] x, float[2] s) => (float[1,4,3,3] y) {{ y = {text} }}""")
    assert verify(load(model)).analysis.shape("y") == (1, 4, 3, 3)
