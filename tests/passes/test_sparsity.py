"""prune.magnitude, prune.nm and prune.block: which weights become zero, which are refused; nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from tests.passes.sparse_models import build, normal, run, text, weights, zoo

PASSES = {
    "prune.magnitude": [{}, {"scope": "layer"}, {"scale": "lamp"}, {"scale": "std", "sparsity": 0.8}],
    "prune.nm": [{}, {"n": 1, "m": 2}, {"n": 3, "m": 4}],
    "prune.block": [{}, {"rows": 1, "columns": 1, "kernel": True}, {"rows": 3, "columns": 2, "scope": "global"}],
}  # fmt: skip
CASES = [(name, options) for name, several in PASSES.items() for options in several]


def zeros(values) -> float:
    return 1 - np.count_nonzero(values) / values.size


@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_some_weights_are_zero_the_others_untouched_and_the_model_runs(name, options):
    model = zoo()
    after, report = apply(make(name, options), model)
    x = {"x": normal(9, 3, 4, 8, 8)}
    assert np.isfinite(run(after, x)["y"]).all()
    old, new = weights(model), weights(after)
    assert list(old) == list(new)
    for k in old:
        assert np.array_equal(new[k], np.where(new[k] == 0, 0, old[k])), k
    assert len(report.edits) == sum(zeros(v) > 0 for v in new.values()) >= 5
    assert all("% of" in e.what for e in report.edits) and "weights in" in report.notes[-1]
    assert text(after) == text(apply(make(name, options), model)[0])


@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_a_second_run_changes_nothing(name, options):
    once, _ = apply(make(name, options), zoo())
    twice, report = apply(make(name, options), once)
    assert text(once) == text(twice) and not report.edits


@pytest.mark.parametrize("name", PASSES)
def test_a_shared_weight_stays_shared(name):
    after, report = apply(make(name), zoo())
    readers = [n for n in after.nodes if len(n.inputs) > 1 and n.inputs[1].name == "same_w"]
    assert [n.name for n in readers] == ["one", "two"] and readers[0].inputs[1] is readers[1].inputs[1]
    assert any("shared by 2 nodes" in e.what for e in report.edits if e.node == "one")


@given(st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.9, 0.99]))
def test_magnitude_drops_the_smallest_and_as_many_as_asked(seed, sparsity):
    model = zoo(seed)
    old = np.concatenate([v.ravel() for v in weights(model).values()])
    after, _ = apply(make("prune.magnitude", {"sparsity": sparsity}), model)
    new = np.concatenate([v.ravel() for v in weights(after).values()])
    assert np.count_nonzero(new == 0) == int(old.size * sparsity + 0.5)
    assert np.abs(old[new == 0]).max(initial=0) <= np.abs(new[new != 0]).min()
    by_layer, _ = apply(make("prune.magnitude", {"sparsity": sparsity, "scope": "layer"}), model)
    for v in weights(by_layer).values():
        assert np.count_nonzero(v == 0) == int(v.size * sparsity + 0.5)


def test_equal_weights_go_in_order():
    ones = {"w": np.ones((4, 4), np.float32)}
    model = build([("MatMul", ["x", "w"], ["y"], {})], {"x": ["N", 4]}, {"y": ["N", 4]}, ones)
    after, _ = apply(make("prune.magnitude", {"sparsity": 0.25}), model)
    # the common view has outputs first: the four inputs of the first output
    assert after.constants()["w"].values.tolist() == [[0, 1, 1, 1]] * 4


def test_lamp_empties_no_layer():
    model = zoo()
    model.nodes[0].inputs[1].values = normal(0, 8, 4, 3, 3) * 1e-6
    plain, _ = apply(make("prune.magnitude", {"sparsity": 0.5}), model)
    lamp, _ = apply(make("prune.magnitude", {"sparsity": 0.5, "scale": "lamp"}), model)
    assert zeros(weights(plain)["stem_w"]) == 1 and zeros(weights(lamp)["stem_w"]) < 1


@given(st.integers(0, 99), st.sampled_from([(1, 2), (2, 4), (3, 4), (1, 4)]))
def test_every_m_neighbours_keep_the_n_largest(seed, pattern):
    n, m = pattern
    model = zoo(seed)
    after, report = apply(make("prune.nm", {"n": n, "m": m}), model)
    new, old = weights(after), weights(model)
    along = {"stem_w": 1, "same_w": 1, "group_w": 1, "up_w": 0, "left_w": 1, "mat_w": 0}
    for k, axis in along.items():
        a = np.moveaxis(new[k], axis, -1).reshape(-1, m)
        b = np.sort(np.abs(np.moveaxis(old[k], axis, -1).reshape(-1, m)), 1)
        assert (np.count_nonzero(a, axis=1) == n).all(), k
        np.testing.assert_array_equal(np.sort(np.abs(a), 1)[:, m - n :], b[:, m - n :])
    assert np.array_equal(new["deep_w"], old["deep_w"])
    assert {r.node for r in report.refusals} == ({"deep"} if m == 2 else {"deep", "fc"})
    assert "its 1 input channels per group are no multiple" in report.refusals[0].reason


@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_blocks_go_whole(seed, rows, columns, kernel):
    options = {"rows": rows, "columns": columns, "kernel": kernel, "sparsity": 0.4}
    model = zoo(seed)
    after, _ = apply(make("prune.block", options), model)
    w, old = weights(after)["same_w"], weights(model)["same_w"]
    kept, gone = [], []
    for o in range(0, 8, rows):
        for c in range(0, 8, columns):
            power = np.square(old[o : o + rows, c : c + columns]).mean((0, 1)).reshape(-1)
            count = np.count_nonzero(w[o : o + rows, c : c + columns].reshape(-1, 9), axis=0)
            if kernel:
                power, count = power.mean(keepdims=True), count.sum(keepdims=True)
            full = old[o : o + rows, c : c + columns].size / (1 if kernel else 9)
            assert set(count.tolist()) <= {0, full}
            kept += power[count > 0].tolist()
            gone += power[count == 0].tolist()
    assert max(gone, default=0) <= min(kept) and len(gone) == int(len(gone + kept) * 0.4 + 0.5)


@pytest.mark.parametrize("name", PASSES)
def test_do_not_touch_what_is_skipped(name):
    after, report = apply(make(name, {"skip": ["st*", "same_w", "nothing*"]}), zoo())
    old, new = weights(zoo()), weights(after)
    assert np.array_equal(old["stem_w"], new["stem_w"]) and np.array_equal(old["same_w"], new["same_w"])
    assert {r.node: r.reason for r in report.refusals}["one"] == "skipped, as same_w says"
    assert report.notes[0] == "skip pattern nothing* fits no layer"


def test_do_not_touch_quantised_weights():
    weight = {"w": np.ones((4, 4), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    nodes = [("DequantizeLinear", ["w", "s", "z"], ["d"], {}), ("MatMul", ["x", "d"], ["y"], {})]
    after, report = apply(make("prune.magnitude"), build(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, weight))
    assert [r.reason for r in report.refusals] == ["its weights are quantised: prune before quantising"]
    assert not report.edits and after.constants()["w"].values.all()


@pytest.mark.parametrize(
    "nodes, reason",
    [
        ([("Conv", ["x", "v"], ["y"], {})], "no initialiser"),
        ([("Conv", ["x", "w"], ["a"], {}), ("Mul", ["a", "w"], ["y"], {})], "is read by Mul y too"),
        ([("Conv", ["x", "w"], ["a"], {}), ("ConvTranspose", ["a", "w"], ["y"], {})], "in another layout by y"),
        ([("Conv", ["x", "nan"], ["y"], {})], "not finite"),
    ],
)
def test_do_not_touch_weights_that_serve_otherwise(nodes, reason):
    w = {"w": normal(0, 4, 4, 1, 1), "nan": np.full((4, 4, 1, 1), np.nan, np.float32)}
    inputs = {"x": ["N", 4, 4, 4], "v": [4, 4, 1, 1]}
    outputs = {"y": ["N", 4, 4, 4]}
    _, report = apply(make("prune.magnitude"), build(nodes, inputs, outputs, w))
    assert reason in report.refusals[0].reason and not report.edits


def test_products_of_activations_are_no_layers():
    model = build([("MatMul", ["x", "v"], ["y"], {})], {"x": ["N", 4], "v": [4, 4]}, {"y": ["N", 4]}, {})
    _, report = apply(make("prune.magnitude"), model)
    assert not report.edits and not report.refusals


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("prune.magnitude", {"sparsity": 1.0}, "at least 0 and below 1"),
        ("prune.magnitude", {"scope": "layer", "scale": "std"}, "scope=global"),
        ("prune.nm", {"n": 4, "m": 4}, "0 < n < m"),
        ("prune.block", {"rows": 0}, "at least 1"),
        ("prune.block", {"sparsity": -0.1}, "at least 0 and below 1"),
    ],
)
def test_options_that_make_no_sense(name, options, said):
    with pytest.raises(BadOption, match=said):
        make(name, options)


def test_light_models_keep_every_equal_weight_consistent(light_path):
    if not {"squeezenet", "shufflenet", "resnet50"} & set(light_path.stem.split("_")):
        pytest.skip("three topologies are enough")
    model, _ = apply(make("clean"), load(str(light_path)))
    after, report = apply(make("prune.magnitude", {"sparsity": 0.3}), model)
    old, new = weights(model), weights(after)
    assert report.edits and list(old) == list(new)
    assert all(np.array_equal(new[k], np.where(new[k] == 0, 0, old[k])) for k in old)
