"""`onnxc passes`: what it writes, what it prints, and that nothing is written where anything fails."""

import json
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.passes.registry import aliases, available

pytestmark = pytest.mark.usefixtures("own_passes")


def test_a_model_is_transformed_and_written(command, model_path, data_path, tmp_path):
    out = tmp_path / "small.onnx"
    ended = command("passes", model_path, "-p", "prune(ratio=0.5)", "-o", out, "--data", data_path)
    assert (ended.status, ended.err) == (0, "")
    onnx.checker.check_model(onnx.load(out), full_check=True)
    small = onnxc.load(out)
    assert [n.inputs[1].values.shape[0] for n in small.nodes if n.op == "Conv"] == [8, 4]
    assert "prune.channels" in ended.out and "scope" not in ended.out  # defaults are not shown
    assert f"24 samples of {data_path}" in " ".join(ended.out.split()) and f"written: {out}" in ended.out
    assert "accuracy" in ended.out and "SNR dB" in ended.out


def test_without_out_there_is_the_table_only(command, model_path, tmp_path):
    before = sorted(tmp_path.iterdir())
    ended = command("passes", model_path, "-p", "clean")
    assert ended.status == 0 and "clean" in ended.out and "seeded random inputs (seed 0)" in " ".join(ended.out.split())
    assert "accuracy" not in ended.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_fits_the_screen_and_has_no_colour(command, model_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    ended = command("passes", model_path, "-p", "clean, prune(ratio=0.25, scope=global, min_channels=2), own.random")
    assert max(map(len, ended.out.splitlines())) <= int(columns)
    assert "\x1b" not in ended.out


def test_refusals_are_grouped_and_verbose_lists_them(command, model_path):
    short = command("passes", model_path, "-p", "own.random").out
    assert "4 nodes: it has no weights" in " ".join(short.split())
    assert "Edits" not in short
    full = command("passes", model_path, "-p", "own.random", "--verbose").out
    assert "own.random: node_p: it has no weights" in full and "own.random: node_y: shaken" in full


def test_of_several_processes_the_first_writes_and_tells(command, model_path, tmp_path, monkeypatch):
    for rank, written in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        ended = command("passes", model_path, "-p", "clean", "-o", tmp_path / f"{rank}.onnx", "--check", "shapes")
        assert ended.status == 0 and bool(ended.out) == written and (tmp_path / f"{rank}.onnx").exists() == written


def test_out_may_be_the_model_itself(command, model_path):
    before = model_path.read_bytes()
    assert command("passes", model_path, "-p", "prune", "-o", model_path).status == 0
    assert len(model_path.read_bytes()) < len(before)


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(command, model_path, tmp_path):
    written = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command("passes", model_path, "-p", "own.random", "-o", tmp_path / name, "--seed", seed).status == 0
        written[name] = (tmp_path / name).read_bytes()
    assert written["a"] == written["b"] != written["c"]


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_claim_that_fails_leaves_out_as_it_was(command, model_path, tmp_path, old):
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    if old:
        out.write_bytes(old)
    before = sorted(tmp_path.iterdir())
    ended = command("passes", model_path, "-p", "clean, own.wrong", "-o", out, "--report", report)
    assert ended.status == 1
    assert ended.error().startswith("pass own.wrong, node node_y, y[1]: the claim exact does not hold at index [0, ")
    assert (out.read_bytes() if old else None) == old
    assert sorted(tmp_path.iterdir()) == before


def test_a_dimension_that_disagrees_is_named(command, model_path, tmp_path):
    ended = command("passes", model_path, "-p", "own.misfit", "-o", tmp_path / "out.onnx")
    assert ended.status == 1 and not (tmp_path / "out.onnx").exists()
    said = ended.error()
    assert said.startswith("pass own.misfit, node node_") and "expected 7, found 16" in said
    assert any(f"{tensor}[" in said for tensor in ("w0", "b0", "w1", "r"))


def test_shapes_only_keeps_the_dimension_check_and_drops_the_claim(command, model_path, tmp_path):
    out = tmp_path / "out.onnx"
    ended = command("passes", model_path, "-p", "own.wrong", "-o", out, "--check", "shapes")
    assert ended.status == 0 and out.exists() and "No claim was tested" in ended.out
    assert command("passes", model_path, "-p", "own.misfit", "-o", out, "--check", "shapes").status == 1


def test_a_bug_in_a_pass_is_one_line_that_names_it(command, model_path, tmp_path):
    ended = command("passes", model_path, "-p", "own.crash", "-o", tmp_path / "out.onnx")
    assert ended.status == 1 and not (tmp_path / "out.onnx").exists()
    assert ended.error() == "internal error in pass own.crash: ZeroDivisionError: a line and another; run with --debug"


@pytest.mark.parametrize("place", [0, 1, 4])
def test_debug_adds_the_traceback_wherever_it_stands(command, model_path, place):
    argv = ["passes", model_path, "-p", "own.crash"]
    ended = command(*argv[:place], "--debug", *argv[place:])
    assert ended.status == 1 and "Traceback" in ended.err and "raise ZeroDivisionError" in ended.err
    assert ended.err.splitlines()[-1].startswith("onnxc: error: internal error in pass own.crash")


def test_the_json_report_parses_and_says_it_all(command, model_path, data_path, tmp_path):
    report = tmp_path / "r.json"
    passes = "clean, own.random, own.rough(factor=1.5)"
    assert command("passes", model_path, "-p", passes, "--data", data_path, "--report", report, "--seed", 5).status == 0
    found = json.loads(report.read_text(), parse_constant=pytest.fail)
    assert [p["pass"] for p in found["passes"]] == ["clean", "own.random", "own.rough(factor=1.5)"]
    assert (found["seed"], found["samples"], found["check"], found["out"]) == (5, 24, "data", None)
    last = found["passes"][-1]
    assert last["claim"] == "lossy" and last["edits"] == [{"node": "node_y", "what": "scaled by 1.5"}]
    assert {"max_abs", "snr_db", "top1", "accuracy"} <= last["error"].keys()
    assert last["before"]["params"] == last["after"]["params"] == sum(p.size for p in _weights(model_path))


def _weights(path):
    return [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]


def test_the_html_report_is_well_formed_and_loads_nothing(command, model_path, tmp_path):
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.links = [], []

        def handle_starttag(self, tag, attrs):
            self.links += [v for k, v in attrs if k in ("src", "href")]
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    report = tmp_path / "r.html"
    assert command("passes", model_path, "-p", "own.random", "--report", report).status == 0
    page = Balance()
    page.feed(report.read_text(encoding="utf-8"))
    assert page.open == [] and page.links == []
    assert "own.random: 3 edits" in report.read_text(encoding="utf-8")


# where it comes from: recipes and data


def test_a_recipe_says_the_same_as_a_list(command, model_path, data_path, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'seed = 3\ndata = "data.npz"\n[[pass]]\nname = "own.random"\n[[pass]]\nname = "prune"\nratio = 0.25\n'
    )
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    ended = command("passes", model_path, "--recipe", recipe, "-o", a)
    assert ended.status == 0 and "24 samples" in " ".join(ended.out.split())
    listed = "own.random, prune(ratio=0.25)"
    assert command("passes", model_path, "-p", listed, "--data", data_path, "--seed", 3, "-o", b).status == 0
    assert a.read_bytes() == b.read_bytes()


def test_options_go_before_a_recipes_settings(command, model_path, tmp_path):
    recipe, report = tmp_path / "r.toml", tmp_path / "r.json"
    recipe.write_text('seed = 3\ncheck = "shapes"\n[[pass]]\nname = "clean"\n')
    assert command("passes", model_path, "--recipe", recipe, "--seed", 4, "--report", report).status == 0
    found = json.loads(report.read_text())
    assert (found["seed"], found["check"]) == (4, "shapes")


def test_every_form_of_data(command, model_path, data_path, tmp_path, monkeypatch):
    arrays = dict(np.load(data_path))
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    (tmp_path / "own_data.py").write_text(
        f"import numpy as np\ndef images():\n    a = np.load({str(data_path)!r})\n"
        "    for i in range(24):\n        yield {'x': a['x'][i:i+1], 'labels': a['labels'][i:i+1]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    errors = []
    for form in (data_path, tmp_path / "folder", "own_data:images"):
        report = tmp_path / "r.json"
        assert command("passes", model_path, "-p", "own.random", "--data", form, "--report", report).status == 0
        found = json.loads(report.read_text())
        errors.append(found["passes"][0]["error"])
        assert found["samples"] == 24 and found["data"] == str(form)
    assert errors[0] == errors[1] == errors[2] and "accuracy" in errors[0]


# --list


def test_the_list_has_every_pass_and_cuts_nothing(command, monkeypatch):
    summaries = " ".join(" ".join(cls.summary().split()) for cls in available().values())
    for width in (80, 400):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = command("passes", "--list").out.splitlines()
        heads = [line for line in lines if not line.startswith(" ")]
        assert [line.split()[0] for line in heads] == list(available()) and max(map(len, lines)) <= width
        assert len(" ".join(lines).split()) >= len(summaries.split()) and "..." not in " ".join(lines)
    assert len(lines) == len(heads)
    assert "prune" in next(line for line in lines if line.startswith("prune.channels")).split()


def test_methods_are_found_by_their_names(command):
    assert "quant.binary(inputs=hwgq)" in command("passes", "--list", "hwgq").out
    assert "quant.int8(rounding=gptq)" in command("passes", "--list", "GPTQ").out
    assert "prune.channels" in command("passes", "--list", "fpgm").out
    assert command("passes", "--list", "nosuch").status == 2


def test_one_pass_is_listed_with_kinds_defaults_and_meanings(command):
    by_name, by_alias = command("passes", "--list", "prune.channels").out, command("passes", "--list", "prune").out
    assert by_name == by_alias
    text = " ".join(by_alias.split())
    for part in (
        "claim: lossy",
        "runs after: clean",
        "ratio float or auto or none none share of channels",
        "layer or global",
    ):
        assert part in text


def test_every_option_of_every_pass_has_a_meaning():
    from onnxc.passes.registry import describe_options

    for name, cls in available().items():
        for option in describe_options(cls):
            assert option.doc or name.startswith("own."), f"{name}: {option.name} is not described in the docstring"
        assert cls.__doc__, name
    assert "prune" in aliases()


def test_an_unknown_pass_is_not_listed(command):
    ended = command("passes", "--list", "prunes")
    assert ended.status == 2 and "did you mean prune" in ended.error()
