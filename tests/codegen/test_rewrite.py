"""Rewrites of the static graph compute what the operators did."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxc.codegen.prepare.static import make_static
from onnxc.runtime.reference import Session


def convolution(extents, kernel, strides, dilations, pads):
    weights = np.random.default_rng(0).standard_normal((2, 1, *kernel)).astype(np.float32)
    sides = zip(extents, kernel, strides, dilations, pads[:2], pads[2:])
    out = [(n + b + e - d * (k - 1) - 1) // s + 1 for n, k, s, d, b, e in sides]
    if min(out) < 1:
        return None
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, dilations=dilations, strides=strides, group=2)
    x, y = (helper.make_tensor_value_info(name, 1, [1, 2, *shape]) for name, shape in (("x", extents), ("y", out)))
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def as_model(static) -> onnx.ModelProto:
    """A static model as ONNX again."""
    values = [
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
            for name, shape, kind in side
        ]
        for side in (static.inputs, static.outputs)
    ]
    constants = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in static.constants.items()]
    graph = helper.make_graph(static.nodes, "g", *values, constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in static.opsets.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_taps_that_see_padding_alone_go():
    rng = np.random.default_rng(1)
    cut = whole = 0
    for _ in range(400):
        extents, kernel, dilations, strides = (rng.integers(1, most, 2).tolist() for most in (7, 6, 5, 4))
        model = convolution(extents, kernel, strides, dilations, rng.integers(0, 8, 4).tolist())
        if model is None:
            continue
        static = make_static(model)
        x = rng.standard_normal((1, 2, *extents)).astype(np.float32)
        wanted = Session(model).run({"x": x})["y"]
        (found,) = Session(as_model(static)).run({"x": x}).values()
        assert found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-5)
        smaller = any(array[0, 0].size < np.prod(kernel) for array in static.constants.values() if array.ndim == 4)
        cut, whole = cut + smaller, whole + (not smaller)
    assert cut > 100 and whole > 50
