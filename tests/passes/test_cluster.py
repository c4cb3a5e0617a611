"""quant.cluster and quant.hash: the packed model equals its float twin, the clusters are optimal, what is left alone."""

import itertools
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxc.cli import tables
from onnxc.cli.inspect import render
from onnxc.ir import functions
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.verify import verify
from onnxc.measure.inspect import inspect
from onnxc.passes.base import Report, apply
from onnxc.passes.layers.stored import layers
from onnxc.passes.quant import unseen
from onnxc.passes.quant.cluster_codes import Settings, find_codes
from onnxc.passes.quant.cluster_entropy import entropy_of
from onnxc.passes.quant.cluster_exact import optimal, optimal_with_zero
from onnxc.passes.quant.cluster_kmeans import STARTS, STEPS, assign, kmeans, nearest
from onnxc.passes.quant.cluster_points import RUN, STRIP, points
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests import golden

from .quant_helpers import feeds_of, model_of, run

CASES = golden.cases("cluster")


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(opset: int = 13, dtype=np.float32):
    """A convolution, a grouped one, a transposed one, a MatMul and a Gemm."""
    kind = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[N,4,6,6] x) => ({kind}[N,5] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1], group=2>(b, w2)
        d = ConvTranspose(c, w3)
        e = GlobalAveragePool(d)
        f = Flatten(e)
        m = MatMul(f, w4)
        y = Gemm<transB=1>(m, w5, b5) }}"""
    made = {
        "w1": weight(16, 4, 3, 3), "b1": weight(16, seed=1), "w2": weight(16, 8, 3, 3, seed=2),
        "w3": weight(16, 8, 2, 2, seed=3), "w4": weight(8, 48, seed=4), "w5": weight(5, 48, seed=5), "b5": weight(5),
    }  # fmt: skip
    return model_of(text, **{k: v.astype(dtype) for k, v in made.items()})


def clustered(model, data=None, **options):
    source = open_data(data, input_specs(model.to_proto()), samples=16)
    return apply(make("quant.cluster", options), model, runner=Runner(optimise=False), data=source, synthetic=True)


def twin(model):
    """The same model with every Lookup replaced by the floats that it means, worked out in NumPy."""
    model = model.copy()
    for node in list(model.nodes):
        if functions.is_lookup(node):
            model.replace_uses(node.outputs[0], model.constant(f"{node.name}_real", functions.weight(node)))
            model.remove(node)
    return model


def lookups(model) -> list:
    return [n for n in model.nodes if functions.is_lookup(n)]


OPTIONS = [
    {"bits": 1}, {"bits": 3}, {"bits": 4, "scope": "model"}, {"bits": 3, "scope": "channels", "channels": 4},
    {"bits": 5, "entropy": 2.0}, {"bits": 3, "store": "bytes"}, {"bits": 3, "importance": "hessian"},
    {"bits": 3, "refit": True}, {"bits": 4, "entropy": 2.0, "importance": "hessian", "refit": True},
    {"bits": 3, "scope": "model", "importance": "hessian"}, {"bits": 2, "start": "linear"},
]  # fmt: skip


# the model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_packed_model_equals_its_twin(options):
    model = network()
    done, report = clustered(model, **options)
    assert len(lookups(done)) == 5 and len(report.edits) == 5
    feeds = feeds_of(model)
    for optimise in (False, True):
        assert np.array_equal(run(done, feeds, optimise)["y"], run(twin(done), feeds, optimise)["y"])
    floats, _ = clustered(model, **{**options, "store": "floats"})
    assert not lookups(floats)
    assert np.array_equal(run(done, feeds)["y"], run(floats, feeds)["y"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_turned_matrix_has_a_codebook_for_each_run_of_outputs(dtype):
    done, _ = clustered(network(dtype=dtype), bits=2, scope="channels", channels=16)
    turned = next(n for n in done.nodes if n.op == "Transpose")
    assert turned.inputs[0].inputs[0].inputs[1].values.shape == (3, 4)
    assert turned.inputs[0].inputs[0].inputs[1].values.dtype == dtype
    assert verify(done).analysis.shape(turned.outputs[0].name) == (8, 48)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_old_models_are_raised(opset):
    text = f'<ir_version: 4, opset_import: ["" : {opset}]> g (float[N,4,6,6] x) => (float[N,16,4,4] y) {{ y = Conv(x, w) }}'
    model = model_of(text, w=weight(16, 4, 3, 3))
    done, report = clustered(model, bits=3)
    assert done.opset == 13 and any("raised from opset" in n for n in report.notes)
    feeds = feeds_of(model)
    assert np.array_equal(run(done, feeds)["y"], run(twin(done), feeds)["y"])
    assert clustered(model, bits=3, store="floats")[0].opset == opset


def test_one_codebook_in_the_whole_model():
    done, _ = clustered(network(), bits=4, scope="model")
    assert len({id(n.inputs[1]) for n in lookups(done)}) == 1
    assert lookups(done)[0].inputs[1].values.shape == (1, 16)


def test_the_file_and_the_cost_shrink():
    model = network()
    done, _ = clustered(model, bits=3)
    before, after = (cost(m, verify(m)) for m in (model, done))
    assert after.bytes < 0.2 * before.bytes and after.macs == before.macs and after.bops < before.bops / 8
    assert after.params == before.params + sum(n.inputs[1].values.size for n in lookups(done))


def test_weights_that_were_pruned_stay_zero():
    pruned, _ = apply(make("prune.magnitude", {"sparsity": 0.8}), network())
    for options in OPTIONS:
        done, _ = clustered(pruned, **options)
        for node in lookups(done):
            stem = node.name.removesuffix("_lookup")
            before, after = pruned.constants()[stem].values, functions.weight(node)
            after = after.T if before.shape != after.shape else after
            assert not after[before == 0].any(), (options, stem)


def test_zeros_may_be_given_up():
    w = np.append(weight(999) / 8 + 1, np.float32(0))
    kept, free = (find_codes([w], [None], replace(of(2), zeros=z)) for z in (True, False))
    assert kept.values[kept.indices(w, None)][-1] == 0 and (kept.values == 0).sum() == 1
    assert (free.values != 0).all()


def test_a_second_run_changes_nothing():
    done, _ = clustered(network(), bits=3)
    again, report = clustered(done, bits=3)
    assert not report.edits and len(lookups(again)) == 5
    floats, _ = clustered(network(), bits=3, store="floats")
    same, _ = clustered(floats, bits=3, store="floats")
    assert all(np.array_equal(v.values, same.constants()[k].values) for k, v in floats.constants().items())


def test_a_weight_that_two_nodes_read_is_packed_once():
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) y = Conv<pads=[1,1,1,1]>(a, w) }"""
    model = model_of(text, w=weight(4, 4, 3, 3))
    done, report = clustered(model, bits=2, refit=True)
    assert len(lookups(done)) == 1 and len(lookups(done)[0].outputs[0].outputs) == 2
    assert any("read by 2 nodes" in n for n in report.notes)


def test_other_passes_keep_packed_weights():
    done, _ = clustered(network(), bits=3)
    after = Pipeline("clean,fuse", check="data").transform(done).model
    assert len(lookups(after)) == 5
    feeds = feeds_of(done)
    assert np.allclose(run(after, feeds)["y"], run(done, feeds)["y"], atol=1e-5)
    pruned, _report = apply(make("prune.channels", {"ratio": 0.5}), done)
    assert [functions.weight(n).shape for n in lookups(pruned)] == [functions.weight(n).shape for n in lookups(done)]


def test_inspect_shows_bits_entropy_and_coded_size():
    done, _ = clustered(network(), bits=3, scope="channels", channels=16)
    inspection = inspect(done)
    found = {x.name: x for x in inspection.layers}
    plain = {x.name: x for x in inspect(network()).layers}
    for name in [n.name for n in done.nodes if n.op in ("Conv", "ConvTranspose", "MatMul", "Gemm")]:
        x = found[name]
        assert x.bits == 3 and 2 < x.entropy <= 3 and x.bytes < plain[name].bytes / 3
        assert plain[name].coded is None and plain[name].params < x.params < plain[name].params + 40
        assert 0 < x.coded < x.bytes + 60
    total = sum(x.coded for x in found.values() if x.coded)
    assert f"bits of entropy a weight, about {tables.size(total)} in an archive" in " ".join(render(inspection).split())


# what it leaves alone


def test_small_weights_are_refused():
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,1,6,6] x) => (float[N,1,5,5] y) { y = Conv(x, w) }'
    model = model_of(text, w=weight(1, 1, 2, 2))
    done, report = clustered(model, bits=4)
    assert not lookups(done) and "does not pay for 4 weights" in report.refusals[0].reason
    done, report = clustered(model_of(text.replace("5,5", "3,3"), w=weight(1, 1, 4, 4)), bits=8)
    assert not lookups(done) and "16 values do not pay for 16 weights" in report.refusals[0].reason


def test_skipped_and_integer_weights_are_refused():
    done, report = clustered(network(), bits=3, skip=["w1"])
    assert len(lookups(done)) == 4 and "skipped" in report.refusals[0].reason


@pytest.mark.parametrize(
    "options",
    [{"bits": 0}, {"bits": 9}, {"channels": 0}, {"cells": 2}, {"entropy": 0.0}, {"refit": True, "scope": "model"}],
    ids=str,
)
def test_options_that_make_no_sense(options):
    with pytest.raises(BadOption):
        make("quant.cluster", options)


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    before, after, _ = golden.check("cluster", name, make("quant.cluster", {"bits": 2}), update=update_golden)
    verify(after, like=before)


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not_") for name in CASES) >= 2


# the numbers


def brute(x: np.ndarray, h: np.ndarray, k: int, zero: bool) -> float:
    """The least error over all ways to cut sorted numbers into k intervals, one of them coded as 0 if `zero`."""
    order = np.argsort(x)
    x, h = x[order].astype(np.float64), h[order]

    def one(i: int, j: int, nought: bool) -> float:
        if i == j:
            return 0.0
        code = 0.0 if nought else (h[i:j] @ x[i:j]) / h[i:j].sum()
        return float(h[i:j] @ (x[i:j] - code) ** 2)

    best = np.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), k - 1):
        edges = (0, *cuts, len(x))
        for nought in range(k) if zero else [-1]:
            best = min(best, sum(one(edges[i], edges[i + 1], i == nought) for i in range(k)))
    return best


numbers = st.lists(st.integers(-20, 20), min_size=1, max_size=9)


@given(numbers, st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_dynamic_programming_is_optimal(xs, k, weighted, seed):
    x = np.array(xs, np.float32) / 8
    h = np.random.default_rng(seed).uniform(0.1, 2, len(x))
    p = points(x, h if weighted else None)
    every = h if weighted else np.ones(len(x))
    edges = optimal(p, k, 1000)
    cells = p.cells(edges)
    assert cells.errors(cells.means(np.zeros(k))).sum() == pytest.approx(brute(x, every, k, False), abs=1e-6)
    edges, codes = optimal_with_zero(p, k, 1000)
    assert p.cells(edges).errors(codes).sum() == pytest.approx(brute(x, every, k, True), abs=1e-6)
    assert (codes == 0).any()


@pytest.mark.parametrize("n", [1, RUN, RUN + 1, STRIP - 1, STRIP + 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_prefix_sums_kept_at_every_run_are_those_of_all_numbers(n, weighted):
    rng = np.random.default_rng(n)
    x = rng.standard_normal(n, np.float32)
    h = rng.uniform(0, 2, n) if weighted else None
    p = points(x, h)
    at = np.unique(np.concatenate([[0, n], rng.integers(0, n + 1, 200), np.arange(0, n, RUN)[:99]]))
    every, wide = (np.ones(n) if h is None else p.h), p.x.astype(np.float64)
    for got, each in zip(p.sums(at), (every, every * wide, every * wide**2), strict=True):
        np.testing.assert_allclose(got, np.append(0, np.cumsum(each))[at], rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 300), st.sampled_from(["optimal", *STARTS]), st.booleans(), st.booleans())
def test_every_weight_takes_its_nearest_value(seed, n, start, zero, coarse):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=n) * rng.choice([0, 1, 1, 1e-3], n)).astype(np.float32)
    x = np.round(x * 4) / 4 if coarse else x
    k = int(rng.integers(1, 20))
    codes = kmeans(points(x), k, start=start, cells=64, rng=rng, zero=zero).astype(np.float32)
    assert 1 <= len(codes) <= max(k, 1) and (np.diff(codes) >= 0).all()
    got = codes[nearest(x, codes)].astype(np.float64)
    best = np.abs(x[:, None].astype(np.float64) - codes).min(1)
    assert np.allclose(np.abs(x - got), best, atol=1e-6)


def test_no_start_beats_the_optimal_one():
    w = (weight(60_000) * np.random.default_rng(1).choice([0.1, 1], 60_000)).astype(np.float32)
    p = points(w)
    for k in (4, 16, 64):
        errors = {}
        for start in ("optimal", *STARTS):
            codes = kmeans(p, k, start=start, cells=4096, rng=np.random.default_rng(0))
            errors[start] = p.cells(p.cut(codes)).errors(codes).sum()
        assert all(errors["optimal"] <= e * 1.0005 for e in errors.values()), (k, errors)


@pytest.mark.parametrize("values", [1, 2, 17, 255])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_table_of_thresholds_is_exact(values, dtype):
    rng = np.random.default_rng(values)
    thresholds = np.unique(rng.normal(size=values).astype(dtype))
    w = (rng.normal(size=4 * STEPS) * 2).astype(dtype)
    w[: len(thresholds)], w[-1] = thresholds, 3e4
    assert np.array_equal(assign(w, thresholds), np.searchsorted(thresholds, w, side="right"))


def of(values: int, entropy: float | None = None) -> Settings:
    return Settings(values, "optimal", 4096, entropy, True, np.random.default_rng(0))


@pytest.mark.parametrize("target", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_entropy_keeps_its_bound_and_beats_fewer_values(target, weighted):
    w = weight(64, 288)
    h = np.broadcast_to(np.exp(np.random.default_rng(1).normal(size=288)), w.shape) if weighted else None
    codes = find_codes([w], [h], of(64, target))
    indices = codes.indices(w, h)
    entropy = entropy_of(np.bincount(indices.ravel()))
    assert target - 0.1 <= entropy <= target

    def error(c):
        return float((np.square(w - c.values[c.indices(w, h)]) * (1 if h is None else h)).sum())

    rivals = [find_codes([w], [h], of(values)) for values in (1, 2, 3, 4, 6, 8, 12, 16)]
    cheap = [c for c in rivals if entropy_of(np.bincount(c.indices(w, h).ravel())) <= target]
    assert 0 < len(cheap) < len(rivals) and all(error(codes) < error(c) for c in cheap)


def test_importances_of_few_levels():
    """Quantiles of few distinct importances coincide; every weight must still meet the thresholds of its own class."""
    w = weight(16, 9)
    h = np.broadcast_to(np.repeat([1.0, 2.0, 50.0], 3), w.shape)
    codes = find_codes([w], [h], of(32, 2.5))
    errors = np.square(w - codes.values[codes.indices(w, h)])
    assert errors.sum() < 0.2 * np.square(w).sum() and errors[:, 6:].mean() <= errors[:, :3].mean()


def test_importance_lowers_the_weighted_error():
    w, h = weight(64, 100), np.broadcast_to(np.geomspace(0.01, 10, 100), (64, 100))
    plain, weighed = (find_codes([w], [one], of(8)) for one in (None, h))
    errors = [float((np.square(w - c.values[c.indices(w, h)]) * h).sum()) for c in (plain, weighed)]
    assert errors[1] < errors[0]


# trained networks


@pytest.fixture
def fused(resnet20_path):
    return Pipeline("clean,fuse", check="shapes").transform(resnet20_path).model


@pytest.mark.parametrize(
    "options, most",
    [({"bits": 5}, 0.005), ({"bits": 4}, 0.012), ({"bits": 3, "refit": True}, 0.015),
     ({"bits": 5, "entropy": 2.5, "refit": True}, 0.015)],
)  # fmt: skip
def test_resnet20_without_retraining(fused, test_data_path, calib_data_path, options, most):
    done, _ = clustered(fused, calib_data_path, **options)
    test = np.load(test_data_path)
    share = [accuracy(run(m, {"image": test["image"]}, True)["logits"], test["labels"]) for m in (fused, done)]
    assert share[1] >= share[0] - most
    sizes = [len(m.to_proto().SerializeToString()) for m in (fused, done)]
    assert sizes[1] < sizes[0] * (options["bits"] + 1) / 32


def test_fits_come_nearer_to_the_outputs(fused, test_data_path, calib_data_path):
    feeds = {"image": np.load(test_data_path)["image"][:200]}
    real = run(fused, feeds)["logits"]
    errors = []
    for options in ({"fit": "weights"}, {}, {"fit": "weights", "refit": True}, {"refit": True}):
        done, _ = clustered(fused, calib_data_path, bits=3, **options)
        errors.append(float(np.square(run(done, feeds)["logits"] - real).mean()))
    assert all(after < 0.7 * before for before, after in itertools.pairwise(errors)), errors


# indices where no data say what a layer reads


def test_levels_settle_where_the_guessed_error_is_less():
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,6,6] x) => (float[N,16,6,6] y) {
        r = Relu(x)
        y = Conv<pads=[1,1,1,1]>(r, w) }""",
        w=np.where(weight(16, 4, 3, 3) > 1, np.float32(0), weight(16, 4, 3, 3)),
    )
    (layer,) = layers(model, verify(model).analysis, [], Report())
    w, levels = layer.view(), np.array([-1.1, -0.3, 0.0, 0.4, 1.2])
    start = nearest(w, levels.astype(np.float32))
    settled = unseen.settle(layer, w, start, levels, zeros=True)
    d = (w - levels[settled]).reshape(16, -1)
    assert np.isclose(unseen.error(layer, w - levels[settled]), np.einsum("oi,ij,oj", d, unseen.dense(layer)[0], d))
    assert unseen.error(layer, w - levels[settled]) < 0.5 * unseen.error(layer, w - levels[start])
    assert (levels[settled][w == 0] == 0).all()


def test_the_guessed_mean_is_that_of_a_rectified_normal():
    z = NormalDist()
    x = np.maximum([z.inv_cdf((i + 0.5) / 100_000) for i in range(100_000)], 0)
    assert np.isclose(x.mean() ** 2 / x.var(), unseen.MEAN, rtol=1e-3)


@pytest.mark.parametrize(
    "body, above",
    [("y = Relu(x)", True), ("a = Relu(x) b = Sigmoid(x) c = Concat<axis=1>(a, b) y = MaxPool<kernel_shape=[2,2]>(c)", True),
     ("a = Relu(x) y = Mul(a, a)", True), ("y = Mul(x, x)", False), ("a = Relu(x) y = Add(a, x)", False),
     ("a = Relu(x) y = Mul(a, w)", False), ("y = Neg(x)", False)],
)  # fmt: skip
def test_what_is_never_below_zero(body, above):
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,6,6] x) => (float[N,c,h,i] y) {{ {body} }}'
    model = model_of(text, **({"w": -np.ones((4, 1, 1), np.float32)} if "w)" in body else {}))
    assert unseen.above_zero(model.outputs[0]) is above


# hashing


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_hashed_weights_equal_their_twin(opset):
    text = f'<ir_version: 4, opset_import: ["" : {opset}]> g (float[N,4,6,6] x) => (float[N,16,4,4] y) {{ y = Conv(x, w) }}'
    model = model_of(text, w=weight(16, 4, 3, 3))
    done, report = apply(make("quant.hash", {"bits": 8.0}), model)
    assert lookups(done)[0].inputs[0].values.shape == (16 * 4 * 9 // 4,)
    feeds = feeds_of(model)
    assert np.array_equal(run(done, feeds)["y"], run(twin(done), feeds)["y"])
    assert "train the tables" in report.notes[-1]


def test_hashing_refuses_what_does_not_pay():
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,1,6,6] x) => (float[N,1,5,5] y) { y = Conv(x, w) }'
    done, report = apply(make("quant.hash", {"bits": 16.0}), model_of(text, w=weight(1, 1, 2, 2)))
    assert not lookups(done) and "does not pay" in report.refusals[0].reason
    with pytest.raises(BadOption):
        make("quant.hash", {"bits": 0.0})


def test_other_tools_run_it_too():
    """The onnx package's own evaluator reads the same function."""
    model = network()
    done, _ = clustered(model, bits=3)
    feeds = feeds_of(model)
    theirs = ReferenceEvaluator(done.to_proto()).run(None, feeds)[0]
    assert np.allclose(theirs, Session(done.to_proto()).run(feeds)["y"], atol=1e-4)
