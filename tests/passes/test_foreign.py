"""Operators of other domains that bear a standard operator's name are not ours: every pass leaves them as they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc import run_passes
from onnxc.ir.errors import OnnxcError
from onnxc.passes import registry

rng = np.random.default_rng(0)
WEIGHTS = {
    "w": rng.standard_normal((8, 8, 3, 3)).astype("f"), "m": rng.standard_normal((8, 8)).astype("f"),
    "s": np.ones(8, "f"), "k": np.float32(0.5), "z": np.int8(0),
}  # fmt: skip
FOREIGN = {
    "Conv": ["w"], "BatchNormalization": ["s", "s", "s", "s"], "Relu": [], "MatMul": ["m"], "Gemm": ["m"], "Identity": [],
    "Mul": ["k"], "Add": ["k"], "QuantizeLinear": ["k", "z"], "DequantizeLinear": ["k"], "Sign": [], "Transpose": [], "Reshape": ["s"],
    "Constant": [], "Lookup": ["m"], "Quant": ["k", "k", "k"], "Loop": [], "If": [],
}  # fmt: skip


def network() -> onnx.ModelProto:
    """A convolution of ours, then everything of theirs, then a convolution of ours."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["t0"], pads=[1] * 4)]
    for i, (op, more) in enumerate(FOREIGN.items()):
        nodes.append(helper.make_node(op, [f"t{i}", *more], [f"t{i + 1}"], name=f"theirs_{op}", domain="org.example"))
    nodes.append(helper.make_node("Conv", [f"t{len(FOREIGN)}", "w"], ["y"], pads=[1] * 4))
    shape = [1, 8, 6, 6]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    between = [helper.make_tensor_value_info(f"t{i + 1}", TensorProto.FLOAT, shape) for i in range(len(FOREIGN))]
    weights = [numpy_helper.from_array(np.asarray(values), name) for name, values in WEIGHTS.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights, value_info=between)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("name", list(registry.available()))
def test_every_pass_leaves_foreign_operators_as_they_are(name):
    try:
        made = run_passes(network(), name, check="shapes").model.to_proto()
    except OnnxcError as e:  # a pass that looks at activations cannot run what nobody has
        assert str(e).isprintable()
        return
    theirs = [n for n in made.graph.node if n.domain == "org.example"]
    assert [n.op_type for n in theirs] == list(FOREIGN)
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in theirs:
        for given, want in zip(node.input[1:], FOREIGN[node.op_type], strict=True):
            np.testing.assert_array_equal(weights[given], WEIGHTS[want])
