"""Running sums and the largest along an axis, compiled, against ONNX Runtime: many nodes in one model."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.helper import np_dtype_to_tensor_dtype as kind_of

from .conftest import error, run_ort


def test_running_sums_and_the_largest(tmp_path):
    from onnxc.codegen import compile_model
    from onnxc.runtime.library import Library

    rng = np.random.default_rng(6)
    nodes, constants, feeds = [], [], {"where": np.array(1)}
    for k in range(24):
        shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(1, 4)))
        dtype = [np.float32, np.int32, np.int64][k % 3] if k < 12 else [np.float32, np.int64][k % 2]
        values = rng.integers(-4, 5, shape).astype(dtype)  # with equal ones
        axis = int(rng.integers(-len(shape), len(shape)))
        feeds[f"x{k}"] = values
        if k < 12:
            at = "where" if k == 11 else f"a{k}"
            if k == 11:
                feeds[f"x{k}"] = rng.integers(-4, 5, (3, 4, 2)).astype(dtype)
            constants.append(numpy_helper.from_array(np.array(axis), f"a{k}"))
            nodes.append(helper.make_node("CumSum", [f"x{k}", at], [f"y{k}"], exclusive=k % 2, reverse=k // 2 % 2))
        else:
            count = int(rng.integers(1, shape[axis] + 1))
            constants.append(numpy_helper.from_array(np.array([count]), f"k{k}"))
            nodes.append(
                helper.make_node("TopK", [f"x{k}", f"k{k}"], [f"y{k}", f"z{k}"], axis=axis, largest=k // 2 % 2)
            )
    names = [name for node in nodes for name in node.output]
    inputs = [helper.make_tensor_value_info(name, kind_of(array.dtype), array.shape) for name, array in feeds.items()]
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in names], constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    compile_model(model, tmp_path, name="net", check="shapes")
    found, wanted = Library(tmp_path).run(feeds), run_ort(model, feeds)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert error(found[name], array) <= 1e-6, name
