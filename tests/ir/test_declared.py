"""Outputs that are declared with another shape than they have are corrected, and said."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.ir.errors import DimensionError
from onnxc.ir.files import load
from onnxc.measure.inspect import inspect
from onnxc.pipeline import sound
from onnxc.runtime.reference import Session


def product(declared) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(32, dtype=np.float32).reshape(8, 4), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("declared", [["N", "T"], [1], ["N", 5, 3], [], ["N", 5, 4, 1]])
def test_a_wrong_declaration_is_corrected(declared):
    proto = product(declared)
    result = onnxc.run_passes(proto, "clean, fuse")
    assert len(result.report.remarks) == 1 and "output y is declared" in str(result.report)
    assert list(inspect(proto).remarks) == result.report.remarks
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    written = result.model.to_proto()
    assert [d.dim_value for d in written.graph.output[0].type.tensor_type.shape.dim][1:] == [5, 4]
    np.testing.assert_allclose(Session(written).run({"x": x})["y"], x @ np.arange(32).reshape(8, 4), rtol=1e-5)


def test_a_right_declaration_stays():
    assert sound(load(product(["N", 5, 4]))).remarks == []


def test_what_is_wrong_inside_is_still_refused():
    proto = product(["N", 5, 4])
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
    with pytest.raises(DimensionError) as refusal:
        sound(load(proto))
    assert refusal.value.exit_status == 2
