"""QDQ models: weights are dequantised at compile time, activations are rounded as ONNX rounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen.static import make_static


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
    assert [row["kernel"] for row in report.kernels] == ["float32.direct"]
    assert "bias+relu" in report.kernels[0]["spec"]


@pytest.mark.parametrize("axis, scales, zeros", [(0, (4,), (4,)), (1, (3,), (3,)), (-1, (3,), (3,)), (1, (), ())])
def test_dequantised_constants(axis, scales, zeros):
    rng = np.random.default_rng(2)
    w = rng.integers(-100, 100, (4, 3)).astype("i1")
    scale, zero = rng.uniform(0.1, 1, scales).astype("f"), rng.integers(-5, 5, zeros).astype("i1")
    text = f"g (float[2,4] x) => (float[2,3] y) {{ f = DequantizeLinear<axis={axis}>(w, s, z) y = MatMul(x, f) }}"
    static = make_static(with_arrays(text, w=w, s=np.asarray(scale), z=np.asarray(zero)))
    view = (1, 1) if not scales else (-1, 1) if axis == 0 else (1, -1)
    wanted = (w.astype("f") - np.reshape(zero, view).astype("f")) * np.reshape(scale, view)
    assert np.allclose(next(iter(static.weights.values())), wanted, rtol=1e-6)
