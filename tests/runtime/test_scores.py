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
}


@pytest.mark.parametrize("text", GRAPHS)
def test_scores_are_told_from_other_rows(text):
    assert score_outputs(model(text).graph) == GRAPHS[text]


def test_no_top1_is_shown_of_what_is_no_classifier():
    found = [compare(proto, proto) for proto in map(model, list(GRAPHS)[:4:3])]
    assert [one.outputs["y"].top1 for one in found] == [1, None]
