"""`onnxc.compare`: the same data through two models."""

import json

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.ir.errors import BadData, VerificationError


def scaled(path, factor: float) -> onnx.ModelProto:
    """The network with its logits' weights times `factor`."""
    proto = onnx.load(path)
    last = next(node for node in reversed(proto.graph.node) if "logits" in node.output)
    for tensor in proto.graph.initializer:
        if tensor.name in last.input:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), tensor.name)
            )
    return proto


def test_a_known_difference_is_measured(resnet20_path, calib_data_path):
    result = onnxc.compare(resnet20_path, scaled(resnet20_path, 1.01), calib_data_path)
    logits = result.outputs["logits"]
    assert logits.max_rel == pytest.approx(0.01, rel=1e-3)
    assert logits.snr_db == pytest.approx(40, abs=0.01)
    assert logits.top1 == 1
    assert result.samples == 256 and not result.synthetic
    assert result.accuracy[0] == result.accuracy[1] > 0.9
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["samples"] == 256


@pytest.mark.parametrize(
    "labels, told", [(np.array(["a"] * 8), True), (np.zeros((8, 2, 5), int), True), (np.arange(8), False)]
)
def test_labels_that_tell_no_task_are_told_of(resnet20_path, labels, told):
    data = {"image": np.zeros((8, 1, 28, 28), np.float32), "labels": labels}
    compared = onnxc.compare(resnet20_path, resnet20_path, data).remarks
    listed = onnxc.run_passes(resnet20_path, "clean", data=data).report.remarks
    for remarks in (compared, listed):
        said = [
            r for r in remarks if r.startswith("no metric: labels do not tell what the outputs are for, found logits ")
        ]
        assert len(said) == told


def test_opposite_logits_are_noticed(resnet20_path, calib_data_path):
    result = onnxc.compare(resnet20_path, scaled(resnet20_path, -1), calib_data_path)
    assert result.accuracy[1] < 0.1 < result.accuracy[0]
    assert result.outputs["logits"].top1 < 0.1 and result.max_rel == pytest.approx(2, rel=1e-5)


def test_without_data_the_inputs_are_random_and_it_says_so(resnet20_path):
    result = onnxc.compare(resnet20_path, resnet20_path)
    assert result.synthetic and result.accuracy is None and result.samples == 8
    assert result.outputs["logits"].to_dict()["exact"]


def test_models_with_another_interface_are_refused(resnet20_path):
    other = onnx.load(resnet20_path)
    for node in other.graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]
    other.graph.input[0].name = "picture"
    with pytest.raises(VerificationError, match="inputs differ, expected image, found picture"):
        onnxc.compare(resnet20_path, other)
    with pytest.raises(BadData, match="no array for this input"):
        onnxc.compare(resnet20_path, resnet20_path, {"picture": np.zeros((1, 1, 28, 28), np.float32)})


def test_a_comparison_prints_as_a_table(resnet20_path):
    head, row, last = str(onnxc.compare(resnet20_path, resnet20_path)).splitlines()
    assert head.split() == ["output", "max", "abs", "error", "max", "rel", "SNR", "dB", "top-1"]
    assert row.split() == ["logits", "0", "0", "inf", "100.0%"] and last.startswith("on 8 samples of seeded random")
