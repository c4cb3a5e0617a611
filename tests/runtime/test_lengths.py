"""Outputs whose lengths follow from data: a lossy pass may change them, and that is told; others must keep their form."""

import numpy as np

import onnxc
from onnxc.measure.compare import compare
from onnxc.runtime.lengths import differs, fitted, free_axes

from .graphs import model

FOUND = """g (float[N,64] x) => (int64[2,found] at, float[N,64] y) <float zero = {0.1}> {
    h = MatMul(x, w) y = Relu(h) b = Greater(y, zero) at = NonZero(b) }"""
W = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def test_which_axes_data_decide():
    assert free_axes(model(FOUND, w=W)) == {"at": frozenset({1})}
    assert free_axes(model("g (float[N,64] x) => (float[M,8] y) { y = Relu(x) }")) == {}


def test_in_the_shape_of_the_reference():
    a = np.ones((2, 3))
    for other in (np.ones((2, 2)), np.ones((2, 4))):
        assert differs(a, other, frozenset({1})) and not differs(a, other, frozenset({0}))
        assert fitted(a, other).sum() == 2 * min(3, other.shape[1])
    assert not differs(a, np.ones((2, 3, 1)), frozenset({1})) and not differs(a, np.ones((2, 2)), frozenset())


def test_a_lossy_pass_may_change_a_length_and_it_is_told():
    proto = model(FOUND, w=W)
    done = onnxc.run_passes(proto, "quant.cluster(bits=2)")
    (told,) = [note for note in done.report.rows[-1].notes if "another length" in note]
    assert told.startswith("output at has another length, 2x")
    found = compare(proto, done.model)
    assert len(found.remarks) == 1 and "another length" in str(found) and found.outputs["at"].max_abs > 0
