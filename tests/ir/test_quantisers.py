"""Quantisers of activations: bodies against NumPy in ONNX Runtime, rows, bits; the theory of residual binarisation."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.ir import functions, quantisers
from onnxc.ir.cost import cost
from onnxc.ir.errors import DimensionError, Unsupported
from onnxc.ir.files import load
from onnxc.ir.model import DOMAIN, Model
from onnxc.ir.numbers import number_bits
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.reference import Session
from tests.ops.harness import free_atoms

OPSETS = (11, 12, 13, 17, 18, 21, 23)
EDGES = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 0.5, -0.5, 1.5, 2.5, 0.75, -1.25], np.float32)
CALLS = {
    "Binarize": [],
    "Quantize": [np.float32(0.5), np.float32(-2), np.float32(1)],
    "ResidualBinarize": [np.array([0.8, 0.3, 0.1], np.float32)],
    "DynamicResidualBinarize": [np.array([1.0, 1.0, 0.9], np.float32)],
}
TWINS = {
    "Binarize": quantisers.binarize,
    "Quantize": quantisers.quantize,
    "ResidualBinarize": quantisers.residual_binarize,
    "DynamicResidualBinarize": quantisers.dynamic_residual_binarize,
}


def layer(name: str, opset: int = 13, inputs: list | None = None) -> Model:
    """A convolution, a quantiser, a convolution."""
    rng = np.random.default_rng(0)
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,3,6,6] x) => (float[N,4,P,Q] y) {{
        a = Conv(x, v) y = Conv(a, w) }}"""
    proto = onnx.parser.parse_model(text)
    for tensor, shape in (("v", (5, 3, 1, 1)), ("w", (4, 5, 3, 3))):
        values = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, tensor))
    model = load(proto)
    last = model.nodes[1]
    made = functions.call(model, name, [last.inputs[0], *(CALLS[name] if inputs is None else inputs)], before=last)
    last.inputs[0] = made.outputs[0]
    return model


def alone(name: str, opset: int) -> Model:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N,C] x) => (float[N,C] y) {{ y = Identity(x) }}""")
    model = load(proto)
    node = model.nodes[0]
    functions.call(model, name, [model.inputs[0], *CALLS[name]], [model.variable("z")], before=node)
    node.inputs[0] = model.nodes[0].outputs[0]
    return model


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", list(CALLS))
def test_a_body_equals_its_twin(name, opset):
    model = alone(name, opset)
    verify(model)
    x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    if name != "DynamicResidualBinarize":
        x[0, : len(EDGES)] = EDGES if name == "Binarize" else np.nan_to_num(EDGES, posinf=9, neginf=-9)
    for optimise in (False, True):
        got = Session(model.to_proto(), optimise=optimise).run({"x": x})["y"]
        want = TWINS[name](x, *CALLS[name])
        if name == "DynamicResidualBinarize":
            assert np.allclose(got, want, rtol=0, atol=1e-6)
        else:
            assert np.array_equal(got, want)


def test_binarize_is_not_sign():
    zero = np.zeros(1, np.float32)
    assert quantisers.binarize(zero) == 1 and np.sign(zero) == 0 and quantisers.binarize(-zero) == 1


def test_quantize_by_channel_rounds_halves_to_even():
    scale = np.array([1.0, 2.0], np.float32).reshape(2, 1)
    x = np.array([[0.5, 1.5, 2.5, -9], [1, 3, 5, 99]], np.float32)
    assert quantisers.quantize(x, scale, -4, 3).tolist() == [[0, 2, 2, -4], [0, 4, 4, 6]]


@pytest.mark.parametrize("name", list(CALLS))
def test_channels_ahead_of_a_quantiser_can_be_pruned(name):
    model = layer(name)
    free = [a for a in free_atoms(verify(model).analysis) if a.size == 5]
    assert len(free) == 1 and bool(free[0].soft) == (name == "DynamicResidualBinarize")
    done, report = apply(make("prune.channels", {"ratio": 0.4}), model)
    if name != "DynamicResidualBinarize":
        assert report.edits and verify(done).analysis.shape(done.nodes[1].outputs[0].name)[1] == 3


def test_a_scale_by_channel_is_cut_with_its_channels():
    scale = np.arange(1, 6, dtype=np.float32).reshape(5, 1, 1)
    model = layer("Quantize", inputs=[scale, np.float32(0), np.float32(3)])
    done, _ = apply(make("prune.channels", {"ratio": 0.4}), model)
    assert done.nodes[1].inputs[1].values.shape == (3, 1, 1)
    verify(done)


def test_a_scale_of_the_wrong_extent_is_named():
    model = layer("Quantize", inputs=[np.ones((4, 1, 1), np.float32), np.float32(0), np.float32(3)])
    with pytest.raises(DimensionError, match="does not fit"):
        verify(model)


@pytest.mark.parametrize(
    "name, inputs, bits",
    [
        ("Binarize", None, 1),
        ("ResidualBinarize", None, 3),
        ("Quantize", None, 2),
        ("Quantize", [np.float32(1), np.float32(0), np.float32(255)], 8),
        ("Quantize", [np.float32(1), np.float32(-8), np.float32(7)], 4),
    ],
)
def test_bit_operations_are_those_of_the_levels(name, inputs, bits):
    model = layer(name, inputs=inputs)
    assert number_bits(model.nodes[-1].inputs[0]) == bits
    macs = 5 * 3 * 36, 4 * 5 * 9 * 16
    assert cost(model, verify(model)).bops == macs[0] * 32 * 32 + macs[1] * 32 * bits


def test_no_body_below_opset_11():
    with pytest.raises(Unsupported, match="opset 11 or newer"):
        functions.function("Binarize", 10)


def test_the_functions_survive_a_file(tmp_path):
    model = layer("ResidualBinarize", 18)
    model.save(tmp_path / "m.onnx")
    assert (DOMAIN, "ResidualBinarize") in load(tmp_path / "m.onnx").functions


# theory (Li 2017, Performance Guaranteed Network Acceleration via High-Order Residual Quantization)

VECTORS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=24).map(lambda v: np.array(v, np.float64))


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_each_residual_is_orthogonal_to_its_plane_and_the_loss_falls(x):
    scales, planes = quantisers.residual(x, 6)
    left = x.copy()
    size = max(float(np.abs(x).sum()), 1.0)
    for a, b in zip(scales, planes, strict=True):
        after = left - a * b
        assert abs(after @ b) <= 1e-9 * size
        # |r_k+1|^2 = |r_k|^2 - n a^2
        assert np.isclose(after @ after, left @ left - len(x) * a**2, rtol=1e-9, atol=1e-9 * size**2)
        left = after


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_n_values_need_at_most_n_orders(x):
    scales, planes = quantisers.residual(x, len(x), fitted=True)
    assert np.linalg.norm(scales @ planes - x) <= 1e-7 * max(np.linalg.norm(x), 1e-3)


def test_fitted_scales_are_never_worse():
    x = np.random.default_rng(0).normal(size=(50, 30))
    for order in (1, 2, 3, 4):
        left = [
            np.linalg.norm(np.einsum("vk,vkn->vn", *quantisers.residual(x, order, fitted=f)) - x, axis=1)
            for f in (False, True)
        ]
        assert order == 1 or (left[1] < left[0]).mean() > 0.8


@given(st.integers(1, 6), st.integers(1, 130), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_product_by_planes_is_the_product_of_the_reconstruction(rows, k, order):
    rng = np.random.default_rng((rows, k, order))
    x, w = rng.normal(size=k), np.where(rng.normal(size=(rows, k)) >= 0, 1.0, -1.0)
    scales, planes = quantisers.residual(x, order)
    assert np.allclose((planes @ w.T).T @ scales, w @ (scales @ planes))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_convolution_by_planes_is_that_of_the_reconstruction(order):
    """sum_k a_k (B_k * W), each B_k of +-1, against ResidualBinarize and Conv in ONNX Runtime; 63 inputs of an output."""
    rng = np.random.default_rng(order)
    x = rng.normal(size=(2, 7, 9, 8)).astype(np.float32)
    w = np.where(rng.normal(size=(5, 7, 3, 3)) >= 0, 1, -1).astype(np.float32)
    scales = quantisers.residual(x.ravel(), order)[0].astype(np.float32)
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[N,7,9,8] x) => (float[N,5,7,6] y) { y = Conv(x, w) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    model = load(proto)
    node = model.nodes[0]
    node.inputs[0] = functions.call(model, "ResidualBinarize", [node.inputs[0], scales], before=node).outputs[0]
    by_planes, left = 0, x
    for a in scales:
        plane = quantisers.binarize(left)
        windows = np.lib.stride_tricks.sliding_window_view(plane, (3, 3), (2, 3))
        by_planes = by_planes + a * np.einsum("nchwij,ocij->nohw", windows, w)
        left = left - a * plane
    assert np.allclose(Session(model.to_proto()).run({"x": x})["y"], by_planes, atol=1e-4)


def test_the_pattern_of_the_published_example():
    """Four numbers: the inner product by one plane is 289 % off, by two 19 %, by three 2.5 %."""
    x, w = np.array([1.4, -1.5, -0.6, -0.3]), np.array([0.2, 0.6, -1.2, -1.7])
    errors = []
    for order in (1, 2, 3):
        scales, planes = quantisers.residual(x, order)
        errors.append(abs(scales @ planes @ w - x @ w) / abs(x @ w))
    assert np.allclose(errors, [2.893, 0.189, 0.025], atol=1e-3)
