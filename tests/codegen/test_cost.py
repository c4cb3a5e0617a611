"""The cost model against cycles that were measured: benchmarks/results/cost.json, from benchmarks/cost.py."""

import json

import numpy as np
import pytest

from onnxc.codegen.kernels import RULES, choose, cost
from onnxc.codegen.kernels.spec import BINARY, Encoding, Refusal
from onnxc.codegen.target import TARGETS
from tests.conftest import ROOT

from . import bulk

ROWS = json.loads((ROOT / "benchmarks/results/cost.json").read_text())["rows"]


def groups():
    """Rows by target, layer and encoding: the families that take it."""
    found = {}
    for row in ROWS:
        found.setdefault((row["target"], row["layer"], row["form"]), []).append(row)
    return found.values()


def test_every_rule_that_runs_on_x86_was_measured():
    assert {row["rule"] for row in ROWS} >= {rule for rule in cost.ROWS if rule.endswith("x86_64")}


@pytest.mark.parametrize("rule", sorted({row["rule"] for row in ROWS}))
def test_predictions_are_near(rule):
    ratios = [row["predicted"] / row["measured"] for row in ROWS if row["rule"] == rule]
    assert 0.7 < np.median(ratios) < 1.5
    assert np.mean([0.5 < r < 2 for r in ratios]) > 0.9


def test_the_family_that_is_chosen_is_hardly_slower_than_the_fastest():
    several = [rows for rows in groups() if len(rows) > 1]
    lost = [next(r["measured"] for r in rows if r["chosen"]) / min(r["measured"] for r in rows) for rows in several]
    assert len(lost) > 100 and np.mean(lost) < 1.03


def test_without_predictions_another_would_be_taken():
    """The order of the families alone does worse, so that the test above can fail."""
    several = [rows for rows in groups() if len(rows) > 1]
    first = [rows[0]["measured"] / min(r["measured"] for r in rows) for rows in several]
    assert np.mean(first) > 1.05


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "activation", [BINARY, Encoding("bits", 2, "unsigned"), Encoding("bits", 3, "signed")], ids=str
)
def test_every_schedule_has_a_prediction_and_the_least_is_taken(name, activation):
    spec, target = bulk.make(h=6, w=7, c=70, oc=36, activation=activation, weight=BINARY), TARGETS[name]
    answers = [family.schedule(spec, target) for family in RULES]
    predicted = {a.rule: cost.cycles(spec, a, target) for a in answers if not isinstance(a, Refusal)}
    assert all(predicted.values())
    _, plan, refusals = choose(spec, target)
    assert predicted[plan.rule] == min(predicted.values())
    said = {r.rule: r.reason for r in refusals}
    assert all("predicted to take" in said[rule] for rule in predicted if rule != plan.rule)
