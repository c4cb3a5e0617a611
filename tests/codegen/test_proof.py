"""No wrong library is written: spoilt on purpose it is refused, and the node is named; right ones pass."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen import compile_model, kernels, library, program, proof, widened
from onnxc.codegen.agreement import Reference, make_feeds, relative
from onnxc.codegen.c import body, source
from onnxc.codegen.kernels import legal
from onnxc.codegen.quiet import quiet
from onnxc.ir.errors import BadData, BadOption, Unsupported, VerificationError
from onnxc.runtime.apart import run_apart

from .test_bits import layers
from .test_int8 import Layer, qdq
from .test_targets import ready


@pytest.fixture(scope="module")
def chain() -> onnx.ModelProto:
    """Two branches of elementwise operators around a convolution, and a branch of integers."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[N,3,6,6] x) => (float[N,4,6,6] y, int64[N,1,6,6] k) {
        a = Relu(x) b = Conv<pads=[1,1,1,1]>(a, w) c = Tanh(b) d = Exp(a) e = ReduceMean<axes=[1]>(d)
        f = Mul(c, e) g1 = Add(f, b) k = ArgMax<axis=1>(b) y = Sigmoid(g1) }""")
    for node in model.graph.node:
        node.name = f"{node.op_type} {node.output[0]}"
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype("f")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


def spoil(monkeypatch, wrong: str, right: str) -> None:
    """The compiler takes every operator `right` for `wrong` from now on."""
    before = library._statics

    def statics(source, shapes):
        copy = onnx.ModelProto()
        copy.CopyFrom(source.proto)
        for node in copy.graph.node:
            node.op_type = wrong if node.op_type == right else node.op_type
        return before(source.part(copy), shapes)

    monkeypatch.setattr(library, "_statics", statics)


SLOW_PAIRS = [("Exp", "Softplus"), ("Sigmoid", "Tanh"), ("ArgMax", "ArgMin")]


@pytest.mark.parametrize(
    "right, wrong", [("Tanh", "Softsign"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_PAIRS)]
)
def test_a_wrong_operator_is_named_and_nothing_written(chain, tmp_path, monkeypatch, right, wrong):
    spoil(monkeypatch, wrong, right)
    node = next(node.name for node in chain.graph.node if node.op_type == right)
    with pytest.raises(VerificationError, match="differs from ONNX Runtime, nothing was written") as caught:
        compile_model(chain, tmp_path / "out", name="net")
    assert caught.value.node == node
    assert list(tmp_path.iterdir()) == []
    compile_model(chain, tmp_path / "out", name="net", check="shapes")


@pytest.mark.parametrize(
    "line, said",
    [
        ("*(volatile int *)0 = 1;", "ends its process by SIGSEGV"),
        ("((char *)outputs[0])[4 * 4 * 36 + 8] = 1;", "writes past an output"),
        ("*(volatile int *)outputs[0] = 0x7fc00000;", "NaN or an infinity at another place"),
    ],
)  # fmt: skip
def test_faults_of_memory_are_found(chain, tmp_path, monkeypatch, line, said):
    monkeypatch.setattr(source, "PROGRAM", body.PROGRAM.replace("  return @flags@", f"  {line}\n  return @flags@"))
    monkeypatch.setattr(proof, "_first_node", lambda *_: (None, ""))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("")
    with pytest.raises(VerificationError, match=said):
        compile_model(chain, tmp_path / "out", name="net")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_a_right_library_is_proven_for_every_shape(chain, tmp_path):
    report = compile_model(chain, tmp_path / "out", name="net", shapes=[{"x": (1, 3, 6, 6)}, {"x": (2, 3, 6, 6)}])
    assert report.proof["samples"] == 2 and report.proof["synthetic"]
    assert 0 < report.proof["error"] < 1e-5 and report.proof["where"] == "this machine"


def test_data_are_taken_and_checked(chain, tmp_path):
    data = {"x": np.ones((3, 3, 6, 6), "f")}
    report = compile_model(chain, tmp_path / "out", name="net", shapes={"x": (2, 3, 6, 6)}, data=data)
    assert not report.proof["synthetic"]
    with pytest.raises(BadData):
        compile_model(chain, tmp_path / "none", name="net", data={"z": np.ones((1, 3), "f")})
    with pytest.raises(BadOption, match="no such check"):
        compile_model(chain, tmp_path / "none", name="net", check="none")
    assert not (tmp_path / "none").exists()


def test_another_machine_is_emulated_or_stood_for(chain, tmp_path, monkeypatch):
    ready("aarch64")
    report = compile_model(chain, tmp_path / "out", name="net", target="aarch64")
    assert report.proof["where"] == "aarch64 in qemu-aarch64-static"
    monkeypatch.setattr(proof, "EMULATED_MACS", 0)
    report = compile_model(chain, tmp_path / "out", name="net", target="aarch64")
    assert report.proof["where"] == "this machine, by the same lowering"


def test_a_model_that_cannot_be_run_is_said_so(tmp_path):
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[2] x, int64[2] i) => (float[2] y) { y = GatherElements(x, i) }""")
    data = {"x": np.ones((1, 2), "f"), "i": np.array([[0, 7]])}
    with pytest.raises(Unsupported, match=r"cannot be compared.*--check shapes"):
        compile_model(model, tmp_path / "out", name="net", data=data)


def quantised(scale: float) -> onnx.ModelProto:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[1,8] x) => (float[1,8] y, uint8[1,8] q) {
        q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) y = Relu(r) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), "s"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(100), "z"))
    return model


def test_what_may_differ():
    model = quantised(0.05)
    feeds = make_feeds(model, [[("x", (1, 8), "float32")]], None)
    reference = Reference(model, feeds)
    wanted = reference.outputs[0]
    step = {"y": wanted["y"] + np.float32([0.05, *[0] * 7]), "q": wanted["q"] + np.uint8([1, *[0] * 7])}
    assert all(one.excess <= 1 for one in reference.judge(0, step))
    assert {one.tensor: (one.steps, one.differing) for one in reference.judge(0, step)}["q"] == (1, 1 / 8)
    two = {"y": wanted["y"] + np.float32([0.11, *[0] * 7]), "q": wanted["q"] + np.uint8([2, *[0] * 7])}
    assert all(one.excess > 1 for one in reference.judge(0, two))
    other = {"y": wanted["y"].astype("d"), "q": wanted["q"][0]}
    assert all(one.excess == np.inf for one in reference.judge(0, other))


def test_relative_errors():
    a = np.float32([1, np.nan, np.inf, -2])
    assert relative(a, a)[0] == 0
    assert relative(a + np.float32([0, 0, 0, 0.5]), a)[0] == pytest.approx(0.25)
    for b in ([1, 0, np.inf, -2], [1, np.nan, -np.inf, -2], [np.nan, np.nan, np.inf, -2]):
        assert relative(np.float32(b), a)[0] == np.inf
    assert relative(np.float32([]), np.float32([]))[0] == 0


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = f"{node.op_type} {node.output[0]}"
    return model


def few_bits() -> onnx.ModelProto:
    """A float layer, a depthwise one, and one of binary weights and activations that is large enough to be counted."""
    text = """g (float[1,64,18,18] x) => (float[1,70,18,18] y) {
      a = Conv<pads=[1,1,1,1]>(x, w0) b = Conv<pads=[1,1,1,1], group=64>(a, w1) c = ai.onnxc.Binarize(b)
      y = Conv<pads=[1,1,1,1]>(c, w2) }"""
    rng = np.random.default_rng(5)
    real = {"w0": (64, 64, 3, 3), "w1": (64, 1, 3, 3)}
    weights = {name: rng.standard_normal(shape).astype("f") / 8 for name, shape in real.items()}
    return named(layers(text, ("Binarize",), **weights, w2=rng.choice(np.float32([-1, 1]), (70, 64, 3, 3))))


def eight_bits() -> onnx.ModelProto:
    """Two convolutions between quantisers, the second depthwise."""
    return named(qdq({"a": Layer((1, 12, 9, 9), 20), "b": Layer((1, 12, 9, 9), 12, groups=12)})[0])


@pytest.mark.slow
@pytest.mark.parametrize("make", [few_bits, eight_bits])
def test_spoilt_weights_are_found_in_every_family(make, tmp_path, monkeypatch):
    """Packed weights of one family at a time stand one place further: a kernel of it is named."""
    model, right = make(), kernels.FAMILIES
    report = compile_model(model, tmp_path / "right", name="net")
    rows = {row["kernel"]: row["node"].split()[1][0] for row in report.kernels}
    assert len(rows) == len(report.kernels) >= 2
    for name, layer in rows.items():
        spoilt = (
            replace(f, pack=lambda *given, f=f: np.roll(f.pack(*given), 1)) if name.startswith(f.name) else f
            for f in right
        )
        monkeypatch.setattr(kernels, "FAMILIES", tuple(spoilt))
        with pytest.raises(VerificationError) as caught:
            compile_model(model, tmp_path / "out", name="net")
        assert caught.value.node.split()[1][0] == layer, name
        assert not (tmp_path / "out").exists()


def test_every_instruction_set_is_run(chain, tmp_path, monkeypatch):
    """A library for several runs the kernels for each that this machine has, not only those that init would pick."""
    for name in ("x86-64-v2", "x86-64-v3"):
        ready(name)
    ran = []
    monkeypatch.setattr(proof, "run_apart", lambda *given: ran.append(given[2:]) or run_apart(*given))
    report = compile_model(chain, tmp_path / "out", name="net", target="x86-64-v2/x86-64-v3/icelake")
    assert ran[:2] == [(0,), (1,)]
    assert ("icelake" in report.proof["where"]) == (len(ran) == 2)
    before = program.lower_program

    def spoiled(static, target, *rest):
        made = before(static, target, *rest)
        if target.name == "x86-64-v2":
            made.plan.calls.pop()
        return made

    monkeypatch.setattr(program, "lower_program", spoiled)
    with pytest.raises(VerificationError):
        compile_model(chain, tmp_path / "wrong", name="net", target="x86-64-v2/x86-64-v3")


def test_the_search_for_a_node_ends(chain, tmp_path, monkeypatch):
    spoil(monkeypatch, "Softsign", "Tanh")
    monkeypatch.setattr(proof, "SEARCH_SECONDS", -1)
    with pytest.raises(VerificationError, match=r"first at this node or one of the \d+ before it"):
        compile_model(chain, tmp_path / "out", name="net")


def test_what_tvm_raises_is_tied_to_a_node_and_its_warnings_are_held_back(chain, tmp_path, monkeypatch, capfd):
    before = legal.rules

    def stumbling(builder, call):
        raise RuntimeError("it cannot be\nhelped")

    monkeypatch.setattr(legal, "rules", lambda target: before(target) | {"relax.tanh": stumbling})
    with pytest.raises(Unsupported, match="node Tanh c: TVM cannot compile it: it cannot be"):
        compile_model(chain, tmp_path / "out", name="net")
    assert not (tmp_path / "out").exists()
    assert "Warning" not in capfd.readouterr().err


def test_what_is_not_a_warning_of_tvm_is_seen(capfd):
    with quiet():
        os.write(2, b"[05:26:47] /project/src/relax/ir/block_builder.cc:67: Warning: of its own\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"


def test_half_precision_is_compared_with_what_it_rounds(tmp_path):
    """A chain that amplifies roundings of float16 is compared with the same chain in float32."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float16[1,64] x) => (float16[1,64] y) { a = MatMul(x, w) b = Mul(a, x) c = MatMul(b, w) y = Sub(c, a) }""")
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype("float16")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    feeds = make_feeds(model, [[("x", (1, 64), "float16")]], None)
    reference = Reference(model, feeds)
    wide = widened.outputs(model, feeds[0])
    assert wide["y"].dtype == np.float16
    assert all(one.excess <= 1 for one in reference.judge(0, wide))
    assert any(one.excess > 1 for one in reference.judge(0, {"y": wide["y"] * np.float16(1.05)}))
    assert reference.tolerance == 4 * 2.0**-11


def test_more_than_roundings_has_to_be_what_the_network_amplifies():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[1,64] x) => (float[1,64] y) { y = Tanh(x) }""")
    reference = Reference(model, make_feeds(model, [[("x", (1, 64), "float32")]], None))
    right = reference.outputs[0]["y"]
    for factor, good in ((5e-6, True), (5e-5, False)):
        assert (reference.judge(0, {"y": right * np.float32(1 + factor)})[0].excess <= 1) is good


NARROW = """<ir_version: 11, opset_import: ["": 25]>
  g (bfloat16[N,8] b, float8e4m3fn[N,8] f, int4[N,8] i, uint2[N,8] u)
    => (bfloat16[N,8] p, float8e4m3fn[N,8] q, int4[N,8] r, uint2[N,8] s) {
    b1 = Cast<to=1>(b) b2 = Tanh(b1) p = Cast<to=16>(b2) f1 = Cast<to=1>(f) f2 = Mul(f1, b2) q = Cast<to=17>(f2)
    i1 = Cast<to=6>(i) i2 = Neg(i1) r = Cast<to=22>(i2) u1 = Cast<to=2>(u) s = Cast<to=25>(u1) }"""


def test_numbers_of_few_bits_are_compared_as_they_are(tmp_path):
    """Inputs and outputs of types that ONNX Runtime does not exchange with NumPy; other codes than its own are found."""
    model = parser.parse_model(NARROW)
    report = compile_model(model, tmp_path / "out", name="net")
    assert report.proof["samples"] == 1
    kinds = {"b": "bfloat16", "f": "float8_e4m3fn", "i": "int4", "u": "uint2"}
    reference = Reference(model, make_feeds(model, [[(name, (1, 8), kind) for name, kind in kinds.items()]], None))
    wanted = reference.outputs[0]
    assert [array.dtype.name for array in wanted.values()] == list(kinds.values())

    def excess(name: str, change: int) -> float:
        """With the code of the largest number changed."""
        spoilt = wanted[name].copy()
        at = int(np.abs(spoilt.astype("f")).argmax())
        codes = spoilt.view(f"i{spoilt.dtype.itemsize}").reshape(-1)
        codes[at] = codes[at] ^ change
        return {one.tensor: one.excess for one in reference.judge(0, wanted | {name: spoilt})}[name]

    assert excess("q", 1) <= 1 < excess("q", 4)
    assert (
        excess("q", int(wanted["q"].view("u1").reshape(-1)[np.abs(wanted["q"].astype("f")).argmax()]) ^ 0x7F) == np.inf
    )
    assert excess("p", 1) <= 1 < excess("p", 0x10)
    assert excess("r", 1) <= 1 < excess("r", 2)


def test_what_the_reference_approximates_is_no_fault_of_the_library(tmp_path):
    """ONNX Runtime's Sigmoid is off by half a per cent where it is 6e-6."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,8] x) => (float[1,8] y) { a = Mul(x, b) c = Sub(a, d) y = Sigmoid(c) }"""
    proto = onnx.parser.parse_model(text)
    weights = {"b": np.full(8, 0.1, np.float32), "d": np.float32(12)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    report = compile_model(proto, tmp_path / "library", name="net")
    assert 1e-4 < report.proof["error"] < 0.02


def test_inputs_whose_roundings_decide_tell_nothing():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[1,64] x) => (float[1,64] y) <float far = {1e7}> { a = Mul(x, far) y = Sin(a) }""")
    reference = Reference(model, make_feeds(model, [[("x", (1, 64), "float32")]], None))
    (one,) = reference.judge(0, {"y": reference.outputs[0]["y"][:, ::-1]})
    assert one.senseless and one.drift > 0.1
    (one,) = reference.judge(0, dict(reference.outputs[0]))
    assert not one.senseless


@pytest.mark.parametrize("where, kept", [("if (((const float *)inputs[0])[0] == %sf) ", True), ("", False)])
def test_where_roundings_decide_other_inputs_have_to_agree(chain, tmp_path, monkeypatch, where, kept):
    """A library is wrong on the first drawn input, or on all, and nothing is told by the first."""
    from onnxc.codegen import agreement

    first = float(make_feeds(chain, [[("x", (1, 3, 6, 6), "float32")]], None)[0]["x"].reshape(-1)[0]).hex()
    line = (where % first if where else "") + "((float *)outputs[0])[0] = 9.0f;"
    monkeypatch.setattr(source, "PROGRAM", body.PROGRAM.replace("  return @flags@", f"  {line}\n  return @flags@"))
    monkeypatch.setattr(agreement, "MOST_DRIFT", -1.0)
    if kept:
        found = compile_model(chain, tmp_path / "out", name="net").proof
        assert (found["samples"], found["aside"]) == (agreement.OTHERS, 1)
        return
    with pytest.raises(VerificationError, match="own result hangs on a rounding"):
        compile_model(chain, tmp_path / "out", name="net")
    assert not (tmp_path / "out").exists()
