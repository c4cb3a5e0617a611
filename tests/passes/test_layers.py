"""What all passes share of layers: the common view of a weight, second moments, statistics by channel."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.passes.layers.channels import spreads
from onnxc.passes.layers.layout import Layout, layout
from onnxc.passes.layers.moments import Moments

KINDS = [
    ("Conv", 1, {"group": 2}, (6, 4, 3, 2)),
    ("Conv", 1, {}, (6, 4, 3)),
    ("ConvTranspose", 1, {"group": 2}, (6, 4, 3, 2)),
    ("Gemm", 1, {}, (4, 6)),
    ("Gemm", 1, {"transB": 1}, (6, 4)),
    ("Gemm", 0, {}, (6, 4)),
    ("Gemm", 0, {"transA": 1}, (4, 6)),
    ("MatMul", 1, {}, (4, 6)),
    ("MatMul", 0, {}, (6, 4)),
    ("MatMul", 1, {}, (3, 4, 6)),
]


def stored(op, i, attrs, shape, seed=0):
    w = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    inputs = [gs.Variable("x"), gs.Variable("x")]
    inputs[i] = gs.Constant("w", w)
    return w, gs.Node(op, attrs=attrs, inputs=inputs)


@pytest.mark.parametrize("op, i, attrs, shape", KINDS)
def test_a_weight_comes_back_from_its_view(op, i, attrs, shape):
    w, node = stored(op, i, attrs, shape)
    at = layout(node, i)
    assert at.groups * at.outputs * at.columns == w.size
    np.testing.assert_array_equal(at.store(at.view(w), w.dtype), w)
    np.testing.assert_array_equal(at.store(at.matrix(w), w.dtype), w)


@pytest.mark.parametrize("op, i, attrs, shape", KINDS)
@pytest.mark.parametrize("inward", [False, True])
def test_a_factor_by_channel_lands_on_its_channel(op, i, attrs, shape, inward):
    w, node = stored(op, i, attrs, shape)
    at = layout(node, i)
    v = np.arange(1.0, 1 + at.groups * (at.channels if inward else at.outputs))
    scaled = at.view(w * at.factor(v, inward=inward))
    shape = (at.groups, 1, at.channels, 1) if inward else (at.groups, at.outputs, 1, 1)
    np.testing.assert_allclose(scaled, at.view(w) * v.reshape(shape))


@pytest.mark.parametrize("op, shape", [("Conv", (6, 4, 3, 2)), ("ConvTranspose", (8, 3, 3, 2)), ("MatMul", (2, 4, 3))])
def test_a_layout_of_extents_is_that_of_a_node(op, shape):
    _, node = stored(op, 1, {"group": 2} if "Conv" in op else {}, shape)
    assert Layout.of(op, 2, 3, 4, (3, 2) if "Conv" in op else ()) == layout(node)


@given(st.integers(0, 999), st.sampled_from([0.0, 1.0, 1e3, 1e5]))
def test_moments_keep_their_digits_whatever_the_offset(seed, offset):
    """Inputs of mean 1e5 and spread 1, float32: the covariance still has four digits."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((3, 500, 4)) @ rng.standard_normal((4, 4))
    x = (mixed + offset).astype(np.float32)
    t = (x.astype(np.float64) @ rng.standard_normal((4, 2))).astype(np.float64)
    seen = Moments(1, 4, 2)
    for rows, targets in zip(x, t, strict=True):
        seen.add(rows[None], targets[None])
    flat, goal = x.reshape(-1, 4).astype(np.float64), t.reshape(-1, 2)
    cov = np.cov(flat.T, bias=True)
    np.testing.assert_allclose(seen.covariance()[0], cov, atol=1e-4 * np.abs(cov).max())
    np.testing.assert_allclose(seen.mean[0], flat.mean(0), atol=1e-4)
    both = (goal - goal.mean(0)).T @ (flat - flat.mean(0)) / len(flat)
    np.testing.assert_allclose(seen.cross()[0], both, atol=1e-4 * np.abs(both).max())
    np.testing.assert_allclose(seen.second()[0], flat.T @ flat / len(flat), rtol=1e-6, atol=1e-4)
    h, c, mean, target = seen.around(centred=False)
    np.testing.assert_allclose(c[0], goal.T @ flat / len(flat), rtol=1e-6, atol=1e-3)
    assert not mean.any() and not target.any() and np.array_equal(h, seen.second())


def test_moments_without_rows_are_zero():
    seen = Moments(2, 3)
    assert not seen.second().any() and seen.mean.shape == (2, 3) and seen.count == 0


def test_statistics_by_channel_keep_their_digits():
    x = np.random.default_rng(1).standard_normal((4, 6, 3, 5)).astype(np.float32) + 1e4
    found = spreads(({"x": part} for part in np.split(x, 2)), {"x": 1})["x"]
    wide = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(6, -1)
    np.testing.assert_allclose(found.mean, wide.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, wide.var(1), rtol=1e-9)
    assert found.values == 60
