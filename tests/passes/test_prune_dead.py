"""prune.dead: what gives nothing goes, and the outputs stay."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Session
from tests.passes.prune_models import chain, network


def same(model, small) -> None:
    a, b = Session(model.to_proto(), optimise=False), Session(small.to_proto(), optimise=False)
    feeds = random_feeds(a.inputs, 0)
    for name, y in a.run(feeds).items():
        np.testing.assert_allclose(b.run(feeds)[name], y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def scaled(shift: float, pad: int = 0):
    """`chain` with three normalisations of scale 0."""
    model = chain(scales=np.array([1, 0, 1, 0, 1, 1, 0, 1.0]), pad=pad)
    norm = next(n for n in model.nodes if n.name == "norm")
    values = norm.inputs[2].values.copy()
    values[[1, 3, 6]] = shift
    model.set_weight(norm, 2, values)
    return model


@pytest.mark.parametrize(
    "shift, pad, left",
    [
        (-1.0, 1, 5),  # the Relu makes zeros
        (0.0, 1, 5),
        (2.0, 0, 5),  # the constant goes into the bias
        (2.0, 1, 8),  # padding stands beside it
    ],
)
def test_normalisations_of_scale_zero(shift, pad, left):
    model = scaled(shift, pad)
    small, report = apply(make("prune.dead", {}), model)
    assert small.constants()["w1"].values.shape[0] == left
    assert bool(report.edits) == (left < 8)
    same(model, small)


def test_empty_depthwise_kernels_empty_the_layer_ahead():
    model = network(
        """g (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) {
            [first] a = Conv(x, w1, b1)
            [relu] r = Relu(a)
            [deep] d = Conv<group=4, pads=[1,1,1,1]>(r, wd)
            [last] y = Conv(d, w2)
        }""",
        w1=(4, 3, 1, 1), b1=(4,), wd=(4, 1, 3, 3), w2=(2, 4, 1, 1),
    )  # fmt: skip
    deep = next(n for n in model.nodes if n.name == "deep")
    values = deep.inputs[1].values.copy()
    values[[0, 2]] = 0
    model.set_weight(deep, 1, values)
    small, _ = apply(make("prune.dead", {}), model)
    assert small.constants()["w1"].values.shape[0] == 2
    same(model, small)


def test_do_not_remove_a_constant_that_is_summed_elsewhere():
    model = network(
        """g (float[N, 3, 4, 4] x) => (float[N, 1, 4, 4] y, float[N, 2, 4, 4] z) <int64[1] one = {1}> {
            [first] a = Conv(x, w1, b1)
            [sum] y = ReduceSum(a, one)
            [last] z = Conv(a, w2)
        }""",
        w1=np.concatenate([np.zeros((1, 3, 1, 1)), np.ones((3, 3, 1, 1))]), b1=np.array([5.0, 1, 1, 1]), w2=(2, 4, 1, 1),
    )  # fmt: skip
    small, _ = apply(make("prune.dead", {}), model)
    same(model, small)


def test_do_not_touch_what_is_alive():
    model = chain()
    small, report = apply(make("prune.dead", {}), model)
    assert not report.edits
    assert small.constants()["w1"].values.shape == (8, 3, 3, 3)
    assert not apply(make("prune.dead", {"threshold": 1e-9}), model)[1].edits
