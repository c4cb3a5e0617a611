"""What a user requires: read, held after each pass and at the end; what got worse is said."""

from dataclasses import dataclass

import numpy as np
import pytest

from onnxc import Pipeline, run_passes
from onnxc.ir.errors import BadOption, VerificationError
from onnxc.passes.base import Claim, Pass, Report
from onnxc.require import bounds
from tests.passes.prune_models import network


def classifier():
    body = (
        "[a] a = Conv<pads=[1,1,1,1]>(x, wa) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) [b] y = MatMul(f, wb)"
    )
    return network(
        f"g (float[N, 3, 6, 6] x) => (float[N, 4] y) {{ {body} }}",
        wa=(16, 3, 3, 3),
        wb=np.random.default_rng(1).normal(size=(16, 4)),
    )


@pytest.fixture(scope="module")
def data():
    """Labelled by the model itself: it is always right."""
    x = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)
    from onnxc.runtime.reference import Session

    return {"x": x, "labels": Session(classifier().to_proto()).run({"x": x})["y"].argmax(1)}


@pytest.mark.parametrize(
    "text, value, least",
    [("accuracy>=0.92", 0.92, True), ("drop <= 1%", 0.01, False), ("bytes<=300k", 3e5, False), ("macs<=1.5M", 1.5e6, False),
     ("snr>=-2", -2.0, True), ("mae<=1e-3", 1e-3, False)],
)  # fmt: skip
def test_bounds_are_read(text, value, least):
    (bound,) = bounds(text)
    assert bound.value == pytest.approx(value) and bound.least == least
    assert len(bounds(f"{text}, {text}")) == 2


@pytest.mark.parametrize(
    "text", ["", "accuracy", "accuracy=0.9", "bytes>=3", "accuracy<=0.9", "snr<=4", "bytes<=3x", "a>=1.2.3"]
)
def test_do_not_take_bounds_that_mean_nothing(text):
    with pytest.raises(BadOption):
        bounds(text)


def test_the_pass_that_lost_the_quality_is_named(data):
    with pytest.raises(VerificationError, match=r"prune\.channels.*drop<=1%"):
        run_passes(classifier(), "fuse,prune(ratio=0.9,recover=none),quant", data=data, require="drop<=1%")


@pytest.mark.parametrize(
    "require", ["accuracy>=0.5", "drop<=60%", "snr>=5, top1>=0.5", "bytes<=1.0, macs<=1.0", "params<=10k"]
)
def test_what_holds_is_kept(data, require):
    assert run_passes(classifier(), "fuse", data=data, require=require).report.rows


@pytest.mark.parametrize(
    "require, match", [("bytes<=10", "bytes<=10"), ("macs<=0.9", "found 1"), ("params<=0.5", "params")]
)
def test_costs_are_held_at_the_end(data, require, match):
    with pytest.raises(VerificationError, match=match):
        run_passes(classifier(), "fuse", data=data, require=require)
    assert run_passes(classifier(), "prune(ratio=0.5)", data=data, require="macs<=0.6").model


@pytest.mark.parametrize("require", ["accuracy>=0.1", "drop<=1%", "iou>=0.3"])
def test_do_not_require_what_is_not_measured(require):
    with pytest.raises(BadOption, match="not measured"):
        run_passes(classifier(), "fuse", require=require)


def test_do_not_require_quality_without_running():
    with pytest.raises(BadOption, match="needs --check data"):
        run_passes(classifier(), "fuse", check="shapes", require="snr>=10")
    with pytest.raises(VerificationError):
        run_passes(classifier(), "fuse", check="shapes", require="bytes<=10")


def test_a_model_that_misses_as_given_is_refused_at_once(data):
    wrong = data | {"labels": (data["labels"] + 1) % 4}
    with pytest.raises(VerificationError, match="as given"):
        run_passes(classifier(), "fuse", data=wrong, require="accuracy>=0.9")


def test_time_is_measured_when_asked_for():
    done = Pipeline("fuse", time=True).transform(classifier())
    assert all(0.01 < row.error["time"] < 100 for row in done.report.rows) and "model time" in str(done.report)
    assert "model time" not in str(run_passes(classifier(), "fuse").report)
    with pytest.raises(VerificationError, match=r"time<=0\.0001"):
        run_passes(classifier(), "fuse", require="time<=0.0001")


@dataclass(kw_only=True, repr=False, eq=False)
class Heavier(Pass):
    """Zero every output and add a weight that nothing needs."""

    name = "heavier"
    claim = Claim.LOSSY

    def run(self, model, ctx):
        report = Report()
        node = model.nodes[-1]
        model.set_weight(node, 1, np.zeros_like(node.inputs[1].values))
        out = node.outputs[0]
        inner = model.variable("inner")
        node.outputs[0] = inner
        model.node("Add", [inner, model.constant("more", np.zeros((1, 4), np.float32))], [out], name="more")
        report.edit(node.name, "made worse")
        return report


def test_what_got_worse_is_said():
    found = run_passes(classifier(), [Heavier()]).report
    text = str(found)
    said = ["heavier raises bytes from", "heavier raises parameters from", "heavier loses the outputs"]
    assert all(line in text for line in said)
    assert len(found.to_dict()["warnings"]) == len(said)
    assert not run_passes(classifier(), "clean,fuse").report.warnings()


@pytest.mark.parametrize("metric, higher, values, told", [
    ("accuracy", True, (0.8, 0.9, 0.85), []),
    ("accuracy", True, (0.8, 0.9, 0.7), ["third"]),
    ("accuracy", True, (0.8, 0.7, 0.9), ["second"]),
    ("mae", False, (0.8, 0.7, 0.9), ["third"]),
    ("accuracy", True, (), ["second"]),
])  # fmt: skip
def test_other_outputs_are_not_lost_where_labels_are_met_as_well(metric, higher, values, told):
    from onnxc.report import PipelineReport

    first, *rest = values or (None, None, None)
    report = PipelineReport(metrics={metric: first} if values else {}, metric=metric, higher=higher)
    for name, snr, value in zip(("first", "second", "third"), (30.0, 5.0, 4.0), (first, *rest)):
        report.rows.append(Report(name=name, error={"snr_db": snr} | ({metric: value} if values else {})))
    assert [line.split()[0] for line in report.warnings()] == told


def test_random_inputs_show_no_agreement_and_no_data_no_recovery():
    report = run_passes(classifier(), "prune(ratio=0.2)").report
    assert all("top1" not in row.error for row in report.rows) and "top-1" not in str(report)
    assert any("not repaired" in note for note in report.rows[-1].notes)
