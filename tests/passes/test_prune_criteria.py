"""Criteria of prune.channels: what each of them must remove first, whatever else it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc import run_passes
from onnxc.ir.analysis import analyse
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.verify import verify
from onnxc.passes.base import Context, apply
from onnxc.passes.layers.felt import Felt, noise
from onnxc.passes.layers.linear import linear
from onnxc.passes.prune import groups
from onnxc.passes.prune.coupling import places
from onnxc.passes.prune.criteria import lookup, scores
from onnxc.passes.prune.score import ScoringContext
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests.passes.prune_models import TOYS, chain, network
from tests.passes.quant_helpers import model_of

ALL = sorted(
    [
        "l1",
        "l2",
        "fpgm",
        "lamp",
        "bn_scale",
        "activation",
        "apoz",
        "hessian",
        "obs",
        "reconstruction",
        "redundancy",
        "random",
    ]
)


def context(model, samples=32, seed=0, data=None):
    specs = input_specs(model.to_proto())
    rng = np.random.default_rng(7)
    arrays = {n: rng.normal(size=(samples, *s.shape[1:])).astype(np.float32) for n, s in specs.items()}
    runner, opened = Runner(optimise=False), open_data(data or arrays, specs)
    judges = Evaluator(runner, opened)
    return {"runner": runner, "data": opened, "seed": seed, "synthetic": False, "evaluator": judges}


def rate(model, name, **given):
    analysis = analyse(model)
    from onnxc.passes.prune import coupling

    found = coupling.groups(model, analysis)
    ctx = Context(verify(model), **context(model, data=given.pop("data", None)))
    scene = ScoringContext(model, analysis, found, ctx, seed=given.pop("seed", 0))
    return found, scores(scene, name, **given)


def dead(width=8, gone=(1, 4)):
    """Channels `gone` are made by zeros, are zero and are read by zeros."""
    model = chain(width=width)
    nodes = {n.name: n for n in model.nodes}
    for node, i, d in (("first", 1, 0), ("norm", 1, 0), ("norm", 2, 0), ("second", 1, 1)):
        w = nodes[node].inputs[i].values.copy()
        np.moveaxis(w, d, 0)[list(gone)] = 0
        model.set_weight(nodes[node], i, w)
    return model


def test_every_criterion_is_here():
    lookup("l1")
    from onnxc.passes.prune.score import CRITERIA

    assert sorted(CRITERIA) == ALL
    assert all(c.rate.__doc__ for c in CRITERIA.values())


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("fpgm", "redundancy", "random")])
def test_what_is_zero_goes_first(name):
    found, rated = rate(dead(), name)
    score = rated[found[0].atom]
    assert set(np.argsort(score, kind="stable")[:2]) == {1, 4}
    assert score.shape == (8,) and np.isfinite(score).all() and (score >= 0).all()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=8)
@given(st.integers(0, 100))
def test_scores_do_not_depend_on_the_order_of_channels(name, seed):
    if name == "random":
        return
    model = chain(seed)
    order = np.random.default_rng(seed).permutation(8)
    shuffled = model.copy()
    for node, i, d in (("first", 1, 0), *(("norm", i, 0) for i in (1, 2, 3, 4)), ("second", 1, 1)):
        at = next(n for n in shuffled.nodes if n.name == node)
        shuffled.set_weight(at, i, np.take(at.inputs[i].values, order, d))
    (g,), a = rate(model, name)
    (h,), b = rate(shuffled, name)
    np.testing.assert_allclose(a[g.atom][order], b[h.atom], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_every_criterion_cuts_a_trained_network(resnet20_path, calib_data_path, name):
    model = load(resnet20_path)
    given_ = context(model, data=calib_data_path)
    options = {"macs": 0.8, "criterion": name, "samples": 64, "recover": "none"}
    small, report = apply(make("prune", options), model, **given_)
    again, _ = apply(make("prune", options), model, **given_)
    assert report.edits
    for a, b in zip(small.constants().values(), again.constants().values(), strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_bn_scale_reads_gamma_alone():
    gamma = np.array([3, 0.1, 2, -0.2, 5, -4, 1, 0.5])
    (group,), rated = rate(chain(scales=gamma), "bn_scale")
    np.testing.assert_allclose(rated[group.atom], np.abs(gamma), rtol=1e-6)


@pytest.mark.parametrize("name", ["l2", "fpgm", "lamp"])
def test_criteria_of_filters_leave_readers_out_unless_asked(name):
    model = chain()
    w = next(n for n in model.nodes if n.name == "first").inputs[1].values.reshape(8, -1).astype(float)
    energy = (w**2).sum(1)
    want = {
        "l2": np.sqrt(energy),
        "fpgm": np.linalg.norm(w[:, None] - w[None], axis=2).sum(1),
        "lamp": energy / [energy[energy >= e].sum() for e in energy],
    }[name]
    (group,), rated = rate(model, name, normalise="none")
    np.testing.assert_allclose(rated[group.atom], want, rtol=1e-5)
    second, least = model.nodes[-1], int(np.argmin(want))
    read = second.inputs[1].values.copy()
    read[:, least] *= 100
    model.set_weight(second, 1, read)
    for readers in (False, True):
        small, _ = apply(make("prune", {"criterion": name, "readers": readers}), model)
        kept = small.nodes[0].inputs[1].values.reshape(-1, w.shape[1])
        assert np.any(np.all(kept == w[least].astype(np.float32), axis=1)) == readers


def test_do_not_take_readers_where_no_criterion_asks():
    with pytest.raises(BadOption, match="option readers goes with criterion l1, l2, fpgm or lamp"):
        make("prune", {"criterion": "bn_scale", "readers": True})


def test_do_not_take_bn_scale_after_fuse(resnet20_path):
    fused = run_passes(resnet20_path, "fuse", check="shapes").model
    with pytest.raises(Unsupported, match="prune before fuse"):
        apply(make("prune", {"criterion": "bn_scale"}), fused)


def test_a_group_that_a_criterion_cannot_rate_stays_and_is_named():
    model = network(
        """g (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) {
            [a] a = Conv(x, wa)
            [norm] b = BatchNormalization(a, s, s, s, s)
            [b] c = Conv(b, wb)
            [c] y = Conv(c, wc)
        }""",
        wa=(6, 3, 1, 1), wb=(4, 6, 1, 1), wc=(5, 4, 1, 1), s=np.ones(6),
    )  # fmt: skip
    small, report = apply(make("prune", {"criterion": "bn_scale"}), model)
    assert {n.name: n.inputs[1].values.shape[0] for n in small.nodes if n.op == "Conv"} == {"a": 3, "b": 4, "c": 5}
    assert any(r.node == "b" and "no BatchNormalization scales" in r.reason for r in report.refusals)


def test_criteria_on_data_need_data():
    with pytest.raises(BadOption, match="criterion hessian looks at activations"):
        apply(make("prune", {"criterion": "hessian"}), chain())


def duplicated(pairs=((0, 1), (2, 5))):
    """Channels that are made alike in pairs, and read by different weights."""
    model = chain(width=8)
    nodes = {n.name: n for n in model.nodes}
    for node, i in (("first", 1), *(("norm", i) for i in (1, 2, 3, 4))):
        w = nodes[node].inputs[i].values.copy()
        for a, b in pairs:
            w[b] = w[a]
        model.set_weight(nodes[node], i, w)
    return model


def test_redundancy_merges_duplicates_exactly():
    model = duplicated()
    small, _ = apply(make("prune", {"criterion": "redundancy", "ratio": 0.25}), model)
    assert small.nodes[0].inputs[1].values.shape[0] == 6
    x = {"x": np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)}
    before = Session(model.to_proto()).run(x)["y"]
    np.testing.assert_allclose(Session(small.to_proto()).run(x)["y"], before, atol=1e-5)
    plain, _ = apply(make("prune", {"criterion": "l1", "ratio": 0.25}), model)
    assert np.abs(Session(plain.to_proto()).run(x)["y"] - before).max() > 1e-2


def test_redundancy_compares_functions_whatever_normalisations_stand_behind():
    """Two channels that a batch normalisation makes alike, and two whose weights are alike in scale alone."""
    model = chain(width=4)
    nodes = {n.name: n for n in model.nodes}
    w = np.array(nodes["first"].inputs[1].values)
    w[1], w[2] = 3 * w[0], w[0]
    model.set_weight(nodes["first"], 1, w)
    scale, zero, one = np.float32([3, 1, 1, 1]), np.zeros(4, np.float32), np.ones(4, np.float32)
    for i, v in ((1, scale), (2, zero), (3, zero), (4, one)):  # 0 and 1 are one function, 2 is a third of it
        model.set_weight(nodes["norm"], i, v)
    if len(nodes["first"].inputs) > 2:
        model.set_weight(nodes["first"], 2, zero)
    found, rated = rate(model, "redundancy")
    score = rated[found[0].atom]
    assert min(score[0], score[1]) < 1e-6 < score[2]
    fused = Pipeline("clean,fuse", check="shapes").transform(model).model
    found, alike = rate(fused, "redundancy")
    np.testing.assert_allclose(alike[found[0].atom], score, rtol=1e-4, atol=1e-9)


def test_redundancy_compares_what_is_left_once_earlier_channels_are_merged():
    """Channels 0 and 1 of `a` are alike; 0 and 1 of `b` read them by other weights, whose sums are equal."""
    wa, wb = np.random.default_rng(0).normal(size=(2, 4, 4, 1, 1)).astype(np.float32)
    wa[1], wb[1] = wa[0], wb[0]
    wb[1, :2, 0, 0] = wb[0, 0, 0, 0] + 5, wb[0, 1, 0, 0] - 5
    model = network(
        """g (float[N, 4, 4, 4] x) => (float[N, 5, 4, 4] y) {
            [a] p = Conv(x, wa)
            q = Relu(p)
            [b] r = Conv(q, wb)
            s = Relu(r)
            [c] y = Conv(s, wc)
        }""",
        wa=(4, 4, 1, 1), wb=(4, 4, 1, 1), wc=(5, 4, 1, 1),
    )  # fmt: skip
    nodes = {n.name: n for n in model.nodes}
    model.set_weight(nodes["a"], 1, wa)
    model.set_weight(nodes["b"], 1, wb)
    small, _ = apply(make("prune", {"criterion": "redundancy", "ratio": 0.25, "round_to": 1}), model)
    assert [n.inputs[1].values.shape[:2] for n in small.nodes if n.op == "Conv"] == [(3, 4), (3, 3), (5, 3)]
    x = {"x": np.random.default_rng(1).normal(size=(4, 4, 4, 4)).astype(np.float32)}
    before = Session(model.to_proto()).run(x)["y"]
    np.testing.assert_allclose(Session(small.to_proto()).run(x)["y"], before, rtol=1e-4, atol=1e-4)


def test_do_not_merge_what_activations_are_contracted_with():
    model = network(
        """g (float[N, 4, 8] x) => (float[N, 4, 4] y) {
            [q] q = MatMul(x, wq)
            [k] k = MatMul(x, wk)
            [t] t = Transpose<perm=[0, 2, 1]>(k)
            [y] y = MatMul(q, t)
        }""",
        wq=(8, 6), wk=(8, 6),
    )  # fmt: skip
    assert len(groups(model)) == 1
    _, report = apply(make("prune", {"criterion": "redundancy"}), model)
    assert not report.edits and any("a merge needs" in r.reason for r in report.refusals)


def places_and_sizes(head: str) -> Model:
    """Channels 0 to 3 make a small output, 4 to 7 one that is ten times as large; of each four, one counts by far the most."""
    w = np.zeros((2, 8, 1, 1))
    w[0, :4, 0, 0], w[1, 4:, 0, 0] = [1, 0.5, 0.5, 0.5], [10, 2, 2, 2]
    conv = head == "Conv"
    pool = "" if conv else "[pool] p = GlobalAveragePool(b) [flat] f = Flatten(p)"
    shape = "[N, 2, 6, 6]" if conv else "[N, 2]"
    last = "Conv(b, w2)" if conv else "Gemm<transB=1>(f, w2)"
    return network(
        f"""g (float[N, 8, 6, 6] x) => (float{shape} y) {{
            [first] a = Conv(x, w1)
            [relu] b = Relu(a)
            {pool}
            [head] y = {last}
        }}""",
        w1=np.eye(8).reshape(8, 8, 1, 1), w2=w if conv else w.reshape(2, 8),
    )  # fmt: skip


def test_each_channel_of_a_map_counts_by_its_own_variance_and_scores_of_classes_together():
    found, rated = rate(places_and_sizes("Conv"), "reconstruction")
    (score,) = (rated[g.atom] for g in found)
    assert score[:4].min() > score[5:].max()  # half of a small output is more of it than a fifth of a large one
    found, rated = rate(places_and_sizes("Gemm"), "reconstruction")
    (score,) = (rated[g.atom] for g in found)
    assert score[:4].max() < score[5:].min()
    y = np.random.default_rng(0).normal(size=(16, 2, 5, 5)) * np.float64([1, 10])[:, None, None]
    off = y + np.float64([0.5, 0])[:, None, None]
    assert noise({"y": y}, {"y": off}) > 0.05
    assert noise({"y": y[..., 0, 0]}, {"y": off[..., 0, 0]}) < 0.005


def test_obs_is_the_error_that_least_squares_leaves():
    """The OBS score of a channel is the smallest mean squared error of the reader without that channel."""
    from onnxc.passes.layers.moments import moments
    from onnxc.passes.prune.criteria_data import consumers

    model = chain(width=4)
    found, rated = rate(model, "obs")
    scene = ScoringContext(model, analyse(model), found, Context(verify(model), **context(model)))
    from onnxc.passes.prune import coupling

    scene.groups = coupling.groups(model, scene.analysis)
    layer, *_ = consumers(scene)
    seen, *_ = moments(model, scene.analysis, [[layer]], scene.ctx, 512)
    cov, w = seen.covariance()[0], layer.matrix()[0]
    energy = np.einsum("oi,ij,oj->", w, cov, w)
    for c in range(4):
        kept = np.delete(np.arange(36), np.arange(9 * c, 9 * c + 9))
        best = np.linalg.solve(cov[np.ix_(kept, kept)], cov[kept] @ w.T)
        left = np.trace(w @ cov @ w.T) - np.trace(w @ cov[:, kept] @ best)
        assert rated[found[0].atom][c] == pytest.approx(left / energy, rel=5e-2)


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("normalise", ["mean", "max", "none"])
def test_reductions_and_normalisations(reduce, normalise):
    (group,), rated = rate(chain(), "l1", reduce=reduce, normalise=normalise)
    w1, w2 = (np.abs(n.inputs[1].values.astype(float)) for n in chain().nodes if n.op == "Conv")
    both = np.stack([w1.sum((1, 2, 3)), w2.sum((0, 2, 3))])
    if normalise != "none":
        both = both / getattr(both, normalise)(axis=1, keepdims=True)
    np.testing.assert_allclose(rated[group.atom], getattr(both, reduce)(axis=0), rtol=1e-5)


def test_places_name_every_index_of_an_axis():
    model = TOYS["reshape"]()
    analysis = analyse(model)
    axis = analysis.uses["head", 1][0]
    (at,) = [p for a, p in places(axis).items() if a.frozen is None]
    np.testing.assert_array_equal(at, np.arange(128).reshape(8, 16))


@pytest.mark.parametrize("batch", ["N", 1, 5])
def test_what_outputs_feel_is_measured_on_16_samples_however_many_a_model_takes(batch):
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{batch},4,6,6] x) => (float[{batch},3,6,6] y) {{ y = Conv(x, w) }}"""
    w = np.random.default_rng(1).normal(size=(3, 4, 1, 1)).astype(np.float32)
    model = model_of(text, w=w)
    x = np.random.default_rng(2).normal(size=(40, 4, 6, 6)).astype(np.float32)
    felt = Felt(model, Context(verify(model), **context(model, data={"x": x})))
    assert 16 <= len(felt.real["y"]) <= 20 and np.array_equal(
        np.concatenate([f["x"] for f in felt.feeds]), x[: len(felt.real["y"])]
    )
    layer = linear(model, model.nodes[0])
    assert felt([(layer, layer.matrix(), np.zeros((1, 4)))]) == 0
    assert np.isclose(felt([(layer, 0.9 * layer.matrix(), np.zeros((1, 4)))]), 0.01, rtol=0.1)


def test_apoz_counts_behind_the_relu_and_not_behind_a_pool():
    model = network(
        """g (float[N, 1, 4, 4] x) => (float[N, 1, 2, 2] y) {
            a = Conv<pads=[0,0,0,0]>(x, w, b) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, v) }""",
        w=np.ones((2, 1, 1, 1)), b=np.array([0.0, -0.5]), v=np.ones((1, 2, 1, 1)),
    )  # fmt: skip
    x = np.zeros((8, 1, 4, 4), np.float32)
    x[:, :, ::2, ::2] = 1.0  # one pixel of each window that is pooled
    (group,), rated = rate(model, "apoz", data={"x": x})
    assert np.allclose(rated[group.atom], 0.25)
