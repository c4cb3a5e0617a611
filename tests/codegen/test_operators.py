"""Compiled operators against ONNX Runtime: kernels with awkward extents, epilogues, layouts, fallbacks, refusals."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.ir.errors import BadModel, BadOption, Unsupported


def model(text: str, opset: int = 17, **weights: tuple[int, ...]):
    """A model from ONNX text with random float weights of the given shapes."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    rng = np.random.default_rng(7)
    for name, shape in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    return made


CONVS = {
    # name: (x, weights, attributes)
    "plain": ((1, 16, 9, 9), (32, 16, 3, 3), "pads=[1,1,1,1]"),
    "channels_no_multiple": ((1, 5, 8, 11), (23, 5, 3, 3), "pads=[1,1,1,1]"),
    "one_channel_out": ((1, 7, 6, 6), (1, 7, 3, 3), "pads=[1,1,1,1]"),
    "one_channel_in": ((1, 1, 28, 28), (16, 1, 5, 5), "group=1"),
    "uneven_pads": ((1, 4, 7, 9), (8, 4, 3, 2), "pads=[0,2,1,3]"),
    "left_and_top_only": ((1, 4, 7, 9), (8, 4, 3, 3), "pads=[2,1,0,0]"),
    "stride": ((1, 6, 15, 13), (24, 6, 3, 3), "pads=[1,1,1,1], strides=[2,3]"),
    "dilation": ((1, 6, 15, 13), (17, 6, 3, 3), "pads=[2,2,2,2], dilations=[2,2]"),
    "pointwise": ((1, 20, 5, 7), (40, 20, 1, 1), "group=1"),
    "pointwise_stride": ((1, 20, 9, 9), (40, 20, 1, 1), "strides=[2,2]"),
    "batch": ((3, 8, 6, 6), (16, 8, 3, 3), "pads=[1,1,1,1]"),
    "groups": ((1, 12, 7, 7), (30, 4, 3, 3), "pads=[1,1,1,1], group=3"),
    "depthwise": ((1, 24, 9, 9), (24, 1, 3, 3), "pads=[1,1,1,1], group=24"),
    "depthwise_odd": ((2, 19, 9, 10), (19, 1, 5, 5), "pads=[2,2,2,2], strides=[2,2], group=19"),
    "depthwise_multiplier": ((1, 6, 7, 7), (12, 1, 3, 3), "group=6"),
    "one_pixel": ((1, 33, 1, 1), (65, 33, 1, 1), "group=1"),
    "same_upper": ((1, 3, 10, 10), (8, 3, 3, 3), 'auto_pad="SAME_UPPER", strides=[2,2]'),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolution(same_as_ort, name):
    x, w, attributes = CONVS[name]
    dims = ",".join(map(str, x))
    text = f"g (float[{dims}] x) => (float[a,b,c,d] y) {{ t = Conv<{attributes}>(x, w, b) y = Relu(t) }}"
    report, _ = same_as_ort(model(text, w=w, b=(w[0],)))
    kernel = report.kernels[0]
    family = {"depthwise": "depthwise", "depthwise_odd": "depthwise", "plain": "winograd.f4"}.get(name, "direct")
    assert kernel["kernel"] == f"float32.{family}"
    assert "bias+relu" in kernel["spec"]
    assert not any("relu" in row["function"] for row in report.fallbacks)
    if kernel["kernel"] == "float32.direct":
        assert kernel["refused"][0]["rule"] == "float32.depthwise"


@pytest.mark.parametrize("shape", [(1, 64, 10), (5, 33, 17), (13, 1, 1), (2, 300, 257)])
def test_gemm(same_as_ort, shape):
    m, k, n = shape
    text = f"g (float[{m},{k}] x) => (float[a,b] y) {{ y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) }}"
    report, _ = same_as_ort(model(text, w=(n, k), b=(n,)))
    assert report.kernels[0]["macs"] == m * k * n


def test_batched_products_run_on_our_kernel(same_as_ort):
    text = """g (float[2,3,9,16] q, float[2,3,11,16] k) => (float[a,b,c,d] y) {
      t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax<axis=-1>(s) y = MatMul(p, k) }"""
    report, _ = same_as_ort(model(text))
    assert [row["kernel"] for row in report.kernels] == ["float32.direct"] * 2


def test_epilogue_takes_batch_norm_residual_and_activation(same_as_ort):
    text = """g (float[1,8,6,6] x) => (float[a,b,c,d] y) {
      c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Add(x, n) y = Relu(r) }"""
    made = model(text, w=(8, 8, 3, 3), s=(8,), b=(8,), m=(8,))
    made.graph.initializer.append(numpy_helper.from_array(np.linspace(0.5, 2, 8).astype("f"), "v"))
    report, _ = same_as_ort(made)
    assert "bias+residual+relu" in report.kernels[0]["spec"]
    # at most the two changes of layout are left
    assert all("transpose" in row["function"] for row in report.fallbacks)


def test_epilogue_does_not_take_what_others_read(same_as_ort):
    text = """g (float[1,8,6,6] x) => (float[a,b,c,d] y, float[a,b,c,d] c) {
      c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"""
    report, _ = same_as_ort(model(text, w=(8, 8, 3, 3)))
    assert "epilogue none" in report.kernels[0]["spec"]


EPILOGUES = {
    "clip": "y = Clip(c, lo, hi)",
    "leaky": "y = LeakyRelu<alpha=0.2>(c)",
    "prelu": "y = PRelu(c, slope)",
    "scale_after_activation": "r = Relu(c) m = Mul(r, slope) y = Add(m, slope)",
    "subtract": "y = Sub(c, slope)",
    "subtract_from": "y = Sub(slope, c)",
    "divide": "y = Div(c, slope)",
    "twice": "y = Mul(c, c)",
    "itself": "y = Add(c, c)",
    "two_convs": "d = Conv(x, w) r = Relu(d) y = Add(c, r)",
    "swish": "s = Sigmoid(c) y = Mul(c, s)",
    "hard_swish": "y = HardSwish(c)",
    "max": "y = Max(c, slope, lo)",
    "per_pixel": "y = Add(c, plane)",
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogue(same_as_ort, name):
    text = f"""g (float[1,8,5,5] x) => (float[a,b,c,d] y)
      <float lo = {{-0.5}}, float hi = {{1.5}}> {{ c = Conv(x, w, b) {EPILOGUES[name]} }}"""
    report, _ = same_as_ort(model(text, w=(12, 8, 3, 3), b=(12,), slope=(12, 1, 1), plane=(1, 1, 3, 3)))
    left = [row["function"] for row in report.fallbacks if not re.fullmatch(r"transpose\d*", row["function"])]
    assert bool(left) == (name in ("subtract_from", "max", "twice", "itself", "per_pixel"))


FOLLOWERS = {
    "max_pool": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)",
    "average_pool": "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=0>(c)",
    "global_pool": "p = GlobalAveragePool(c) y = Flatten(p)",
    "flatten": "y = Flatten(c)",
    "concat": "s = Sigmoid(c) y = Concat<axis=1>(c, s, x)",
    "concat_rows": "s = Sigmoid(c) y = Concat<axis=2>(c, s)",
    "split": "a, b2 = Split<axis=1>(c, sizes) s = Sigmoid(b2) y = Concat<axis=1>(s, a)",
    "softmax": "y = Softmax<axis=1>(c)",
    "reduce": "y = ReduceMean<axes=[2,3], keepdims=0>(c)",
    "reduce_channels": "y = ReduceMax<axes=[1], keepdims=1>(c)",
    "transpose": "y = Transpose<perm=[0,2,3,1]>(c)",
    "pad": "y = Pad(c, pads)",
    "resize": """y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">
      (c, , scales)""",
    "upsampling": "y = ConvTranspose<strides=[2,2]>(c, t)",
    "upsampling_overlapping": "y = ConvTranspose<strides=[2,2], pads=[1,0,0,1]>(c, w)",
    "upsampling_rows_with_bias": "y = ConvTranspose<strides=[3,1]>(c, rows, five_values)",
    "shuffle": "r = Reshape(c, five) p = Transpose<perm=[0,2,1,3,4]>(r) y = Reshape(p, four)",
    "squeeze_excite": "p = GlobalAveragePool(c) e = Conv(p, e1) s = Sigmoid(e) y = Mul(c, s)",
    "layer_norm": "y = LayerNormalization<axis=-1>(c, ln)",
    "instance_norm": "y = InstanceNormalization(c, b, b)",
    "lrn": "y = LRN<size=3>(c)",
    "sign": "s = Sign(c) y = Conv(s, w)",
    "rank_three": "r = Reshape(c, three) q = Relu(r) y = Reshape(q, four)",
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_operator_after_a_convolution(same_as_ort, name):
    text = f"""g (float[1,8,8,8] x) => (float y)
      <int64[2] sizes = {{3, 5}}, int64[8] pads = {{0,0,1,2,0,0,0,1}}, float[4] scales = {{1,1,2,2}},
       int64[5] five = {{1,2,4,8,8}}, int64[4] four = {{1,8,8,8}}, int64[3] three = {{1,8,64}}>
      {{ c = Conv<pads=[1,1,1,1]>(x, w, b) {FOLLOWERS[name]} }}"""
    weights = {
        "w": (8, 8, 3, 3),
        "b": (8,),
        "t": (8, 5, 2, 2),
        "rows": (8, 5, 3, 1),
        "five_values": (5,),
        "e1": (8, 8, 1, 1),
        "ln": (8,),
    }
    report, _ = same_as_ort(model(text, **weights), tolerance=2e-5)
    assert report.kernels


def test_outputs_that_no_kernel_makes(same_as_ort):
    text = """g (float[2,3] x) => (float[2,3] same, float[2] constant, float[2,3] twice, float[2,3] r)
      <float[2] k = {1.5, -2}> { same = Identity(x) constant = Identity(k) r = Relu(x) twice = Identity(r) }"""
    same_as_ort(model(text))


def test_integers_and_several_inputs(same_as_ort):
    text = """g (int64[2,3] i, float[5,4] table) => (float[a,b,c] y, int64[2,3] j) {
      y = Gather(table, i) j = Add(i, i) }"""
    same_as_ort(model(text))


def test_model_local_functions_are_inlined(same_as_ort):
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "ai.onnxc": 1]>
      g (float[1,4] x) => (float[1,4] y) { y = ai.onnxc.Double(x) }
      <opset_import: ["": 17], domain: "ai.onnxc"> Double (x) => (y) { y = Add(x, x) }""")
    same_as_ort(made)


def test_shape_chains_are_folded(same_as_ort):
    text = """g (float[N,3,4] x) => (float[a,b] y) <int64[1] zero = {0}, int64[1] rest = {-1}> {
      s = Shape(x) n = Gather(s, zero) t = Concat<axis=0>(n, rest) y = Reshape(x, t) }"""
    _, library = same_as_ort(model(text), shapes={"x": (5, 3, 4)})
    assert library.outputs["y"][0] == (5, 12)


def test_symbolic_batch_is_one_unless_given(same_as_ort):
    text = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
    _, library = same_as_ort(model(text))
    assert library.inputs["x"][0] == (1, 4)


REFUSED = {
    "symbolic": ("g (float[N,H] x) => (float[N,H] y) { y = Relu(x) }", None, BadOption, r"x\[1\].*H.*--shape x=1x32"),
    "unknown_input": ("g (float[2] x) => (float[2] y) { y = Relu(x) }", {"z": (2,)}, BadOption, "'z'"),
    "wrong_rank": ("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {"x": (2,)}, BadOption, "rank"),
    "fixed": ("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {"x": (1, 3)}, BadOption, r"x\[1\].*expected 2"),
    "data_dependent": ("g (float[4] x) => (float[N] y) { y = Unique(x) }", None, Unsupported, "depends on data"),
    "unknown_operator": (
        "g (float[2,2] x) => (float[2,2] y) { y = Bernoulli(x) }",
        None,
        Unsupported,
        "Bernoulli_0: operator Bernoulli",
    ),
    "contradiction": ("g (float[4] x) => (float y) { s = STFT(x, k) y = Relu(s) }", None, BadModel, "STFT_0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_where_and_what(tmp_path, name):
    text, shapes, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        compile_model(model(text, k=(1,)), tmp_path / "out", name="net", shapes=shapes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.so"))
