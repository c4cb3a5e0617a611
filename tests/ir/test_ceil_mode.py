"""Pools with ceil_mode whose last window would start in the end padding: ONNX's inference counts it before opset 22."""

import numpy as np
import pytest
from onnx import parser

from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.runtime.reference import Session


@pytest.mark.parametrize("opset", [11, 17, 21, 22])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (6, 3)])
@pytest.mark.parametrize("attributes", ["pads=[1,1,1,1]", "pads=[0,0,1,1]", "pads=[1,0,0,1]"])
def test_such_a_model_verifies_with_the_extents_that_it_has(opset, size, attributes):
    h, w = size
    model = load(
        parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": {opset}]>
            g (float[1,2,{h},{w}] x) => (float[1,2,a,b] y) {{
              p = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1, {attributes}>(x)
              y = Relu(p) }}"""
        )
    )
    got = Session(model.to_proto()).run({"x": np.zeros((1, 2, h, w), np.float32)})["y"]
    assert verify(model).analysis.shape("y") == got.shape


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_windows_smaller_than_their_step(op):
    rng = np.random.default_rng(5)
    for _ in range(12):
        kernel, step = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        begin, end, size = (int(n) for n in (*rng.integers(0, kernel, 2), rng.integers(4, 14)))
        text = f"""<ir_version: 8, opset_import: ["": {rng.choice([13, 17, 22])}]> g (float[1,2,{size}] x) => (float[1,2,a] y) {{
          y = {op}<kernel_shape=[{kernel}], strides=[{step}], ceil_mode=1, pads=[{begin},{end}]>(x) }}"""
        model = load(parser.parse_model(text))
        got = Session(model.to_proto()).run({"x": np.zeros((1, 2, size), np.float32)})["y"]
        assert verify(model).analysis.shape("y") == got.shape, text
