"""prune.kernel_shape: equal to the model with zeros at the positions that went, for all pads, strides and dilations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import Report, apply
from onnxc.passes.registry import make
from tests.passes.sparse_models import build, gap, normal, zoo


def twin(p, model):
    """`model` with zeros where `p` cuts; no shape changes."""
    other = model.copy()
    for kernel, steps in p.plan(other, verify(other).analysis, Report()):
        kernel.layer.drop(kernel.dropped(steps), Report())
    return other


def with_output(kernel, size, **attrs):
    """A Conv whose output shape is left to inference: it goes through a GlobalAveragePool beside the plain output."""
    group = attrs.pop("group", 1)
    w = {"w": normal(1, 8, 4 // group, *kernel)}
    nodes = [("Conv", ["x", "w"], ["y"], {"group": group, **attrs})]
    return build(nodes, {"x": ["N", 4, *size]}, {"y": ["N", 8, *([None] * len(size))]}, w)


axis = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)
)
seen = {"cut": 0, "all": 0}


@settings(max_examples=150)
@given(st.lists(axis, min_size=1, max_size=2), st.sampled_from([1, 2, 4]), st.sampled_from([0.1, 0.34, 0.6, 0.9]))
def test_equals_the_zeroed_kernel(axes, group, ratio):
    kernel, strides, dilations, begin, end, more = zip(*axes, strict=True)
    size = [
        max(1, d * (k - 1) + 1 - b - e) + m for k, d, b, e, m in zip(kernel, dilations, begin, end, more, strict=True)
    ]
    attrs = {"strides": list(strides), "dilations": list(dilations), "pads": [*begin, *end], "group": group}
    model = with_output(kernel, size, **attrs)
    p = make("prune.kernel_shape", {"ratio": ratio})
    after, report = apply(p, model)
    seen["all"] += 1
    seen["cut"] += bool(report.edits)
    assert gap(twin(p, model), after, {"x": normal(2, 2, 4, *size)}) < 1e-5
    for node in after.nodes:
        assert min(node.attrs["pads"]) >= 0 and list(node.inputs[1].values.shape[2:]) == node.attrs.get(
            "kernel_shape", list(kernel)
        )
    if report.edits:
        assert after.constants()["w"].values.size <= (1 - ratio) * model.constants()["w"].values.size


def test_many_cases_were_cut():
    assert seen["cut"] > 0.4 * seen["all"] > 0


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_auto_pad_becomes_explicit(auto, stride):
    for size in ((8, 9), (7, 10)):
        model = with_output((3, 4), size, auto_pad=auto, strides=[stride, stride])
        p = make("prune.kernel_shape", {"ratio": 0.3})
        after, report = apply(p, model)
        assert gap(twin(p, model), after, {"x": normal(2, 2, 4, *size)}) < 1e-5
        if report.edits:
            assert "auto_pad" not in after.nodes[0].attrs


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_whole_networks(scope, trained_path):
    model = load(str(trained_path))
    p = make("prune.kernel_shape", {"ratio": 1 / 3, "scope": scope})
    after, report = apply(p, model)
    x = {"image": normal(3, 4, 1, 28, 28)}
    assert len(report.edits) >= 3 and gap(twin(p, model), after, x) < 1e-5
    assert cost(after, verify(after)).macs < 0.75 * cost(model, verify(model)).macs


def test_shared_grouped_and_depthwise_kernels():
    p = make("prune.kernel_shape", {"ratio": 0.3})
    after, report = apply(p, zoo())
    assert {e.node for e in report.edits} == {"stem", "one", "two", "deep", "grouped"}
    assert [(r.node, r.reason) for r in report.refusals] == [("up", "only kernels of Conv are cut")]
    assert gap(twin(p, zoo()), after, {"x": normal(9, 3, 4, 8, 8)}) < 1e-5
    one, two = (next(n for n in after.nodes if n.name == k) for k in ("one", "two"))
    assert one.inputs[1] is two.inputs[1] and one.attrs["pads"] == two.attrs["pads"]


def test_the_weakest_row_goes_and_the_middle_one_makes_a_dilation():
    for row, pads, dilations in ((0, [0, 1, 1, 1], [1, 1]), (1, [1, 1, 1, 1], [2, 1]), (2, [1, 1, 0, 1], [1, 1])):
        w = normal(1, 8, 4, 3, 3)
        w[:, :, row] *= 0.01
        nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1] * 4})]
        model = build(nodes, {"x": ["N", 4, 6, 6]}, {"y": ["N", 8, 6, 6]}, {"w": w})
        node = apply(make("prune.kernel_shape"), model)[0].nodes[0]
        assert (node.attrs["pads"], node.attrs["dilations"], node.attrs["kernel_shape"]) == (pads, dilations, [2, 3])


def test_only_allowed_shapes_come_out():
    _, report = apply(make("prune.kernel_shape", {"shapes": ["3x1"]}), zoo())
    assert all("-> 3x1" in e.what for e in report.edits) and report.edits
    _, report = apply(make("prune.kernel_shape", {"shapes": ["4x4"]}), zoo())
    assert not report.edits and all("no allowed kernel" in r.reason for r in report.refusals if r.node != "up")


def test_symbolic_images_are_cut_where_the_pads_allow():
    w = {"w": normal(1, 8, 4, 3, 3)}
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1] * 4, "strides": [2, 2]})]
    model = build(nodes, {"x": ["N", 4, "h", "w"]}, {"y": ["N", 8, None, None]}, w)
    p = make("prune.kernel_shape", {"ratio": 0.5})
    after, report = apply(p, model)
    assert report.edits
    for h in (7, 8):
        assert gap(twin(p, model), after, {"x": normal(2, 2, 4, h, 9)}) < 1e-5


@pytest.mark.parametrize("attrs", [{"pads": [0] * 4}, {}])
def test_do_not_crop_the_input(attrs):
    model = build(
        [("Conv", ["x", "w"], ["y"], attrs)], {"x": ["N", 4, 6, 6]}, {"y": ["N", 8, 4, 4]}, {"w": normal(1, 8, 4, 3, 3)}
    )
    _, report = apply(make("prune.kernel_shape", {"dilated": False}), model)
    assert not report.edits and "would need its input cropped" in report.refusals[0].reason


def test_do_not_guess_pads_of_unknown_extents():
    nodes = [("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})]
    model = build(nodes, {"x": ["N", 4, "h", "w"]}, {"y": ["N", 8, None, None]}, {"w": normal(1, 8, 4, 3, 3)})
    _, report = apply(make("prune.kernel_shape"), model)
    assert not report.edits and report.refusals[0].reason == "auto_pad with an unknown extent"


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"shapes": ["3y3"]}, {"shapes": ["0x3"]}])
def test_options_that_make_no_sense(options):
    with pytest.raises(BadOption):
        make("prune.kernel_shape", options)


def test_nothing_to_do_is_nothing_done():
    after, report = apply(make("prune.kernel_shape", {"ratio": 0.0}), zoo())
    assert not report.edits and np.array_equal(after.constants()["stem_w"].values, zoo().constants()["stem_w"].values)
