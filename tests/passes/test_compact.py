"""Compact blocks: the graph computes what its nearest weight says, exact at full rank, fewer MACs, refusals by reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.passes.compact.blocks import fire, inverted_residual, separable, shuffled
from onnxc.runtime.reference import Session

RNG = np.random.default_rng(0)


def weight(o: int = 8, c: int = 8, k: int = 3) -> np.ndarray:
    return RNG.standard_normal((o, c, k, k))


def net(w: np.ndarray, strides=(1, 1), act: str = "Relu") -> onnx.ModelProto:
    """act, then one Conv with a bias and pads that keep the extents."""
    k = w.shape[2]
    conv = helper.make_node(
        "Conv", ["a", "w", "b"], ["y"], "conv", kernel_shape=[k, k], strides=strides, pads=[k // 2] * 4
    )
    graph = helper.make_graph(
        [helper.make_node(act, ["x"], ["a"], "act"), conv], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", w.shape[1], 7, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in (("w", w), ("b", RNG.standard_normal(len(w))))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "passes, block, k, strides, channels",
    [
        ("compact.separable(multiplier=2,", lambda w: separable(w, 2), 3, (2, 1), (8, 8)),
        ("compact.inverted_residual(", lambda w: inverted_residual(w, 1, False), 3, (1, 1), (12, 12)),
        ("compact.shuffle(groups=2,", lambda w: shuffled(w, 2, 1), 1, (1, 1), (8, 8)),
        ("compact.fire(squeeze=0.5,", lambda w: fire(w, 2), 3, (2, 2), (8, 8)),
        ("compact.fire(squeeze=0.5,", lambda w: fire(w, 2), 3, (1, 1), (7, 8)),
    ],
)
def test_the_block_is_the_convolution_with_its_nearest_weight(passes, block, k, strides, channels):
    w = weight(*channels, k)
    if channels[0] == 7:
        w[3:, :, [0, 0, 2, 2], [0, 2, 0, 2]] *= 0.01  # the later half is rather 1 x 1
    model = net(w, strides)
    made = onnxc.run_passes(model, passes + "ends=false)", check="shapes")
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    like = block(w.astype(np.float32).astype(np.float64)).like
    twin.graph.initializer[0].CopyFrom(numpy_helper.from_array(like.astype(np.float32), "w"))
    x = RNG.standard_normal((2, channels[1], 7, 9)).astype(np.float32)
    got, want = (Session(m).run({"x": x})["y"] for m in (made.model.to_proto(), twin))
    np.testing.assert_allclose(got, want, atol=2e-5)
    costs = made.report.rows[-1]
    assert costs.after.macs < costs.before.macs and costs.edits


def test_a_shortcut_stands_where_what_is_left_is_nearer():
    w = 0.05 * weight(12, 12)
    w[np.arange(12), np.arange(12), 1, 1] += 1
    model = net(w)
    made = onnxc.run_passes(model, "compact.inverted_residual(ends=false)", check="shapes")
    assert [n.op for n in made.model.nodes].count("Add") == 1
    x = np.abs(RNG.standard_normal((1, 12, 7, 9))).astype(np.float32)
    got, want = (Session(m).run({"x": x})["y"] for m in (made.model.to_proto(), model))
    assert np.square(got - want).mean() < 0.2 * np.square(want).mean()


def test_full_ranks_are_exact():
    w, p = weight(6, 4), weight(8, 12, 1)
    for block, like in (
        (separable(w, 9), w), (inverted_residual(w, 6, False), w), (shuffled(p, 4, 2), p), (fire(w, 4), None)
    ):  # fmt: skip
        if like is not None:
            np.testing.assert_allclose(block.like, like, atol=1e-9)
        else:  # half of the outputs keep their kernels
            kept = [np.allclose(block.like[part], w[part], atol=1e-9) for part in (slice(0, 3), slice(3, 6))]
            assert sum(kept) == 1


def test_blocks_of_a_shuffle_are_the_nearest_of_their_rank():
    w = weight(6, 8, 1)
    like = shuffled(w, 2, 1).like[:, :, 0, 0]
    for q in (slice(0, 3), slice(3, 6)):
        for i in (slice(0, 4), slice(4, 8)):
            u, s, v = np.linalg.svd(w[q, i, 0, 0])
            np.testing.assert_allclose(like[q, i], s[0] * np.outer(u[:, 0], v[0]), atol=1e-9)


@pytest.mark.parametrize(
    "passes, w, act, why",
    [
        ("compact.separable", weight(), "Relu", "the first and the last product stay"),
        ("compact.separable(ends=false)", weight(k=1), "Relu", "its kernel is 1x1"),
        ("compact.separable(multiplier=8,ends=false)", weight(), "Relu", "times its MACs"),
        ("compact.inverted_residual(ends=false)", weight(), "Tanh", "its input may be negative"),
        ("compact.shuffle(groups=3,ends=false)", weight(k=1), "Relu", "no multiples of 3 groups"),
        ("compact.fire(ends=false)", weight(1), "Relu", "it has one output"),
        ("compact.separable(ends=false,skip=['c*'])", weight(), "Relu", "skipped"),
    ],
)
def test_what_has_no_block_stays_and_says_why(passes, w, act, why):
    result = onnxc.run_passes(net(w, act=act), passes, check="shapes")
    (row,) = [r for r in result.report.rows if r.name.startswith("compact")]
    assert not row.edits and why in row.refusals[0].reason
    assert [n.op for n in result.model.nodes] == [act, "Conv"]
