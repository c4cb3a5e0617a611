"""`--profile`: rows, suggestions, ONNX Runtime's kernels beside them, trace and page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import onnx
import pytest
from onnx import helper

from onnxc.cli.profile import chrome, render
from onnxc.ir.errors import BadOption
from onnxc.ir.lean import Lean
from onnxc.measure import ceiling as roofs
from onnxc.measure.ceiling import Ceiling
from onnxc.measure.guide import suggestion
from onnxc.measure.match_ort import beside
from onnxc.measure.profile import LayerTime, Profile
from onnxc.runtime.ort_profile import OrtNode, OrtProfile, middle

ROOF = Ceiling(1e11, 4e11, 2e12, ((1 << 14, 5e11), (1 << 26, 4e10)))
LAYER = LayerTime(
    number=1, function="kernel0", nodes=("conv", "relu"), ops=("Conv", "Relu"), family="float32.direct", schedule="s", spec="conv",
    macs=10**7, bits=(32, 32), channels=(64, 64, 1), bytes=1000, weight_bytes=500, seconds=2e-4, share=0.5, rate=5e10,
    ceiling=0.5, bound="multiply-adds",
)  # fmt: skip
GENERAL = replace(LAYER, family="general schedule", macs=0, bits=(0, 0), channels=(0, 0, 0), bound="bytes", ceiling=0.1)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (LAYER, "50% of float32's ceiling: int8 (quant) has 4.0 times"),
        (replace(LAYER, family="float32.winograd.f4"), "Winograd makes 25% of its products, at 50% of the ceiling"),
        (replace(LAYER, seconds=5e-7), "it is short already"),
        (replace(LAYER, channels=(64, 65, 1)), "65 output channels fill vectors of 16 to 81%: 64 would take less time"),
        (replace(LAYER, channels=(64, 5, 1)), "wider ones up to 16 cost nothing"),
        (replace(LAYER, channels=(65, 65, 65)), "65 output channels"),
        (replace(LAYER, bits=(8, 8)), "its integers run below the ceiling"),
        (replace(LAYER, bits=(8, 8), ceiling=0.9), "only fewer multiply-adds help"),
        (replace(LAYER, bits=(1, 1), ceiling=0.7), "its bits are counted at 70%"),
        (replace(LAYER, bound="bytes", weight_bytes=10**6), "waits for 1,000,000 bytes of weights: fewer bits"),
        (replace(LAYER, bound="bytes", bytes=10**6, ceiling=0.2), "20% of float32's ceiling"),
        (replace(LAYER, bound="bytes", bytes=10**6), "bytes of activations"),
        (replace(GENERAL, ops=("Resize",)), "Resize by the general schedule: no layer beside it takes it in"),
        (replace(GENERAL, ops=("Foo",)), "Foo by the general schedule: no kernel has this pattern"),
        (replace(GENERAL, function="transpose3"), "layout for Conv Relu by the general schedule: a change of layout"),
    ],
)
def test_suggestions_follow_what_was_measured(layer, said):
    assert said in suggestion(layer, ROOF)


def test_kernels_of_onnx_runtime_count_once():
    layers = [(("conv", "relu"), True), (("conv", "relu"), False), (("add",), False), (("exp",), True), ((), True)]
    kernels = [
        OrtNode("conv_nchwc", "Conv", 5e-6, ("conv", "add")),
        OrtNode("conv_token_1", "Conv", 1e-6, ("conv",)),
        OrtNode("ReorderOutput", "ReorderOutput", 2e-6, ()),
        OrtNode("exp", "Exp", 3e-6, ("exp",)),
    ]
    found, strangers = beside(layers, kernels)
    assert [match.seconds for match in found] == [None, pytest.approx(6e-6), None, 3e-6, None]
    assert [match.note for match in found] == ["in that of layer 2", "", "no kernel of its own there", "", "unknown"]
    assert [kernel.name for kernel in strangers] == ["ReorderOutput"]


def test_the_middle_of_times():
    assert middle([1.0, 2.0, 3.0, 100.0]) == 2.5
    assert middle([4.0]) == 4.0 and middle([]) == 0.0


def test_the_trace_lies_in_a_row():
    layers = (replace(LAYER, ort_seconds=3e-4, ort=("conv_nchwc",)), replace(GENERAL, number=2))
    found = Profile("m", 1, 9, ROOF, layers, 4e-4, 4e-4, 5e-4, (OrtNode("ReorderOutput", "ReorderOutput", 1e-5, ()),))
    events = [event for event in chrome(found)["traceEvents"] if event["ph"] == "X"]
    for tid, total in ((1, 400), (2, 310)):
        mine = [event for event in events if event["tid"] == tid]
        assert sum(event["dur"] for event in mine) == pytest.approx(total)
        assert all(a["ts"] + a["dur"] == pytest.approx(b["ts"]) for a, b in pairwise(mine))
    assert "By the general schedule 50.0% of the time" in render(found)
    assert found.to_dict()["layer_seconds"] == pytest.approx(4e-4)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="compiling needs gcc")
def test_the_ceiling_is_that_of_this_machine(monkeypatch):
    """Multiply-adds of 8 bits are no slower than floats', memory no faster than the nearest cache."""
    monkeypatch.setattr(roofs, "BURSTS", 3)
    found = roofs.ceiling.__wrapped__()
    assert 1e8 < found.float32 < 1e13 and found.int8 > 0.5 * found.float32
    assert found.read(1) == found.bandwidth[0][1] and found.read(1 << 40) == found.bandwidth[-1][1]
    assert found.read(1) > found.read(1 << 40) > 1e8
    assert found.macs((8, 8)) == found.int8 and found.macs((32, 8)) == found.float32
    assert found.macs((2, 1)) is None or found.macs((2, 1)) == found.bits / 2


def test_layers_of_a_network(command, model_path, tmp_path, monkeypatch):
    """From a model to rows, JSON, trace and page; a library that was compiled so has them too."""
    pytest.importorskip("tvm")
    monkeypatch.setattr("onnxc.measure.profile.ceiling", lambda: ROOF)
    monkeypatch.setattr("onnxc.measure.profile.LEAST_SECONDS", 0.1)
    trace, page, out = tmp_path / "t.json", tmp_path / "p.html", tmp_path / "out"
    done = command(
        "compile", "--profile", model_path, "-o", out, "--check", "shapes", "--trace", trace, "--report", page, "--json"
    )
    assert done.status == 0, done.err
    found = json.loads(done.out)
    nodes = [set(layer["nodes"]) for layer in found["layers"]]
    assert {"node_c", "node_s"} in nodes and {"node_y"} in nodes
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    product = next(layer for layer in found["layers"] if set(layer["nodes"]) == {"node_a", "node_r"} and layer["macs"])
    assert (product["macs"], product["channels"]) == (16 * 3 * 9 * 64, [3, 16, 1])
    assert product["rate"] == pytest.approx(product["macs"] / product["seconds"])
    matched = [layer for layer in found["layers"] if layer["ort_seconds"] is not None]
    assert {"node_a", "node_c", "node_y"} <= {node for layer in matched for node in layer["nodes"]}
    assert "Layer by layer" in page.read_text() and json.loads(trace.read_text())["traceEvents"]
    again = command("bench", "--profile", out)
    assert again.status == 0 and "Where the time goes" in again.out and "node_c" in again.out
    both = json.loads(command("bench", "--profile", out, model_path, "--json").out)
    assert both["ort_seconds"] > 0 and len(both["layers"]) == len(found["layers"])


def test_what_is_not_compiled_has_onnx_runtimes_times(command, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxc.measure.profile.ceiling", lambda: ROOF)
    monkeypatch.setattr("onnxc.measure.profile.LEAST_SECONDS", 0.05)
    x, z = helper.make_tensor_value_info("x", 1, [8, 8]), helper.make_tensor_value_info("z", 1, None)
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu"), helper.make_node("Unique", ["y"], ["z"], "odd")]
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "g", [x], [z]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
        ),
        tmp_path / "odd.onnx",
    )
    done = command("bench", "--profile", tmp_path / "odd.onnx", "--report", tmp_path / "p.html")
    assert done.status == 0 and done.out.startswith("Not compiled: ") and "ONNX Runtime alone: 2 kernels" in done.out
    assert "Unique" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trace", "t.json"], "--trace is of --profile; add --profile"),
        (["--profile", "--trace", "t.txt"], "--trace writes another kind of file, expected F.json"),
        (["--profile", "a", "b"], "--profile takes one model, or a library and its model"),
        (["--profile", "--remote", "ssh://board"], "--profile takes one model, or a library and its model"),
    ],
)  # fmt: skip
def test_what_a_profile_is_not_of(command, model_path, words, said):
    done = command("bench", model_path, *words)
    assert done.status == 2 and said in done.error()


def test_a_profile_that_is_not_whole_is_told(model_path, tmp_path, monkeypatch):
    """ONNX Runtime says nothing of a full disk."""
    profile = OrtProfile(Lean(onnx.load(model_path), {}), tmp_path)
    (tmp_path / "cut.json").write_text('[{"cat" : "Se')
    monkeypatch.setattr(profile.session, "end_profiling", lambda: tmp_path / "cut.json")
    with pytest.raises(BadOption, match=r"could not write its profile.*make room there"):
        profile.finish(0)
