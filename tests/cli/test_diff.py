"""`onnxc diff`: the kinds of change, by passes whose effect is known; its three forms."""

import json

import onnx
import pytest

import onnxc
from onnxc.measure.diff import diff


@pytest.fixture
def made(model_path, data_path):
    def run(passes):
        return onnxc.run_passes(model_path, passes, data=data_path).model

    return run


def kinds(found):
    return {(c.kind, c.node): c.what for c in found.changes}


def test_a_model_is_as_itself(model_path):
    found = diff(model_path, model_path)
    assert found.changes == () and found.same == 7 and not found.interface and found.totals["nodes"] == (7, 7)


def test_cuts_narrow_and_integers_requantise(model_path, made):
    cut = kinds(diff(model_path, made("prune(ratio=0.5)")))
    assert cut[("narrowed", "node_a")] == "axis 1: 16 -> 8" and cut[("narrowed", "node_c")] == "axis 1: 8 -> 4"
    assert cut[("narrowed", "node_y")] == "36 -> 20 weights"
    stored = diff(model_path, made("quant"))
    assert kinds(stored)[("requantised", "node_a")] == "32 -> 8 bits"
    assert (
        set(stored.converters) == {"QuantizeLinear", "DequantizeLinear"}
        and stored.totals["bytes"][1] < stored.totals["bytes"][0] / 3
    )
    assert kinds(diff(model_path, made("quant.cluster(bits=2)")))[("requantised", "node_c")] == "32 -> 2 bits"


def test_folded_nodes_are_merged_and_new_ones_added(model_path, tmp_path):
    from onnx import helper, numpy_helper

    model = onnxc.load(model_path).to_proto()
    scales = [numpy_helper.from_array(abs(x) + 0.5, f"bn{k}") for k, x in enumerate(_four(16))]
    model.graph.initializer.extend(scales)
    model.graph.node.insert(
        1, helper.make_node("BatchNormalization", ["a", *(t.name for t in scales)], ["n"], name="bn")
    )
    model.graph.node[2].input[0] = "n"
    fused = onnxc.run_passes(model, "fuse", check="shapes").model
    found = kinds(diff(model, fused))
    assert found[("merged", "bn")] == "into node_a" and found[("altered", "node_a")] == "other weights"
    back = kinds(diff(fused, model))
    assert ("added", "bn") in back


def _four(n):
    import numpy as np

    return np.random.default_rng(0).standard_normal((4, n)).astype(np.float32)


def test_the_interface_is_told(model_path):
    model = onnxc.load(model_path).to_proto()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "z"
    assert diff(model_path, model).interface == (
        "output y: float32 ['N', 4] -> not there",
        "output z: not there -> float32 ['N', 4]",
    )


def test_what_is_no_tensor_is_told_by_its_kind(model_path, tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "list.onnx")
    assert any("sequence" in line for line in diff(model_path, tmp_path / "list.onnx").interface)


@pytest.mark.parametrize(
    "opsets, attributes, said",
    [
        ((17, 17), ("", "axis=-1"), []),
        ((11, 13), ("", ""), ["axis: 1 -> -1"]),
        ((11, 13), ("axis=-1", ""), []),
        ((17, 17), ("axis=0", ""), ["axis: 0 -> -1"]),
        ((17, 17), ("", "axis=0"), ["axis: -1 -> 0"]),
    ],
)
def test_an_attribute_that_is_left_out_has_its_default(opsets, attributes, said):
    text = '<ir_version: 7, opset_import: ["": {}]> g (float[2,3,4] x) => (float[2,3,4] y) {{ [s] y = Softmax<{}>(x) }}'
    a, b = (onnx.parser.parse_model(text.format(*pair).replace("<>", "")) for pair in zip(opsets, attributes))
    assert [change.what for change in diff(a, b).changes] == said


def test_text_json_and_page(command, model_path, made, tmp_path):
    made("prune(ratio=0.5), quant").save(tmp_path / "b.onnx")
    ended = command("diff", model_path, tmp_path / "b.onnx", "-o", tmp_path / "d.html")
    assert (
        ended.status == 0
        and "Narrowed: 2 nodes" in ended.out
        and "Conv node_a: axis 1: 16 -> 8; 32 -> 8 bits" in ended.out
    )
    page = (tmp_path / "d.html").read_text("ascii")
    assert "narrowed" in page and "<svg" in page and "2 narrowed" in page and "onnxc diff" in page
    found = json.loads(command("diff", model_path, tmp_path / "b.onnx", "--json").out)
    assert found["totals"]["nodes"][0] == 7 and found["changes"][0]["node"] == "node_a"
    assert "The models are the same." in command("diff", model_path, model_path).out
    assert command("diff", model_path, tmp_path / "none.onnx").status == 2
