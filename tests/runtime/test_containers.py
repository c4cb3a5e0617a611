"""Inputs and outputs that are no tensors, and texts: fed, run and compared as arrays."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxc
from onnxc.measure.compare import compare
from onnxc.runtime.containers import taken
from onnxc.runtime.feeding import feed
from onnxc.runtime.reference import Session

from .graphs import model

W = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
KINDS = {
    "sequence": "g (seq(float[n,16]) xs) => (float[m,8] y) { x = ConcatFromSequence <axis = 0> (xs) y = MatMul(x, w) }",
    "optional": "g (optional(float[n,16]) o) => (float[n,8] y) { x = OptionalGetElement(o) y = MatMul(x, w) }",
    "parts": "g (float[N,16] x) => (seq(float[N,4]) ys, float[N,8] y) <int64 four = {4}>"
    "{ y = MatMul(x, w) ys = SplitToSequence <axis = 1> (y, four) }",
}


@pytest.mark.parametrize("kind", KINDS)
def test_passes_run_on_it_without_an_option(kind):
    proto = model(KINDS[kind], w=W)
    done = onnxc.run_passes(proto, "quant")
    assert any(edit.node for edit in done.report.rows[-1].edits) and done.report.rows[-1].error["snr_db"] > 20
    assert compare(proto, done.model).outputs["y"].snr_db > 20


def words() -> onnx.ModelProto:
    """Texts to numbers by a LabelEncoder, and classes to texts."""
    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node("LabelEncoder", ["s"], ["i"], domain=ml, keys_strings=["no", "yes"], values_int64s=[0, 1]),
        helper.make_node("Gather", ["w", "i"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["k"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder", ["k"], ["t"], domain=ml, keys_int64s=range(8), values_strings=list("abcdefgh")
        ),
    ]
    text, number = helper.make_tensor_value_info, onnx.numpy_helper.from_array(W, "w")
    graph = helper.make_graph(
        nodes, "g", [text("s", TensorProto.STRING, ["N"])],
        [text("y", TensorProto.FLOAT, ["N", 8]), text("t", TensorProto.STRING, ["N"])], [number],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ml, 3)], ir_version=8
    )


def test_texts_are_drawn_from_those_that_are_known():
    data = feed(words())
    assert set(next(data.batches(8))["s"].tolist()) == {"no", "yes"}
    assert data.remarks == ["s no or yes (LabelEncoder)"]
    done = onnxc.run_passes(words(), "clean", data={"s": np.array(["yes", "no", "maybe"])})
    assert done.report.samples == 3


def test_maps_and_lists_as_arrays():
    assert taken([{"b": 2.0, "a": 1.0}, {"a": 3.0, "b": 4.0}]).tolist() == [[1, 2], [3, 4]]
    assert taken([np.zeros((2, 3)), np.ones((2, 3))]).shape == (2, 2, 3)
    assert taken([np.zeros((2, 3)), np.ones((1, 3))]).shape == (9,)
    assert taken([]).shape == taken(None).shape == (0,)


def test_a_sequence_is_fed_as_an_array():
    session = Session(model(KINDS["sequence"], w=W))
    assert session.run({"xs": np.ones((3, 2, 16), np.float32)})["y"].shape == (6, 8)
