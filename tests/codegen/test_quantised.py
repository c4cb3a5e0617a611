"""QDQ models: which products become integer kernels, what stays in floats, and how activations are rounded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen.prepare.static import make_static


def with_arrays(text: str, **arrays: np.ndarray) -> onnx.ModelProto:
    """A model of opset 17 from ONNX text and initialisers."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_rounding_is_half_to_even_and_saturates(same_as_ort, dtype):
    values = np.concatenate([np.arange(-10, 10, 0.25), [-1e4, 1e4]]).astype("f")
    text = f"g (float[{values.size}] x) => (float[n] y, {dtype}[n] q) {{ s = Add(x, k) q = QuantizeLinear(s, c, z)"
    made = with_arrays(
        text + " y = DequantizeLinear(q, c, z) }",
        k=values, c=np.float32(0.5).reshape(()), z=np.array(3, dtype),
    )  # fmt: skip
    _, library = same_as_ort(made)
    found = library(x=np.zeros_like(values))
    limits = np.iinfo(dtype)
    wanted = np.clip(np.rint(values / np.float32(0.5)) + 3, limits.min, limits.max)
    assert np.array_equal(found["q"], wanted.astype(dtype))
    assert np.array_equal(found["y"], (wanted - 3).astype("f") * np.float32(0.5))


def test_per_channel_weights_reach_the_kernel(same_as_ort):
    rng = np.random.default_rng(5)
    made = with_arrays(
        """g (float[1,6,8,8] x) => (float[a,b,c,d] y) {
          xq = QuantizeLinear(x, s, z) xf = DequantizeLinear(xq, s, z)
          wf = DequantizeLinear<axis=0>(w, ws, wz) bf = DequantizeLinear<axis=0>(b, bs)
          c = Conv<pads=[1,1,1,1]>(xf, wf, bf) r = Relu(c)
          rq = QuantizeLinear(r, s, z) y = DequantizeLinear(rq, s, z) }""",
        w=rng.integers(-127, 128, (16, 6, 3, 3)).astype("i1"),
        ws=rng.uniform(0.001, 0.02, 16).astype("f"), wz=np.zeros(16, "i1"),
        b=rng.integers(-500, 500, 16).astype("i4"), bs=rng.uniform(1e-4, 1e-3, 16).astype("f"),
        s=np.float32(1 / 32).reshape(()), z=np.array(120, "u1"),
    )  # fmt: skip
    report, _ = same_as_ort(made, 1 / 64)
    assert report.kernels[0]["kernel"].startswith("int8.direct")
    # the bias is no multiple of sx sw here, so it is added as a float; Relu is a bound of the rounding
    assert "uint8 x int8 -> uint8 epilogue int_bias+mul+add+quantize" in report.kernels[0]["spec"]


@pytest.mark.parametrize("axis, scales, zeros", [(0, (4,), (4,)), (1, (3,), (3,)), (-1, (3,), (3,)), (1, (), ())])
def test_dequantised_constants(axis, scales, zeros):
    rng = np.random.default_rng(2)
    w = rng.integers(-100, 100, (4, 3)).astype("i1")
    scale, zero = rng.uniform(0.1, 1, scales).astype("f"), rng.integers(-5, 5, zeros).astype("i1")
    text = f"g (float[2,4] x) => (float[2,3] y) {{ f = DequantizeLinear<axis={axis}>(w, s, z) y = MatMul(x, f) }}"
    static = make_static(with_arrays(text, w=w, s=np.asarray(scale), z=np.asarray(zero)))
    view = (1, 1) if not scales else (-1, 1) if axis == 0 else (1, -1)
    wanted = (w.astype("f") - np.reshape(zero, view).astype("f")) * np.reshape(scale, view)
    assert np.allclose(static.constants[next(iter(static.weights))], wanted, rtol=1e-6)


SCALES = {"s": np.float32(1 / 32).reshape(()), "z": np.array(120, "u1"), "ws": np.float32(0.01173).reshape(())}


def chain(body: str, out: str = "y", **arrays: np.ndarray) -> onnx.ModelProto:
    """A quantised input xf, `body` after it, and a 3x3 kernel wf of eight channels in and out."""
    rng = np.random.default_rng(8)
    w = rng.integers(-127, 128, (8, 8, 3, 3)).astype("i1")
    return with_arrays(
        f"""g (float[1,8,6,6] x) => (float[a,b,c,d] {out}) {{
          xq = QuantizeLinear(x, s, z) xf = DequantizeLinear(xq, s, z) wf = DequantizeLinear(w, ws) {body} }}""",
        w=w, **SCALES, **arrays,
    )  # fmt: skip


def test_a_residual_block_is_two_kernels_in_integers(same_as_ort):
    made = chain("""a = Conv<pads=[1,1,1,1]>(xf, wf) r = Relu(a) rq = QuantizeLinear(r, t, z) rf = DequantizeLinear(rq, t, z)
      b = Conv<pads=[1,1,1,1]>(rf, wf) bq = QuantizeLinear(b, u, z) bf = DequantizeLinear(bq, u, z)
      c = Add(xf, bf) d = Relu(c) dq = QuantizeLinear(d, u, z) y = DequantizeLinear(dq, u, z)""",
      t=np.float32(0.2113).reshape(()), u=np.float32(0.9371).reshape(()))  # fmt: skip
    report, _ = same_as_ort(made, 1 / 120)
    steps = [row["spec"].rsplit("epilogue ", 1)[1] for row in report.kernels]
    assert steps == ["int_bias+mul+quantize", "int_bias+mul+rounded+int_residual+quantize"]
    # the input is quantised and the output dequantised, and both change their layout
    assert sorted(row["function"].rstrip("0123456789") for row in report.fallbacks) == [
        "dequantize",
        "quantize",
        "transpose",
        "transpose",
    ]


def test_integers_that_others_read_are_kept(same_as_ort):
    made = chain("""a = Conv<pads=[1,1,1,1]>(xf, wf) q = QuantizeLinear(a, t, z) f = DequantizeLinear(q, t, z)
      b = Conv<pads=[1,1,1,1]>(f, wf) y = Add(f, b)""", t=np.float32(0.2113).reshape(()))  # fmt: skip
    report, _ = same_as_ort(made, 1e-6)
    assert [row["spec"].split()[-3] for row in report.kernels] == ["uint8", "float32"]
    assert "int_residual" in report.kernels[1]["spec"]


def test_pooling_moves_integers(same_as_ort):
    made = chain("""a = Conv(xf, wf) q = QuantizeLinear(a, t, z) f = DequantizeLinear(q, t, z)
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f) pq = QuantizeLinear(p, t, z) y = DequantizeLinear(pq, t, z)""",
      t=np.float32(0.2113).reshape(()))  # fmt: skip
    report, _ = same_as_ort(made, 1 / 250)
    assert sum("pool" in row["function"] for row in report.fallbacks) == 1
    assert not any("quantize_max" in row["function"] for row in report.fallbacks)


@pytest.mark.parametrize(
    "body, arrays",
    [
        ("q = Conv<pads=[1,1,1,1]>(x, wf) y = Relu(q)", {}),  # float activations
        ("k = DequantizeLinear<axis=1>(w, v) y = Conv<pads=[1,1,1,1]>(xf, k)", {"v": np.linspace(0.01, 0.02, 8, dtype="f")}),
        ("k = DequantizeLinear(w, ws, n) y = Conv(xf, k)", {"n": np.array(-40, "i1")}),  # beyond int8
    ],
)  # fmt: skip
def test_other_products_stay_in_floats(same_as_ort, body, arrays):
    report, _ = same_as_ort(chain(body, **arrays), 1e-5)
    assert [row["kernel"] for row in report.kernels] == ["float32.direct"]


def test_a_weight_zero_point_is_taken_away_first(same_as_ort):
    made = chain("k = DequantizeLinear(u, ws, n) y = Conv(xf, k)", n=np.array(128, "u1"),
                 u=np.random.default_rng(1).integers(1, 256, (8, 8, 3, 3)).astype("u1"))  # fmt: skip
    report, _ = same_as_ort(made, 1e-5)
    assert report.kernels[0]["kernel"].startswith("int8.")


@pytest.mark.parametrize("steps", ["HardSwish", "Sigmoid", "LeakyRelu<alpha=0.1>"])
def test_activations_between_product_and_quantiser(same_as_ort, steps):
    made = chain(f"a = Conv(xf, wf) r = {steps}(a) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z)")
    report, _ = same_as_ort(made, 1 / 100)
    assert report.kernels[0]["kernel"].startswith("int8.") and "uint8 x int8 -> uint8" in report.kernels[0]["spec"]
