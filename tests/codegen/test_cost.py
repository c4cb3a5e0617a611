"""The cost model against cycles that were measured: benchmarks/results/cost.json, from benchmarks/cost.py.

Predictions are made here, by the code as it is, of the tiles that were measured.
"""

import json
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from onnxc.codegen.kernels import FAMILIES, choose, cost, winograd
from onnxc.codegen.kernels.spec import BINARY, Encoding, Refusal
from onnxc.codegen.kernels.winograd_form import F2, F4
from onnxc.codegen.target import TARGETS
from tests.conftest import ROOT

from . import bulk

FORMS = {"f2": F2, "f4": F4}
ROWS = json.loads((ROOT / "benchmarks/results/cost.json").read_text())["rows"]


@cache
def layers() -> dict:
    """The specs that were measured, by layer and encoding."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import cost as benchmark
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return benchmark.specs()


def predictions() -> list[dict]:
    """The measured rows with the predictions of the code as it is."""
    specs, families = layers(), {family.name: family for family in FAMILIES}
    found = []
    for row in ROWS:
        spec, target = specs[row["layer"]][row["form"]], TARGETS[row["target"]]
        family = next(family for name, family in families.items() if f"{row['rule']}.".startswith(f"{name}."))
        pixels, vectors, lanes = row["tile"]
        form = row["rule"].rsplit(".", 1)[1]
        made = winograd.plan_of(spec, target, FORMS[form], form) if form in FORMS else family.schedule(spec, target)
        plan = replace(made, pixels=pixels, vectors=vectors, lanes=lanes, fold=row.get("fold", 1))
        assert plan.rule == row["rule"]
        found.append(row | {"predicted": family.cost(spec, plan, target)})
    return found


@pytest.fixture(scope="module")
def rows():
    """What was measured beside what is predicted."""
    return predictions()


def groups(rows):
    """Rows by target, layer and encoding where several families take it."""
    found = {}
    for row in rows:
        found.setdefault((row["target"], row["layer"], row["form"]), []).append(row)
    return [several for several in found.values() if len(several) > 1]


def loss(several: list[dict], chosen: dict) -> float:
    return chosen["measured"] / min(row["measured"] for row in several)


def test_every_rule_that_runs_on_x86_was_measured():
    assert {row["rule"] for row in ROWS} >= {
        "float32.direct", "float32.depthwise", "int8.direct.vpdpbusd", "int8.direct.pmaddwd", "int8.depthwise", "bits.direct",
        "float32.winograd.f2", "float32.winograd.f4", "bits.nibbles.x86_64", "bits.bytes.x86_64", "bits.lookup.x86_64",
    }  # fmt: skip


def near(rows) -> bool:
    """Whether predictions are as near to what was measured as they should be, for each rule."""
    for rule in {row["rule"] for row in rows}:
        ratios = [row["predicted"] / row["measured"] for row in rows if row["rule"] == rule]
        if not 0.7 < np.median(ratios) < 1.5 or np.mean([0.5 < r < 2 for r in ratios]) <= 0.9:
            return False
    return True


def test_predictions_are_near(rows):
    assert near(rows)


@pytest.mark.parametrize("name, factor", [("AROUND", 30), ("FINISH", 30), ("LATENCY", 8)])
def test_a_spoiled_model_is_noticed(name, factor, monkeypatch):
    monkeypatch.setattr(cost, name, factor * getattr(cost, name))
    assert not near(predictions())


def test_the_family_that_is_chosen_is_hardly_slower_than_the_fastest(rows):
    several = groups(rows)
    lost = [loss(some, min(some, key=lambda row: row["predicted"])) for some in several]
    assert len(lost) > 100 and np.mean(lost) < 1.03


def test_without_predictions_another_would_be_taken(rows):
    """The order of the families alone does worse, so that the test above can fail."""
    assert np.mean([loss(some, some[0]) for some in groups(rows)]) > 1.05


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "activation", [BINARY, Encoding("bits", 2, "unsigned"), Encoding("bits", 3, "signed")], ids=str
)
def test_every_schedule_has_a_prediction_and_the_least_is_taken(name, activation):
    spec, target = bulk.make(h=6, w=7, c=70, oc=36, activation=activation, weight=BINARY), TARGETS[name]
    answers = [(family, family.schedule(spec, target)) for family in FAMILIES]
    predicted = {a.rule: family.cost(spec, a, target) for family, a in answers if not isinstance(a, Refusal)}
    assert all(predicted.values())
    _, plan, refusals = choose(spec, target, micro=False)  # families in C come first
    assert predicted[plan.rule] == min(predicted.values())
    said = {r.rule: r.reason for r in refusals}
    assert all("predicted to take" in said[rule] for rule in predicted if rule != plan.rule)


@pytest.mark.parametrize(
    "name, rule", [("cortex-a72", "bits.bytes"), ("cortex-a76", "bits.lookup"), ("aarch64", "bits.lookup")]
)
def test_a_slow_shuffle_of_bytes_leaves_two_planes_to_counting(name, rule):
    spec = bulk.make(1, 28, 28, 128, 128, activation=Encoding("bits", 2, "unsigned"), weight=BINARY)
    assert choose(spec, TARGETS[name])[0].name == rule
