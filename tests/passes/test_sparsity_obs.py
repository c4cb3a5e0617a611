"""prune.obs: zeros as asked for, weights that make up for them, and moments that are what the layers read."""

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import Context, Report, apply
from onnxc.passes.layers.moments import moments
from onnxc.passes.layers.stored import layers, readable
from onnxc.passes.prune.refit import error, refit
from onnxc.passes.registry import make
from tests.passes.sparse_models import build, gap, given, normal, run, text, weights, zoo

DATA = given(x=normal(5, 40, 4, 8, 8))


def seen(model, **data):
    """The layers of a model that are read, and their moments."""
    verified = verify(model)
    found = readable(layers(model, verified.analysis, [], Report()), Report())
    context = Context(verified, **given(**data))
    return found, list(moments(model, verified.analysis, [layer.linears() for layer in found], context))


@examples(st.integers(0, 999), st.integers(1, 3), st.integers(1, 6), st.integers(1, 12))
def test_refit_solves_the_normal_equations(seed, groups, outputs, size):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, size, 3 * size))
    h = x @ x.transpose(0, 2, 1) + 0.1 * np.eye(size)
    w, keep = rng.standard_normal((groups, outputs, size)), rng.random((groups, outputs, size)) < 0.6
    v = refit(w, keep, h, w)
    assert not v[~keep].any()
    for g in range(groups):
        for o in range(outputs):
            s = keep[g, o]
            best = np.zeros(size)
            best[s] = np.linalg.solve(h[g][np.ix_(s, s)], (h[g] @ w[g, o])[s])
            np.testing.assert_allclose(v[g, o], best, atol=1e-5)
    assert error(w, v, h) <= error(w, np.where(keep, w, 0), h) + 1e-12


@pytest.mark.parametrize(
    "attrs", [{}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 1], "dilations": [1, 2]}, {"auto_pad": "SAME_LOWER"}]
)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_moments_give_the_power_of_the_outputs(attrs, group):
    """w H w^T is the mean square of each output channel, whatever the window."""
    nodes = [("Conv", ["x", "w"], ["y"], {"group": group, **attrs})]
    model = build(nodes, {"x": ["N", 4, 7, 6]}, {"y": ["N", 8, None, None]}, {"w": normal(1, 8, 4 // group, 3, 2)})
    x = normal(2, 5, 4, 7, 6)
    (layer,), (moment,) = seen(model, x=x)
    w = layer.matrix()
    power = np.einsum("goi,gij,goj->go", w, moment.second(), w).ravel()
    np.testing.assert_allclose(power, np.square(run(model, {"x": x})["y"]).mean((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    "op, ins, shape, attrs, axis",
    [
        ("MatMul", ["x", "w"], (6, 5), {}, 0),
        ("MatMul", ["w", "x"], (5, 6), {}, 1),
        ("Gemm", ["x", "w"], (6, 5), {}, 0),
        ("Gemm", ["x", "w"], (5, 6), {"transB": 1}, 0),
        ("Gemm", ["x", "w"], (6, 5), {"transA": 1}, 0),
        ("Gemm", ["w", "x"], (5, 6), {}, 1),
        ("Gemm", ["w", "x"], (5, 6), {"transB": 1}, 1),
        ("Gemm", ["w", "x"], (6, 5), {"transA": 1}, 1),
    ],
)
def test_moments_of_matrix_products_on_either_side(op, ins, shape, attrs, axis):
    plain = (ins[0] == "x") != bool(attrs.get("transA" if ins[0] == "x" else "transB", 0))
    size = (9, 6) if plain else (6, 9)
    model = build(
        [(op, ins, ["y"], attrs)], {"x": [*size]}, {"y": [9, 5] if axis == 0 else [5, 9]}, {"w": normal(1, *shape)}
    )
    x = normal(2, *size)

    class Once:
        samples = 1

        def batches(self, size=1, limit=None):
            yield {"x": x}

    verified = verify(model)
    found = readable(layers(model, verified.analysis, [], Report()), Report())
    context = Context(verified, **{**given(x=x), "data": Once()})
    (moment,) = moments(model, verified.analysis, [found[0].linears()], context)
    w = found[0].matrix()
    power = np.einsum("goi,gij,goj->go", w, moment.second(), w).ravel()
    np.testing.assert_allclose(power, np.square(run(model, {"x": x})["y"]).mean(axis), rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"scope": "layer", "sparsity": 0.8}, {"scope": "layer"}, {"n": 2, "m": 4}, {"n": 1, "m": 2, "rounds": 1}],
    ids=str,
)
def test_closer_to_the_original_than_plain_zeros(options):
    plain = {k: v for k, v in options.items() if k not in ("rounds",)}
    other = make("prune.nm", plain) if "n" in options else make("prune.magnitude", {"scope": "layer", **plain})
    model = zoo()
    after, report = apply(make("prune.obs", {"skip": ["up"], **options}), model, **DATA)
    zeroed, _ = apply(type(other)(**{**other.options(), "skip": ["up"]}), model)
    old, new, cut = weights(model), weights(after), weights(zeroed)
    assert sum(np.count_nonzero(v == 0) for v in new.values()) >= sum(np.count_nonzero(v == 0) for v in cut.values())
    test = {"x": normal(6, 20, 4, 8, 8)}
    assert gap(model, after, test) < gap(model, zeroed, test)
    assert np.array_equal(old["up_w"], new["up_w"])
    assert all("output changed by" in e.what for e in report.edits) and len(report.edits) >= 5


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (1, 2)])
def test_every_m_neighbours_keep_n(n, m):
    after, _ = apply(make("prune.obs", {"n": n, "m": m}), zoo(), **DATA)
    for name, axis in {"stem_w": 1, "same_w": 1, "group_w": 1, "left_w": 1}.items():
        quads = np.moveaxis(weights(after)[name], axis, -1).reshape(-1, m)
        assert (np.count_nonzero(quads, axis=1) == n).all(), name


def test_the_same_twice():
    runs = [text(apply(make("prune.obs"), zoo(), **DATA)[0]) for _ in range(2)]
    assert runs[0] == runs[1]


def test_shared_weights_stay_shared():
    after, _ = apply(make("prune.obs"), zoo(), **DATA)
    one, two = (next(n for n in after.nodes if n.name == k) for k in ("one", "two"))
    assert one.inputs[1] is two.inputs[1] and np.count_nonzero(one.inputs[1].values) < 576


def test_inputs_that_are_always_zero_do_no_harm():
    x = normal(5, 40, 4, 8, 8)
    x[:, 1] = 0
    after, _ = apply(make("prune.obs"), zoo(), **given(x=x))
    assert all(np.isfinite(v).all() for v in weights(after).values())
    assert not weights(after)["stem_w"][:, 1].any()  # they cost nothing, so they go first


def test_do_not_read_transposed_convolutions():
    _, report = apply(make("prune.obs"), zoo(), **DATA)
    assert [(r.node, r.reason) for r in report.refusals] == [("up", "inputs of transposed convolutions are not read")]


def test_do_not_hold_moments_that_are_too_large():
    weight = {"w": np.zeros((5000, 2), np.float32)}
    model = build([("MatMul", ["x", "w"], ["y"], {})], {"x": ["N", 5000]}, {"y": ["N", 2]}, weight)
    _, report = apply(make("prune.obs"), model, **given(x=np.zeros((2, 5000), np.float32)))
    assert "has 5000 inputs" in report.refusals[0].reason and not report.edits


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"n": 4}, {"rounds": 0}, {"damp": 0.0}], ids=str)
def test_options_that_make_no_sense(options):
    with pytest.raises(BadOption):
        make("prune.obs", options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plain, options", [("prune.nm", {}), ("prune.magnitude", {"scope": "layer", "sparsity": 0.7})], ids=str
)
def test_a_trained_network_loses_less_than_by_magnitude(resnet20_path, calib_data_path, test_data_path, plain, options):
    model = load(str(resnet20_path))
    calib, test = np.load(calib_data_path), np.load(test_data_path)

    def accuracy(m):
        return float((run(m, {"image": test["image"]})["logits"].argmax(1) == test["labels"]).mean())

    obs = {"n": 2} if plain == "prune.nm" else options
    after, _ = apply(make("prune.obs", obs), model, **given(image=calib["image"][:128]))
    zeroed, _ = apply(make(plain, options), model)
    assert accuracy(after) > accuracy(model) - 0.03 and accuracy(after) > accuracy(zeroed) + 0.2
