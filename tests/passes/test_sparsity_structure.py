"""prune.blocks, prune.width and prune.resolution: each equals its twin, and refuses what it cannot do."""

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from onnxc.ir.analysis import analyse
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import Report, apply
from onnxc.passes.prune.blocks import branches
from onnxc.passes.prune.resolution import factor
from onnxc.passes.prune.twin import zeroed
from onnxc.passes.registry import make
from onnxc.pipeline import run_passes
from onnxc.runtime.resample import resample, triangles
from tests.passes.sparse_models import build, gap, given, normal, run, text, weights, zoo


def residual(seed: int = 0, blocks: int = 3, nested: bool = False, output: str = "pool"):
    """Residual blocks, the second with a projected and strided shortcut; with `nested` one block inside another."""
    w, nodes, x = {}, [("Conv", ["x", "w"], ["stem"], {"pads": [1] * 4})], "stem"
    w["w"] = normal(seed, 8, 3, 3, 3) / 3
    for k in range(blocks):
        stride = [2, 2] if k == 1 else [1, 1]
        w[f"a{k}_w"], w[f"b{k}_w"] = normal(seed + 2 * k + 1, 8, 8, 3, 3) / 9, normal(seed + 2 * k + 2, 8, 8, 3, 3) / 20
        nodes += [
            ("Conv", [x, f"a{k}_w"], [f"a{k}"], {"pads": [1] * 4, "strides": stride}),
            ("Relu", [f"a{k}"], [f"r{k}"], {}),
            ("Conv", [f"r{k}", f"b{k}_w"], [f"b{k}"], {"pads": [1] * 4}),
        ]
        branch, shortcut = f"b{k}", x
        if nested:
            nodes.append(("Add", [branch, f"r{k}"], [f"n{k}"], {}))
            branch = f"n{k}"
        if k == 1:
            w["s_w"] = normal(seed + 50, 8, 8, 1, 1) / 3
            nodes.append(("Conv", [x, "s_w"], ["s"], {"strides": [2, 2]}))
            shortcut = "s"
        nodes.append(("Add", [branch, shortcut] if k % 2 else [shortcut, branch], [f"sum{k}"], {}))
        x = f"sum{k}"
    nodes.append(("GlobalAveragePool", [x], ["pool"], {}))
    shape = ["N", 8, 1, 1] if output == "pool" else ["N", 8, 4, 4]
    return build(nodes, {"x": ["N", 3, 8, 8]}, {output: shape}, w)


X = normal(77, 6, 3, 8, 8)


def without(model, report):
    """The twin: the output of every dropped branch is multiplied by zero."""
    twin = model.copy()
    found = {b.add: b for b in branches(twin, verify(twin).analysis, [], Report())}
    for edit in report.edits:
        branch = found[edit.node]
        add = next(n for n in twin.nodes if n.name == edit.node)
        zero = twin.node("Mul", [add.inputs[branch.i], twin.constant("zero", np.float32(0))], before=add)
        add.inputs[branch.i] = zero.outputs[0]
    return twin


@settings(max_examples=30)
@examples(st.integers(0, 50), st.integers(1, 4), st.integers(0, 4), st.booleans(), st.sampled_from(["output", "local"]))
def test_dropped_branches_are_branches_times_zero(seed, count, drop, nested, measure):
    model = residual(seed, count, nested)
    p = make("prune.blocks", {"drop": drop, "measure": measure})
    after, report = apply(p, model, **given(x=X))
    assert gap(without(model, report), after, {"x": X}) < 1e-5
    assert len(report.edits) == min(drop, count) or nested
    assert (len(after.nodes) < len(model.nodes)) == bool(drop)
    assert text(after) == text(apply(p, model, **given(x=X))[0])


def test_the_branch_that_changes_least_goes_first():
    model = residual(blocks=4)
    for n in model.nodes:
        if n.name == "b2":
            n.inputs[1].values = n.inputs[1].values * np.float32(1e-3)
    for measure in ("output", "local"):
        _, report = apply(make("prune.blocks", {"drop": 1, "measure": measure}), model, **given(x=X))
        assert [e.node for e in report.edits] == ["sum2"]
        assert report.edits[0].what.startswith("branch of 3 nodes from a2 dropped")


def test_the_projection_stays_and_the_strided_branch_goes():
    after, report = apply(make("prune.blocks", {"drop": 3}), residual(), **given(x=X))
    assert sorted(e.node for e in report.edits) == ["sum0", "sum1", "sum2"]
    assert [n.name for n in after.nodes] == ["stem", "s", "pool"]


def test_a_trained_network(resnet20_path, calib_data_path):
    model = load(str(resnet20_path))
    image = np.load(calib_data_path)["image"][:32]
    after, report = apply(make("prune.blocks", {"drop": 2, "measure": "local"}), model, **given(image=image))
    assert len(report.edits) == 2 and gap(without(model, report), after, {"image": image}) < 1e-5


def test_branches_are_found_once_each(resnet20_path):
    model = load(str(resnet20_path))
    found = branches(model, verify(model).analysis, [], Report())
    assert len(found) == 9 and len({n for b in found for n in b.nodes}) == sum(len(b.nodes) for b in found)


def test_do_not_drop_what_is_skipped_or_joins_streams_or_has_another_shape():
    _, report = apply(make("prune.blocks", {"drop": 3, "skip": ["sum0", "a1"]}), residual(), **given(x=X))
    assert [e.node for e in report.edits] == ["sum2"]
    assert {r.node: r.reason for r in report.refusals} == {
        "sum0": "skipped, as sum0 says",
        "sum1": "skipped, as a1 says",
    }
    assert "only 1 branches can go, of 3" in report.notes[0]
    w = {"w": normal(0, 4, 3, 1, 1), "v": normal(1, 4, 3, 1, 1)}
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("Conv", ["z", "v"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})]
    model = build(nodes, {"x": ["N", 3, 4, 4], "z": ["N", 3, 4, 4]}, {"y": ["N", 4, 4, 4]}, w)
    _, report = apply(make("prune.blocks"), model, **given(x=normal(0, 2, 3, 4, 4), z=normal(1, 2, 3, 4, 4)))
    assert not report.edits and "joins two streams" in report.refusals[0].reason
    nodes = [("GlobalAveragePool", ["x"], ["a"], {}), ("Conv", ["x", "w"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})]
    model = build(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 3, 4, 4]}, {"w": normal(0, 3, 3, 1, 1)})
    _, report = apply(make("prune.blocks"), model, **given(x=normal(0, 2, 3, 4, 4)))
    assert not report.edits and report.refusals[0].reason == "without this branch the sum has another shape"


def test_do_not_leave_an_output_without_a_node():
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("Add", ["x", "a"], ["y"], {})]
    model = build(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 3, 4, 4]}, {"w": normal(0, 3, 3, 1, 1)})
    _, report = apply(make("prune.blocks", {"drop": 1}), model, **given(x=normal(0, 2, 3, 4, 4)))
    assert not report.edits and "needs a node" in report.refusals[0].reason


# width


@pytest.mark.parametrize("options", [{}, {"alpha": 0.75}, {"alpha": 0.3, "round_to": 4}, {"keep": "first"}], ids=str)
def test_width_equals_the_zeroed_twin(options):
    p = make("prune.width", options)
    for model, x in ((zoo(), {"x": normal(9, 3, 4, 8, 8)}), (residual(), {"x": X})):
        after, report = apply(p, model)
        analysis = analyse(model, alike=True)
        _, keep = p.plan(model, analysis)
        assert keep and len(report.edits) >= 3
        assert gap(zeroed(model, analysis, keep), after, x) < 1e-4
        assert all(m.sum() == p.count(m.size) for m in keep.values())


def test_width_of_a_trained_network(trained_path):
    model = load(str(trained_path))
    after, _ = apply(make("prune.width", {"alpha": 0.5}), model)
    macs = cost(after, verify(after)).macs / cost(model, verify(model)).macs
    assert macs < 0.32
    run(after, {"image": normal(0, 2, 1, 28, 28)})


def test_leading_channels_stay():
    after, _ = apply(make("prune.width", {"keep": "first"}), residual())
    assert np.array_equal(weights(after)["a0_w"], weights(residual())["a0_w"][:4, :4])


@pytest.mark.parametrize(
    "alpha, round_to, size, left",
    [(0.5, 1, 7, 4), (0.5, 8, 64, 32), (0.35, 8, 32, 16), (0.1, 8, 16, 8), (0.5, 8, 4, 4)],
)
def test_mobilenet_rounding(alpha, round_to, size, left):
    assert make("prune.width", {"alpha": alpha, "round_to": round_to}).count(size) == left


def test_width_one_changes_nothing():
    after, report = apply(make("prune.width", {"alpha": 1.0}), zoo())
    assert not report.edits and text(after) == text(zoo())


# resolution


def spatial(tail, outputs, extra=None, size=(16, 12), opset=13, batch="N"):
    """A strided Conv and then `tail`, which reads `h` [n, 8, 8, 6] for the default size."""
    w = {"w": normal(0, 8, 3, 3, 3), **(extra or {})}
    nodes = [("Conv", ["x", "w"], ["h"], {"pads": [1] * 4, "strides": [2, 2]}), *tail]
    return build(nodes, {"x": [batch, 3, *size]}, outputs, w, opset)


I64 = np.int64
POOL = ("GlobalMaxPool", ["s"], ["y"], {})
ONE = {"y": ["N", 8, 1, 1]}
FOLLOWS = {
    "pool": ([("GlobalAveragePool", ["h"], ["y"], {})], ONE, {}),
    "whole window": ([("AveragePool", ["h"], ["y"], {"kernel_shape": [8, 6]})], ONE, {}),
    "reshape": (
        [("Reshape", ["h", "t"], ["r"], {}), ("ReduceMean", ["r"], ["y"], {"axes": [2]})],
        {"y": ["N", 8, 1]},
        {"t": np.array([0, 8, 48], I64)},
    ),
    "reshape back": (
        [("Reshape", ["h", "t"], ["r"], {}), ("Reshape", ["r", "u"], ["b"], {}), ("Add", ["b", "h"], ["s"], {}), POOL],
        ONE,
        {"t": np.array([-1, 8, 48], I64), "u": np.array([-1, 8, 8, 6], I64)},
    ),
    "resize to sizes": (
        [
            ("MaxPool", ["h"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Resize", ["p", "", "", "t"], ["r"], {"mode": "nearest"}),
            ("Add", ["r", "h"], ["s"], {}),
            POOL,
        ],
        {"y": [1, 8, 1, 1]},
        {"t": np.array([1, 8, 8, 6], I64)},
    ),
    "slice": (
        [("Slice", ["h", "a", "b", "c"], ["s"], {}), POOL],
        ONE,
        {"a": np.array([0, 0], I64), "b": np.array([8, 6], I64), "c": np.array([2, 3], I64)},
    ),
    "expand": (
        [("GlobalMaxPool", ["h"], ["g"], {}), ("Expand", ["g", "t"], ["e"], {}), ("Add", ["e", "h"], ["s"], {}), POOL],
        {"y": [1, 8, 1, 1]},
        {"t": np.array([1, 8, 8, 6], I64)},
    ),
}


@pytest.mark.parametrize("inputs", ["keep", "change"])
@pytest.mark.parametrize("case", FOLLOWS)
def test_spatial_operands_follow(case, inputs):
    """The twin is the same network built for the small image from the start."""
    tail, outputs, extra = FOLLOWS[case]
    batch = outputs["y"][0]
    model = spatial(tail, outputs, extra, batch=batch)
    after, report = apply(make("prune.resolution", {"rho": 0.75, "inputs": inputs, "round_to": 2}), model)
    assert report.edits and not report.refusals
    small = np.asarray(normal(1, 1, 3, 12, 10))
    # 12 and 10 make 6 and 5 behind the stride
    moved = {
        "reshape": {"t": [0, 8, 30]},
        "reshape back": {"t": [-1, 8, 30], "u": [-1, 8, 6, 5]},
        "resize to sizes": {"t": [1, 8, 6, 5]},
        "slice": {"b": [6, 5]},
        "expand": {"t": [1, 8, 6, 5]},
    }
    fresh = {k: np.array(v, I64) for k, v in moved.get(case, {}).items()}
    built = [(op, i, o, {**a, "kernel_shape": [6, 5]} if case == "whole window" else a) for op, i, o, a in tail]
    twin = spatial(built, outputs, {**extra, **fresh}, size=(12, 10), batch=batch)
    want = run(twin, {"x": small})["y"]
    if inputs == "change":
        np.testing.assert_allclose(run(after, {"x": small})["y"], want, rtol=1e-5)
    else:
        big = normal(1, 1, 3, 16, 12)
        seen = onnx_resize(big, (12, 10))
        np.testing.assert_allclose(run(after, {"x": big})["y"], run(twin, {"x": seen})["y"], rtol=1e-4, atol=1e-5)


def onnx_resize(x, size):
    """What the Resize that stands at the head makes of `x`."""
    nodes = [("Resize", ["x", "", "", "s"], ["y"], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"})]
    shape = [*x.shape[:2], *size]
    return run(build(nodes, {"x": list(x.shape)}, {"y": shape}, {"s": np.array(shape, I64)}), {"x": x})["y"]


@pytest.mark.parametrize(
    "tail, outputs, extra, reason",
    [
        (
            [("Flatten", ["h"], ["f"], {}), ("Gemm", ["f", "v"], ["y"], {})],
            {"y": ["N", 5]},
            {"v": normal(1, 384, 5)},
            "its weight v has an entry for each position",
        ),
        ([("Add", ["h", "v"], ["s"], {}), POOL], ONE, {"v": normal(1, 1, 8, 8, 6)}, "has an entry for each position"),
        ([("Relu", ["h"], ["y"], {})], {"y": ["N", 8, 8, 6]}, {}, "graph output"),
        (
            [("Reshape", ["h", "t"], ["s"], {}), POOL],
            {"y": ["N", 16, 1, 1]},
            {"t": np.array([-1, 16, 4, 6], I64)},
            "do not scale alike",
        ),
    ],
)
@pytest.mark.parametrize("inputs", ["keep", "change"])
def test_do_not_shrink_what_cannot_follow(tail, outputs, extra, reason, inputs):
    model = spatial(tail, outputs, extra)
    after, report = apply(make("prune.resolution", {"rho": 0.75, "inputs": inputs}), model)
    assert not report.edits and text(after) == text(model)
    assert reason in report.refusals[0].reason


def test_do_not_shrink_free_or_missing_images():
    model = build(
        [("Conv", ["x", "w"], ["c"], {}), ("GlobalMaxPool", ["c"], ["y"], {})],
        {"x": ["N", 3, "h", "w"]},
        {"y": ["N", 4, 1, 1]},
        {"w": normal(0, 4, 3, 1, 1)},
    )
    _, report = apply(make("prune.resolution"), model)
    assert "is free already" in report.refusals[0].reason
    model = build([("MatMul", ["x", "w"], ["y"], {})], {"x": ["N", 4]}, {"y": ["N", 4]}, {"w": normal(0, 4, 4)})
    _, report = apply(make("prune.resolution"), model)
    assert report.refusals[0].reason == "no window slides along an axis of an input"
    tail, outputs, extra = FOLLOWS["pool"]
    _, report = apply(make("prune.resolution"), spatial(tail, outputs, extra, opset=9))
    assert "needs opset 11" in report.refusals[0].reason


def test_through_the_pipeline_data_are_resampled(resnet20_path, test_data_path):
    result = run_passes(
        str(resnet20_path),
        "prune.resolution(0.75, inputs=change), prune.blocks(drop=1, measure=local)",
        data=str(test_data_path),
    )
    assert list(result.model.inputs[0].shape) == ["N", 1, 21, 21]
    assert [len(r.edits) for r in result.report.rows[1:]] == [1, 1] and result.report.rows[1].error["accuracy"] > 0.5
    kept = run_passes(str(resnet20_path), "prune.resolution(0.75)", data=str(test_data_path))
    assert list(kept.model.inputs[0].shape) == ["N", 1, 28, 28] and kept.report.rows[1].error["accuracy"] > 0.5


@examples(st.integers(1, 600), st.floats(0.01, 1.0))
def test_a_scale_gives_the_size(old, rho):
    new = max(1, int(old * rho))
    assert int(np.float32(old) * factor(old, new)) == new == int(old * float(factor(old, new)))


@examples(st.integers(1, 40), st.integers(1, 40))
def test_resampling_keeps_constants_and_means(old, new):
    m = triangles(old, new)
    np.testing.assert_allclose(m.sum(1), 1)
    assert (m >= 0).all()
    x = np.full((2, old, 3), 5, np.uint8)
    y = resample(x, ("N", new, 3))
    assert y.shape == (2, new, 3) and y.dtype == np.uint8 and (y == 5).all()


@pytest.mark.parametrize(
    "name, options",
    [
        ("prune.blocks", {"drop": -1}),
        ("prune.blocks", {"ratio": 1.5}),
        ("prune.width", {"alpha": 0.0}),
        ("prune.width", {"alpha": 1.5}),
        ("prune.width", {"round_to": 0}),
        ("prune.resolution", {"rho": 0.0}),
        ("prune.resolution", {"rho": 2.0}),
        ("prune.resolution", {"round_to": 0}),
    ],
)
def test_options_that_make_no_sense(name, options):
    with pytest.raises(BadOption):
        make(name, options)


@pytest.mark.parametrize("p", ["prune.kernel_shape", "prune.block"])
def test_adapted_weights_change_the_outputs_less(p):
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1] * 4})]
    model = build(nodes, {"x": ["N", 4, 8, 8]}, {"y": ["N", 8, 8, 8]}, {"w": normal(1, 8, 4, 3, 3)})
    x = {"x": normal(5, 40, 4, 8, 8).cumsum(2).cumsum(3)}  # neighbours resemble each other, as in images
    plain, _ = apply(make(p), model)
    after, _ = apply(make(p, {"update": True}), model, **given(**x))
    old, new = weights(plain)["w"], weights(after)["w"]
    assert old.shape == new.shape and not new[old == 0].any() and (new != old).any()
    errors = [float(np.square(run(m, x)["y"] - run(model, x)["y"]).mean()) for m in (plain, after)]
    assert errors[1] < 0.5 * errors[0]


def test_what_cannot_be_adapted_is_said():
    _, report = apply(make("prune.block", {"update": True}), zoo(), **given(x=normal(5, 4, 4, 8, 8)))
    assert report.notes[0] == "up is not adapted: inputs of transposed convolutions are not read"
