"""Which outputs are scores of classes, so that the largest of a row counts."""

import pytest

from onnxc.measure.compare import compare
from onnxc.runtime.scores import score_outputs

from .graphs import model

W = "<float[16,6] w = {" + ", ".join(["0.5"] * 96) + "}>"
GRAPHS = {
    "g (float[N,16] x) => (float[N,6] y) " + W + " { a = MatMul(x, w) y = Softmax(a) }": {"y"},
    "g (float[N,16] x) => (float[N,6] y) " + W + " { a = MatMul(x, w) b = Add(a, a) y = Identity(b) }": {"y"},
    "g (float[N,16] x) => (float[N,6] logits) " + W + " { a = MatMul(x, w) logits = Relu(a) }": {"logits"},
    "g (float[N,16] x) => (float[N,6] y) " + W + " { a = MatMul(x, w) y = Sigmoid(a) }": set(),
    "g (float[N,16] x) => (float[N,6] embedding) " + W + " { embedding = MatMul(x, w) }": set(),
    "g (float[N,6] z, float[N,16] x) => (float[N,6] y) " + W + " { y = MatMul(x, w) }": set(),
    "g (float[N,16] x) => (float[N,16] y) { y = Relu(x) }": set(),
    "g (float[N,16] x) => (float[N,6] y, float[N,6] z) "
    + W
    + " { a = MatMul(x, w) y = Softmax(a) z = MatMul(x, w) }": {"y"},
    "g (float[N,16] x) => (float[N,6] a, float[N,6] y) " + W + " { a = MatMul(x, w) y = Softmax(a) }": {"a", "y"},
    "g (float[N,16] x) => (float[N,6] y) " + W + " { a = MatMul(x, w) b = Sigmoid(a) y = Mul(a, b) }": set(),
    "g (float[N,16] x) => (float[N,6] y) " + W[:-1] + ", float t = {0.1}> { a = MatMul(x, w) y = Mul(t, a) }": {"y"},
}


@pytest.mark.parametrize("text", GRAPHS)
def test_scores_are_told_from_other_rows(text):
    assert score_outputs(model(text).graph) == GRAPHS[text]


def test_no_top1_is_shown_of_what_is_no_classifier():
    found = [compare(proto, proto) for proto in map(model, list(GRAPHS)[:4:3])]
    assert [one.outputs["y"].top1 for one in found] == [1, None]


@pytest.mark.parametrize(
    "op, classifies", {"TreeEnsembleRegressor": 0, "TreeEnsembleClassifier": 1, "Scaler": 0}.items()
)
def test_classical_models_that_classify(op, classifies):
    graph = model("g (float[N,16] x) => (float[N,6] y) { y = Relu(x) }").graph
    graph.node[0].op_type, graph.node[0].domain = op, "ai.onnx.ml"
    assert score_outputs(graph) == ({"y"} if classifies else set())
