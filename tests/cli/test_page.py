"""The pages that reports are: what they show, that names stay names, that they are drawn in a browser; what notebooks show."""

import json

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.cli.charts import Safe, bars, front, histogram
from onnxc.cli.compile import CALLS, call_cells, sums
from onnxc.cli.html import compile_page, repeat, transform_page
from onnxc.ir.escape import html
from onnxc.ir.files import load
from onnxc.measure.layers import fates
from onnxc.passes.prune.coupling import groups
from onnxc.pipeline import sound
from tests.browser import WIDTHS, look, needs_browser
from tests.cli.test_compile_memory import report


@pytest.fixture
def page_path(command, model_path, data_path, tmp_path):
    out = tmp_path / "r.html"
    data = data_path.with_name("d" * 90 + ".npz")  # a word wider than a small page
    data.write_bytes(data_path.read_bytes())
    argv = ["-p", "prune(ratio=0.5), quant", "--data", data, "--report", out, "-o", tmp_path / "o.onnx"]
    assert command("passes", model_path, *argv).status == 0
    return out


def test_a_page_says_what_became_of_the_model(page_path, command, model_path, data_path, tmp_path):
    text = page_path.read_text("ascii")
    for part in (
        "4 passes ran: ",
        "<h2>Before and after each pass</h2>",
        "<h2>Layers</h2>",
        "from 16",
        "<h2>Again</h2>",
        "viewport",
    ):
        assert part in text
    assert text.count("<svg") >= 6 and "http" not in text and "<script" not in text
    again = tmp_path / "r.json"
    assert (
        command("passes", model_path, "-p", "prune(ratio=0.5), quant", "--data", data_path, "--report", again).status
        == 0
    )
    found = json.loads(again.read_text())
    assert [row["name"] for row in found["layers"]] == ["node_a", "node_c", "node_y"]
    assert found["layers"][0]["after"] == {"macs": 13824, "bytes": 216, "bits": 8, "channels": 8} | {
        "bytes": found["layers"][0]["after"]["bytes"]
    }
    assert found["layers"][2]["snr_db"] > 0 and found["layers"][0]["snr_db"] is None
    assert sum(found["layers"][1]["weights"][0]) == 8 * 16 * 9 and sum(found["layers"][1]["weights"][1]) == 4 * 8 * 9
    assert found["command"].startswith("onnxc passes ")


def test_layers_that_stay_have_no_noise(model_path, data_path):
    model = onnxc.load(model_path)
    data = {"x": np.load(data_path)["x"]}
    from onnxc.runtime.feeding import feed

    found = fates(model, model, feed(model.to_proto(), data))
    assert [f.snr_db for f in found] == [float("inf")] * 3 and sum(f.share for f in found) == pytest.approx(1)
    assert all(f.before == f.after and f.weights[0] == f.weights[1] for f in found)


@pytest.mark.parametrize(
    "values, counted", [([3e38, -3e38], 2), ([np.nan, 1], 1), ([np.inf, np.nan], 0), ([3e38, 3e38], 2)]
)
def test_weights_of_any_value_are_counted(values, counted):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1,1] x) => (float[1,2] y) { y = MatMul(x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([values], np.float32), "w"))
    (fate,) = fates(load(model), load(model))
    assert [sum(counts) for counts in fate.weights] == [counted] * 2 and np.isfinite([fate.low, fate.high]).all()


def test_charts_escape_what_they_are_told():
    wicked = '"><script>x</script>'
    for drawn in (
        bars([(wicked, 1, wicked)], wicked),
        front([(1, 2, wicked, True)], wicked, wicked),
        histogram([1], [2], 0, 1),
    ):
        assert isinstance(drawn, Safe) and "<script" not in drawn and '""' not in drawn
    assert bars([], "") and front([], "x", "y") and histogram([], [], 0, 1) == ""
    assert "<script" not in transform_page(onnxc.run_passes.__globals__["PipelineReport"](), wicked, command=wicked)
    assert repeat("passes", ["a b.onnx", "-p", "x(y=1)"]) == "onnxc passes 'a b.onnx' -p 'x(y=1)'"


def test_notebooks_show_models_results_and_groups(model_path):
    result = onnxc.run_passes(model_path, "clean", check="shapes")
    assert "2 Conv" in result.model._repr_html_() and result._repr_html_().startswith("<iframe")
    assert "&#x3c;" in result._repr_html_()  # the page stands escaped in the frame
    group = groups(result.model, sound(result.model).analysis)[0]
    assert "16 channels of node_a" in group._repr_html_() and "contracts" in group._repr_html_()


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_draws_the_pages_without_an_error(page_path, command, model_path, tmp_path, width):
    report = look(page_path, width)
    assert report.fits and not report.errors and report.words > 500
    assert report.seen["rect"] > 20 and report.seen["svg"] > 5 and report.seen["table"] == 2
    page = tmp_path / "diff.html"
    assert command("diff", model_path, tmp_path / "o.onnx", "-o", page).status == 0
    between = look(page, width)
    assert between.fits and not between.errors and between.words > 300
    assert between.seen["rect"] == 6 and between.seen["svg"] == 3 and between.seen["table"] == 1


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_draws_ram_over_many_calls(tmp_path, width):
    names = [f"a_name_of_a_layer_that_is_long_{i}" for i in range(60)]
    calls = [{"nodes": (name,), "schedule": "micro.conv", "macs": 9, "cycles": 5.0, "flash": 700, "ram": 4000 + 50 * i}
             for i, name in enumerate(names)]  # fmt: skip
    made = report(calls=tuple(calls), ram=tuple((f"kernel{i}", call["ram"]) for i, call in enumerate(calls)))
    page = tmp_path / "compile.html"
    page.write_text(compile_page(made, CALLS, call_cells(made), sums(made)))
    seen = look(page, width)
    assert seen.fits and not seen.errors and seen.words > 1000
    assert seen.seen["rect"] == 60 and seen.seen["svg"] == seen.seen["table"] == 1


@needs_browser
@pytest.mark.slow
def test_a_page_that_does_not_fit_is_seen(tmp_path):
    page = tmp_path / "p.html"
    page.write_text("<p style='width:600px'>x</p><svg></svg><script>console.error('no')</script>")
    assert look(page, 1400).fits and not look(page, 400).fits
    assert any("no" in line for line in look(page, 400).errors)


def test_trainings_are_drawn_with_their_losses_and_scales():
    from onnxc.passes.base import Report
    from onnxc.report import PipelineReport

    told = {"rate": 0.1, "start": 2.5, "losses": [1.5, float("inf")], "best": 1, "steps": 4, "changed": [], "sent": 0,
            "train": [2.0, 1.25], "scales": [[0, 3], [2, 1], [3, 0]], "widest": 1.5,
            "score": "agreement", "scores": [0.5, 0.75], "weights": [[1, 2, 1], [0, 4, 0]], "span": 0.25}  # fmt: skip
    row = Report(name="train.slim<i>", trainings=[told])
    page = transform_page(PipelineReport(rows=[row]))
    for said in ("train.slim<i>; epoch 1 was kept", "held loss: 0: 2.5, 1: 1.5, 2: inf", "loss of the steps: 1: 2, 2: 1.25",
                 "|scales| after epoch 0, from: number. 0.75: 3", "Agreement with the teacher on held samples",
                 "agreement: 0: 0.5, 1: 0.75", "weights from -0.25 to 0.25; grey: as given"):  # fmt: skip
        assert html(said) in page
    assert "<i>" not in page and page.count("after epoch 2") == 1
    assert "Training</h2>" not in transform_page(PipelineReport(rows=[Report(name="clean")]))
