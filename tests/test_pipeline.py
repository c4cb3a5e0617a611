"""The manager: requirements, claims, roll-back, reports; and other people's passes through entry points."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxc
from onnxc.ir.errors import (
    BadData,
    BadModel,
    BadOption,
    ClaimError,
    DimensionError,
    InferenceObjects,
    VerificationError,
)
from onnxc.ir.text import dump
from onnxc.passes import base, registry
from onnxc.passes.base import Claim, Pass, Report, register
from onnxc.pipeline import Pipeline, with_requirements
from onnxc.runtime.feeding import Wishes
from onnxc.trial import _hold

ROOT = Path(onnxc.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    registry.available()
    monkeypatch.setattr(base, "PASSES", dict(base.PASSES))
    monkeypatch.setattr(base, "ALIASES", dict(base.ALIASES))


def network() -> onnx.ModelProto:
    """y = softmax(relu(x W) V), three classes."""
    rng = np.random.default_rng(0)
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y)'
        "{ h = MatMul(x, w) r = Relu(h) l = MatMul(r, v) y = Softmax(l) }"
    )
    for name, shape in (("w", (4, 6)), ("v", (6, 3))):
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return proto


def scaling(name: str, factor: float, claim: Claim, **facts) -> type[Pass]:
    """A pass that scales the last matrix."""

    class Scale(Pass):
        """Scale the last matrix."""

        def run(self, model, ctx) -> Report:
            report = Report()
            node = [n for n in model.nodes if n.op == "MatMul"][-1]
            with np.errstate(all="ignore"):
                model.set_weight(node, 1, node.inputs[1].values * np.float32(factor))
            report.edit(node.name, "scaled")
            return report

    Scale.claim = claim
    for key, value in facts.items():
        setattr(Scale, key, value)
    return register(name)(Scale)


def idle(name: str, leaves: str = "", **facts) -> type[Pass]:
    """A pass that does nothing, and may say of a node why."""

    class Idle(Pass):
        """Do nothing."""

        claim = Claim.EXACT

        def run(self, model, ctx) -> Report:
            report = Report()
            if leaves:
                report.refuse(leaves, "it does not pay")
            return report

    for key, value in facts.items():
        setattr(Idle, key, value)
    return register(name)(Idle)


def names(passes) -> list[str]:
    return [p.name for p in passes]


# requirements


def test_what_a_pass_requires_runs_before_it_once():
    idle("t.a"), idle("t.b", requires=("t.a",)), idle("t.c", requires=("t.b", "t.a"))
    assert names(Pipeline("t.c, t.b").passes) == ["t.a", "t.b", "t.c", "t.b"]
    assert names(Pipeline("t.a, t.c").passes) == ["t.a", "t.b", "t.c"]
    assert names(Pipeline("t.a").passes) == ["t.a"]


def test_passes_that_require_each_other_are_refused():
    idle("t.a", requires=("t.b",)), idle("t.b", requires=("t.a",))
    with pytest.raises(BadOption, match="require each other"):
        with_requirements([registry.make("t.a")])


def test_an_inserted_pass_has_a_row_of_its_own():
    idle("t.a"), idle("t.b", requires=("t.a",))
    report = onnxc.run_passes(network(), "t.b").report
    assert [row.name for row in report.rows] == ["t.a", "t.b"]


# claims


@pytest.mark.parametrize(
    "claim, factor, holds",
    [
        (Claim.EXACT, 1, True),
        (Claim.EXACT, 1.001, False),
        (Claim.TOLERANCE(0, 1e-2), 1.001, True),
        (Claim.TOLERANCE(0, 1e-6), 1.001, False),
        (Claim.TOLERANCE(1e-2, 0), 1.001, True),
        (Claim.LOSSY, -3, True),
        (Claim.LOSSY, float("nan"), False),
        (Claim.LOSSY, float("inf"), False),
        (Claim.TOLERANCE(0, 1e9), float("nan"), False),
    ],
)
def test_a_claim_is_tested_on_data(claim, factor, holds):
    scaling("t.scale", factor, claim)
    pipeline = Pipeline("t.scale", seed=1)
    if holds:
        row = pipeline.transform(network()).report.rows[0]
        assert row.edits and row.error["max_abs"] >= 0
        return
    with pytest.raises(ClaimError, match=r"^pass t\.scale, node \S+, y\[1\]: ") as error:
        pipeline.transform(network())
    assert error.value.exit_status == 1


def test_without_data_check_no_claim_is_tested():
    scaling("t.scale", 5, Claim.EXACT)
    report = onnxc.run_passes(network(), "t.scale", check="shapes").report
    assert report.rows[0].error == {} and (report.samples, report.data) == (0, "")


def test_each_claim_is_against_the_model_before_the_pass_and_errors_against_the_first():
    scaling("t.lossy", 2, Claim.LOSSY), idle("t.idle"), scaling("t.one", 1, Claim.EXACT)
    rows = onnxc.run_passes(network(), "t.lossy, t.idle, t.one").report.rows
    errors = [row.error["max_abs"] for row in rows]
    assert errors[0] > 0 and errors[0] == errors[1] == errors[2]


def test_integer_outputs_must_be_equal():
    proto = network()
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, ["N"]))
    scaling("t.flip", -1, Claim.TOLERANCE(1e9, 1e9))
    with pytest.raises(ClaimError, match=r"best\[0\].* expected a change of at most 0"):
        onnxc.run_passes(proto, "t.flip")


# transactions


def test_a_failed_pass_leaves_the_input_as_it_was():
    scaling("t.wrong", 2, Claim.EXACT)
    model = onnxc.load(network())
    before, arrays = dump(model), {k: t.values.copy() for k, t in model.constants().items()}
    with pytest.raises(ClaimError):
        onnxc.run_passes(model, "t.wrong")
    assert dump(model) == before
    assert all(np.array_equal(t.values, arrays[k]) for k, t in model.constants().items())


def test_the_input_model_is_never_changed():
    scaling("t.scale", 2, Claim.LOSSY)
    model = onnxc.load(network())
    before = dump(model)
    result = onnxc.run_passes(model, "t.scale")
    assert dump(model) == before != dump(result.model)


def test_nothing_changed_is_noticed_and_something_unreported_is_verified():
    scaling("t.secret", 2, Claim.EXACT)
    honest = base.PASSES["t.secret"].run

    class Secret(base.PASSES["t.secret"]):
        """Change, and report nothing."""

        claim = Claim.EXACT

        def run(self, model, ctx) -> Report:
            honest(self, model, ctx)
            return Report()

    register("t.silent")(Secret)
    with pytest.raises(ClaimError):
        onnxc.run_passes(network(), "t.silent")
    idle("t.idle")
    model = onnxc.load(network())
    result = onnxc.run_passes(model, "t.idle")
    assert dump(result.model) == dump(model)
    row = result.report.rows[0]
    assert row.before == row.after and row.error["max_abs"] == 0 and row.error["snr_db"] == float("inf")


@pytest.mark.parametrize(
    "breakage, error",
    [
        (lambda m: m.set_weight(m.nodes[0], 1, np.zeros((5, 6), np.float32)), DimensionError),
        (lambda m: m.graph.outputs.clear(), VerificationError),
        (lambda m: setattr(m.inputs[0], "name", "z"), VerificationError),
        (lambda m: setattr(m.inputs[0], "shape", ("N", 5)), (VerificationError, DimensionError)),
        (lambda m: setattr(m.nodes[1], "op", "NoSuchOperator"), VerificationError),
        (lambda m: setattr(m.nodes[1], "name", m.nodes[0].name), VerificationError),
        (lambda m: m.nodes[1].inputs.clear(), VerificationError),
    ],
)
@pytest.mark.parametrize("check", ["data", "shapes"])
def test_a_pass_cannot_leave_a_broken_model(breakage, error, check):
    @register("t.break")
    class Break(Pass):
        """Break the model."""

        def run(self, model, ctx) -> Report:
            report = Report()
            breakage(model)
            report.edit("x", "broken")
            return report

    with pytest.raises(error, match=r"^pass t\.break"):
        onnxc.run_passes(network(), "t.break", check=check)


def test_a_pass_that_returns_no_report_is_told():
    @register("t.none")
    class Nothing(Pass):
        """Return nothing."""

        def run(self, model, ctx):
            return None

    with pytest.raises(VerificationError, match=r"pass t\.none: a pass must return a Report, found NoneType"):
        onnxc.run_passes(network(), "t.none")


def test_a_bug_in_a_pass_bears_its_name_and_stays_what_it_is():
    @register("t.bug")
    class Bug(Pass):
        """Raise."""

        def run(self, model, ctx) -> Report:
            return {}["x"]

    with pytest.raises(KeyError) as error:
        onnxc.run_passes(network(), "t.bug")
    assert error.value.pass_name == "t.bug"


# data


def test_synthetic_data_are_noted_only_where_a_pass_looks_at_data():
    """And has found something to look at."""
    idle("t.blind"), idle("t.seeing", needs_data=True), idle("t.leaving", leaves="y", needs_data=True)
    rows = onnxc.run_passes(network(), "t.blind, t.seeing, t.leaving").report.rows
    nothing, stood_in = "found nothing to do of this: Do nothing", "no data given: seeded random inputs stood in"
    assert [row.notes for row in rows] == [[nothing], [nothing], [stood_in]]
    data = {"x": np.zeros((5, 4), np.float32)}
    report = onnxc.run_passes(network(), "t.seeing", data=data).report
    assert report.rows[0].notes == ["found nothing to do of this: Do nothing"] and report.samples == 5


def test_a_pass_sees_activations_and_seeded_numbers():
    seen = []

    @register("t.look")
    class Look(Pass):
        """Look at activations."""

        needs_data = True

        def run(self, model, ctx) -> Report:
            tensor = model.nodes[1].outputs[0].name
            seen.append((np.concatenate([b[tensor] for b in ctx.tensors(model, [tensor])]), ctx.rng().random()))
            return Report()

    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    for check in ("data", "shapes"):
        onnxc.run_passes(network(), "t.look", data={"x": x}, check=check, seed=7)
    w = onnx.numpy_helper.to_array(network().graph.initializer[0])
    for activations, number in seen:
        np.testing.assert_allclose(activations, np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)
        assert number == np.random.default_rng(7).random()


def test_labels_give_accuracies():
    scaling("t.flip", -1, Claim.LOSSY)
    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    w, v = (onnx.numpy_helper.to_array(t) for t in network().graph.initializer)
    logits = np.maximum(x @ w, 0) @ v
    report = onnxc.run_passes(network(), "t.flip", data={"x": x, "labels": logits.argmax(1)}).report
    assert report.accuracy == 1
    assert report.rows[0].error["accuracy"] == np.mean((-logits).argmax(1) == logits.argmax(1))


def test_bad_data_and_settings_are_refused():
    with pytest.raises(BadData, match=r"x\[1\]"):
        onnxc.run_passes(network(), "clean", data={"x": np.zeros((5, 3), np.float32)})
    with pytest.raises(BadOption, match="expected data or shapes"):
        onnxc.run_passes(network(), "clean", check="none")
    for seed in (-1, 1.5, None):
        with pytest.raises(BadOption, match="a seed does not fit"):
            onnxc.run_passes(network(), "clean", seed=seed)


def test_a_model_that_is_broken_as_given_is_bad_input():
    proto = network()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 6), np.float32), "w"))
    with pytest.raises(DimensionError) as error:
        onnxc.run_passes(proto, "clean")
    assert error.value.exit_status == 2 and error.value.pass_name is None


# reports


def test_a_report_is_ready_for_json():
    scaling("t.scale", 2, Claim.LOSSY), idle("t.idle")
    report = onnxc.run_passes(network(), "t.idle, t.scale").report
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["passes"][0]["error"]["snr_db"] is None  # infinite: nothing changed
    assert found["passes"][1]["error"]["snr_db"] == pytest.approx(report.rows[1].error["snr_db"])
    assert found["passes"][1]["edits"] and found["passes"][1]["seconds"] > 0
    assert found["passes"][1]["before"] == found["passes"][0]["after"]
    assert "t.scale" in str(report)


def test_steps_are_told_in_order():
    idle("t.a"), idle("t.b", requires=("t.a",))
    told = []
    onnxc.run_passes(network(), "t.b", progress=told.append)
    assert told == ["t.a", "t.b"]


# entry points


def install(folder: Path, name: str, points: dict[str, str], modules: dict[str, str]) -> None:
    """Put a package with these entry points and modules (file -> text) into `folder`, as pip leaves it."""
    for file, text in modules.items():
        (folder / file).write_text(text)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxc.passes]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))


def plugin(folder: Path, code: str) -> None:
    """A package of somebody else's that is installed in `folder`."""
    install(folder, "theirs", {"theirs": "their_passes"}, {"their_passes.py": code})


def run_with_plugin(folder: Path, *argv) -> subprocess.CompletedProcess:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
        "from onnxc.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_installed_package_brings_passes(tmp_path):
    plugin(
        tmp_path,
        "import onnxc\n@onnxc.register('theirs.nothing', alias='nothing')\nclass Nothing(onnxc.Pass):\n"
        "    'Leave everything as it is. size: of nothing.'\n    claim = onnxc.Claim.EXACT\n    size: int = 3\n"
        "    def run(self, model, ctx):\n        report = onnxc.Report()\n        report.note(f'size {self.size}')\n"
        "        return report\n",
    )
    onnx.save(network(), tmp_path / "net.onnx")
    listed = run_with_plugin(tmp_path, "passes", "--list")
    assert "theirs.nothing" in listed.stdout and "Leave everything as it is." in listed.stdout
    ended = run_with_plugin(tmp_path, "passes", tmp_path / "net.onnx", "-p", "nothing(size=5)")
    assert (ended.returncode, ended.stderr) == (0, "") and "theirs.nothing(size=5): size 5" in ended.stdout


def test_a_package_that_does_not_load_is_named(tmp_path):
    plugin(tmp_path, "import a_module_that_is_not_there\n")
    ended = run_with_plugin(tmp_path, "passes", "--list")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "the passes of theirs do not load: ModuleNotFoundError" in ended.stderr


def test_two_passes_of_one_name_are_refused():
    idle("t.twice")
    with pytest.raises(BadOption, match="two passes have this name"):
        scaling("t.twice", 1, Claim.EXACT)
    with pytest.raises(BadOption, match="only a subclass of Pass"):
        register("t.no")(object)


# lists within lists


def test_lists_nest():
    scaling("t.one", 1, Claim.EXACT), scaling("t.half", 0.5, Claim.LOSSY), idle("t.b", requires=("t.one",))
    inner = Pipeline(["t.half", Pipeline("t.one, t.half")])
    flat = onnxc.run_passes(network(), "t.one, t.half, t.one, t.half, t.b")
    nested = onnxc.run_passes(network(), ["t.one", inner, "t.b"])
    assert dump(nested.model) == dump(flat.model)
    rows = nested.report.rows
    assert [row.name for row in rows] == ["t.one", "[t.half, [t.one, t.half]]", "t.b"]  # what t.b needs has run
    assert rows[1].claim == Claim.LOSSY and len(rows[1].edits) == 3
    inside = [rows[0], rows[1].parts[0], *rows[1].parts[1].parts, rows[2]]
    assert [row.error for row in inside] == [row.error for row in flat.report.rows]
    assert [part["pass"] for part in nested.report.to_dict()["passes"][1]["parts"]] == ["t.half", "[t.one, t.half]"]
    assert "    t.half" in str(nested.report)


def test_a_list_claims_what_its_passes_do_together():
    scaling("t.x", 1, Claim.EXACT), scaling("t.y", 1.001, Claim.TOLERANCE(0, 2e-3))
    both = Pipeline("t.x, t.y, t.x")
    assert both.claim == Claim("tolerance", 0, pytest.approx(2e-3 + 2e-6)) and not both.needs_data
    assert Pipeline("t.x").claim.kind == "exact"
    assert onnxc.run_passes(network(), [both, "t.x"]).report.rows[0].error["max_abs"] > 0


def test_a_list_that_fails_inside_leaves_everything_as_it_was_and_names_the_pass():
    scaling("t.good", 2, Claim.LOSSY), scaling("t.wrong", 2, Claim.EXACT)
    model = onnxc.load(network())
    before = dump(model)
    for check in ("data", "shapes"):
        if check == "data":
            with pytest.raises(ClaimError, match=r"^pass t\.wrong"):
                onnxc.run_passes(model, [Pipeline("t.good, t.wrong")], check=check)
        else:
            onnxc.run_passes(model, [Pipeline("t.good, t.wrong")], check=check)
    assert dump(model) == before


def test_whose_pass_fails_its_claim_is_said():
    scaling("t.wrong", 2, Claim.EXACT)
    with pytest.raises(ClaimError, match="correct it there, or give it a claim that holds") as theirs:
        onnxc.run_passes(network(), "t.wrong")
    assert f"the pass comes from {__name__}" in str(theirs.value) and "report it" not in str(theirs.value)
    base.PASSES["t.wrong"].__module__ = "onnxc.passes.wrong"
    with pytest.raises(ClaimError, match="report it with the model; nothing was written"):
        onnxc.run_passes(network(), "t.wrong")


@pytest.mark.parametrize("name, code", [("bfloat16", 16), ("float8e5m2", 19), ("int4", 22)])
def test_claims_hold_for_outputs_of_few_bits(name, code):
    """Next to a tie such floats round to either side of what the claim allows, and no further."""
    model = onnx.parser.parse_model(f"""<ir_version: 11, opset_import: ["" : 25]>
    g ({name}[N,2] x) => ({name}[N,2] y) <float[2,2] w = {{1.0, 2.0, 0.0, 1.0}}, float[2] b = {{1.0, 1.0}}> {{
      a = Cast<to = 1>(x) m = MatMul(a, w) s = Add(m, b) y = Cast<to = {code}>(s) }}""")
    assert [n.op for n in onnxc.run_passes(model, "clean,fuse").model.nodes] == ["Cast", "Gemm", "Cast"]
    a = np.float32([[1, -2]]).astype(onnx.helper.tensor_dtype_to_np_dtype(code))
    t = onnxc.load(model).outputs[0]
    step = {"bfloat16": 2.0**-7, "float8e5m2": 0.25, "int4": 0.0}[name]
    for factor, right in ((1 + step, True), (3, False)):
        b = (a.astype("f") * np.float32(factor)).astype(a.dtype)
        if right:
            _hold(base.PASSES["fuse"](), Claim.TOLERANCE(1e-5, 1e-5), t, a, b)
            continue
        with pytest.raises(ClaimError, match="does not hold"):
            _hold(base.PASSES["fuse"](), Claim.TOLERANCE(1e-5, 1e-5), t, a, b)


def test_a_name_that_stands_twice_is_told():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }""")
    second = proto.graph.initializer.add()
    second.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 4], np.float32), "w"))
    proto.graph.output.append(proto.graph.output[0])
    done = onnxc.run_passes(proto, "clean", data={"x": np.ones((2, 2), np.float32)})
    assert done.model.constants()["w"].values.tolist() == [3, 4] and len(done.model.outputs) == 1
    assert [r.split(" stands twice")[0] for r in done.report.remarks] == ["initialiser w", "output y"]


def test_a_constant_takes_the_place_of_an_initialiser_of_its_name():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, 2.0}> { w = Constant<value = float[2] {3.0, 4.0}>() y = Mul(x, w) }""")
    done = onnxc.run_passes(proto, "clean", data={"x": np.ones((2, 2), np.float32)})
    assert done.model.constants()["w"].values.tolist() == [3, 4]
    assert done.report.remarks == ["initialiser w has the name of a Constant, which holds, as in ONNX Runtime"]
    proto.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["x"], ["w"]))
    with pytest.raises(BadModel, match="two nodes make this tensor"):
        onnxc.load(proto)


def test_where_inference_alone_objects_running_overrules(monkeypatch):
    def objects(analysis, info):
        if info.name == "h":
            raise InferenceObjects("the operator table and ONNX inference disagree", tensor="h")

    monkeypatch.setattr("onnxc.ir.verify._agree", objects)
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2] x) => (float[N,2] y) { h = Relu(x) i = Identity(h) y = Neg(i) }"""
    done = onnxc.run_passes(onnx.parser.parse_model(text), "clean")
    assert len(done.model.nodes) == 2 and "is overruled by running" in done.report.remarks[0]
    with pytest.raises(InferenceObjects):
        onnxc.run_passes(onnx.parser.parse_model(text), "clean", check="shapes")
    wrong = dict.fromkeys(("h", "i"), (3, 2))
    monkeypatch.setattr("onnxc.ir.table.Analysis.shape", lambda self, name: wrong.get(name, (None, 2)))
    with pytest.raises(BadModel, match="another shape than the model when it runs"):
        onnxc.run_passes(onnx.parser.parse_model(text), "clean")


def test_shapes_are_frozen_into_the_model():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,C,H,W] x) => (float[N,P] y) <int64[2] t = {0, -1}> { r = Relu(x) y = Reshape(r, t) }"""
    proto = onnx.parser.parse_model(text)
    done = onnxc.run_passes(proto, "clean", wishes=Wishes({"H": (4,), "W": (5,), "C": (3,)}), freeze=True)
    assert done.model.inputs[0].shape == ["N", 3, 4, 5] and done.report.samples == 4
    assert done.report.remarks == ["input x is frozen at N×3×4×5"]
    done = onnxc.run_passes(proto, "clean", wishes=Wishes({"x": (2, 3, 4, 5)}), freeze=True).model
    assert done.inputs[0].shape == [2, 3, 4, 5] and done.outputs[0].shape == [2, "P"]
    for wishes in (Wishes({"Q": (4,)}), None):
        with pytest.raises(BadOption):
            onnxc.run_passes(proto, "clean", wishes=wishes, freeze=True)
