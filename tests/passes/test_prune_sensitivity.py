"""Sensitivity of groups: measured, kept, resumed, and used to meet a budget."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxc.cli.sensitivity import draw_plot as plot
from onnxc.cli.sensitivity import render, style
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadData, BadOption
from onnxc.ir.verify import verify
from onnxc.measure.sensitivity import Sensitivity, sensitivity
from onnxc.passes.base import Context, apply
from onnxc.passes.prune import sensitivity as module
from onnxc.passes.prune.sensitivity import Curve, Point, measure, read
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.passes.prune_models import TOYS, network


def two_branches():
    """The channels of `loud` reach the output at full size, those of `quiet` a thousand times smaller."""
    return network(
        """g (float[N, 3, 4, 4] x) => (float[N, 4, 4, 4] y) {
            [loud] a = Conv(x, wa)
            [quiet] b = Conv(x, wb)
            [reads_loud] c = Conv(a, wc)
            [reads_quiet] d = Conv(b, wd)
            [sum] y = Add(c, d)
        }""",
        wa=(8, 3, 1, 1), wb=(8, 3, 1, 1), wc=(4, 8, 1, 1), wd=np.random.default_rng(1).normal(size=(4, 8, 1, 1)) / 1000,
    )  # fmt: skip


def given(model, labels=False):
    specs = input_specs(model.to_proto())
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=(32, *s.shape[1:])).astype(np.float32) for n, s in specs.items()}
    runner, data = Runner(optimise=False), open_data(arrays, specs)
    return {"runner": runner, "data": data, "synthetic": False, "evaluator": Evaluator(runner, data)}


def context(model):
    return Context(verify(model), **given(model))


def test_curves_rise_and_tell_loud_from_quiet():
    model = two_branches()
    loud, quiet = measure(model, context(model))
    assert (loud.name, quiet.name, loud.channels) == ("loud", "quiet", 8)
    assert [p.ratio for p in loud.points] == [0.1, 0.25, 0.5, 0.75, 0.9]
    errors = [p.error for p in loud.points]
    assert errors == sorted(errors) and errors[2] > 100 * quiet.points[2].error > 0


def test_the_budget_is_met_where_it_costs_least():
    model = two_branches()
    small, _ = apply(make("prune", {"macs": 0.6, "ratio": "auto", "recover": "none"}), model, **given(model))
    kept = {n.name: n.inputs[1].values.shape[0] for n in small.nodes if n.op == "Conv"}
    assert kept["loud"] == 8 and kept["quiet"] < 3
    share = cost(small, verify(small)).macs / cost(model, verify(model)).macs
    assert share <= 0.6


def test_results_are_kept_and_gone_on_from(tmp_path, monkeypatch):
    model, file = two_branches(), tmp_path / "s.json"
    first = measure(model, context(model), file=file)
    whole = json.loads(file.read_text())
    whole["curves"].pop("1:quiet")
    file.write_text(json.dumps(whole))
    cuts = []
    cut = module._cut
    monkeypatch.setattr(module, "_cut", lambda *a: cuts.append(1) or cut(*a))
    again = measure(model, context(model), file=file)
    assert len(cuts) == 5 and again == first
    assert read(file) == {"0:loud": first[0], "1:quiet": first[1]}


def test_do_not_mix_results_of_different_models(tmp_path):
    model, file = two_branches(), tmp_path / "s.json"
    measure(model, context(model), file=file)
    other = TOYS["concat of concats"]()
    with pytest.raises(BadData, match="was measured otherwise: model"):
        measure(other, context(other), file=file)
    with pytest.raises(BadData, match="was measured otherwise: criterion"):
        measure(model, context(model), file=file, criterion="l2")
    file.write_text("{}")
    with pytest.raises(BadData, match="holds no sensitivities"):
        measure(model, context(model), file=file)


def test_blocks_of_a_grouped_convolution_are_one_unit():
    model = TOYS["shuffled groups"]()
    curves = measure(model, context(model))
    assert any(c.points[2].error > 0 for c in curves)
    assert len({c.name for c in curves}) == len(curves)


def test_recovery_lowers_the_curves():
    model = two_branches()
    plain, repaired = measure(model, context(model)), measure(model, context(model), how="lstsq")
    assert repaired[0].points[2].error < plain[0].points[2].error


def test_the_command_measures_labelled_data(resnet20_path, calib_data_path, tmp_path):
    with np.load(calib_data_path) as stored:
        data = {k: v[:16] for k, v in stored.items()}
    found = sensitivity(resnet20_path, data, samples=16)
    text = render(found, width=200)
    assert len(found.curves) == 12 and "/l/l.3/c2/Conv" in text and "%" in text
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_plot_is_drawn_or_refused(tmp_path):
    found = Sensitivity([Curve("a", 4, [Point(0.5, 0.1)])], "data", False)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(BadOption, match="needs matplotlib"):
            plot(found, tmp_path / "f.png")
    else:
        plot(found, tmp_path / "f.png")
        assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
        many = [Curve(f"g{n}", 4, [Point(0.5, 0.1 * n, {"accuracy": 0.9 - n / 100})]) for n in range(45)]
        plot(Sensitivity(many, "data", False), tmp_path / "f.svg")
        text = (tmp_path / "f.svg").read_text()
        assert "accuracy" in text


def test_no_two_curves_are_drawn_alike():
    styles = [style(n) for n in range(240)]
    assert all(a != b for n, a in enumerate(styles) for b in styles[:n])


@pytest.mark.parametrize(
    "options, said",
    [({"ratio": "auto"}, "ratio=auto needs a budget"), ({"sensitivity": "f.json"}, "goes with ratio=auto")],
)
def test_do_not_take_options_that_say_nothing(options, said):
    with pytest.raises(BadOption, match=said):
        make("prune", options)
