"""`onnxc check`: a baseline is written, kept to, and broken by each figure; the files for other people's pipelines."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.cli.check import markdown
from onnxc.measure.baseline import Line, compare

ROOT = Path(onnxc.__file__).resolve().parent.parent


def test_a_baseline_is_kept_to_and_broken(command, model_path, data_path, tmp_path):
    base, table = tmp_path / "b.json", tmp_path / "t.md"
    argv = ["check", model_path, "--data", data_path, "--baseline", base]
    assert command(*argv, "--write").status == 0
    stored = json.loads(base.read_text())["models"][str(model_path)]
    assert stored["samples"] == 24 and set(stored["metrics"]) == {"accuracy", "top5"} and stored["macs"] == 101408
    assert command(*argv).status == 0
    for name, factor in (("bytes", 0.5), ("macs", 0.9)):
        broken = json.loads(base.read_text())
        broken["models"][str(model_path)][name] *= factor
        other = tmp_path / f"{name}.json"
        other.write_text(json.dumps(broken))
        ended = command(*argv[:-1], other, "--comment", table)
        assert ended.status == 1 and "worse" in ended.out and f"{model_path}: {name}" in ended.err
        assert "**worse**" in table.read_text() and table.read_text().count("\n") == 8
    broken["models"][str(model_path)]["metrics"]["accuracy"] += 0.02
    other.write_text(json.dumps(broken))
    assert json.loads(command(*argv[:-1], other, "--json").out)["worse"] == 2
    assert json.loads(command(*argv[:-1], other, "--json", "--drop", "5%").out)["worse"] == 1


def test_what_is_worse_is_told_by_its_direction():
    was, now = (
        {"bytes": 10, "metrics": {"mae": 0.5, "r2": 0.9}, "lower": ["mae"]},
        {"bytes": 9, "metrics": {"mae": 0.6, "r2": 0.95}},
    )
    rows = {row.what: row.worse for row in compare("m", was, now, drop=0.01, slower=0.1)}
    assert rows == {"bytes": False, "mae": True, "r2": False}
    gone = compare("m", was, {"bytes": 10}, drop=0.01, slower=0.1)
    assert [row.what for row in gone if row.worse] == ["mae", "r2"]
    assert not any(row.worse for row in compare("m", {}, now, drop=0, slower=0))
    assert "&#x3c;b&#x3e;" in markdown([Line("<b>", "bytes", 1, 2, True)])


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e6])
def test_errors_in_the_labels_unit_are_held_to_by_their_share(unit):
    was = {"metrics": {"mae": 0.5 * unit}, "lower": ["mae"]}
    for now, worse in ((0.51, False), (0.53, True), (0.4, False)):
        (row,) = compare("m", was, {"metrics": {"mae": now * unit}}, drop=0.05, slower=0)
        assert row.worse == worse
    (row,) = compare("m", {"metrics": {"mae": 0.0}, "lower": ["mae"]}, {"metrics": {"mae": 0.1}}, drop=0.05, slower=0)
    assert row.worse


def test_labels_that_tell_nothing_write_no_baseline(command, model_path, data_path, tmp_path):
    with np.load(data_path) as data:
        arrays = dict(data)
    np.savez(tmp_path / "d.npz", **arrays | {"labels": np.array(["a"] * len(arrays["labels"]))})
    ended = command("check", model_path, "--data", tmp_path / "d.npz", "--baseline", tmp_path / "b.json", "--write")
    assert ended.status == 2 and "labels do not tell" in ended.err and not (tmp_path / "b.json").exists()


def test_figures_that_look_alike_are_written_out(command, model_path, tmp_path):
    base = tmp_path / "b.json"
    assert command("check", model_path, "--baseline", base, "--write").status == 0
    stored = json.loads(base.read_text())
    stored["models"][str(model_path)]["macs"] -= 90
    base.write_text(json.dumps(stored))
    ended = command("check", model_path, "--baseline", base)
    assert ended.status == 1 and "macs 101,318, found 101,408;" in ended.err


def test_bad_baselines_are_refused(command, model_path, tmp_path):
    assert "--baseline B.json is missing" in command("check", model_path).error()
    assert "no baseline" in command("check", model_path, "--baseline", tmp_path / "none.json").error()
    (tmp_path / "x.json").write_text('{"form": "other"}')
    assert "no baseline" in command("check", model_path, "--baseline", tmp_path / "x.json").error()


def test_the_action_and_the_hook_name_what_is_there(command):
    action = (ROOT / "action.yml").read_text()
    known = command("check", "--help").out
    for option in set(re.findall(r"(?<![\w-])--(?:baseline|data|comment|task|drop)\b", action)):
        assert option in known
    shell = action.split("run:")[1:]
    assert not any("${{" in part.split("\n    -")[0].split("env:")[0] for part in shell)  # no input is the shell's text
    assert "entry: onnxc check" in (ROOT / ".pre-commit-hooks.yaml").read_text()


@pytest.mark.parametrize("text", ["abc", "1%%"])
def test_bounds_are_numbers(command, model_path, tmp_path, text):
    assert "--drop does not fit" in command("check", model_path, "--baseline", tmp_path / "b", "--drop", text).error()
