"""A model that is written in parts has the bytes of the whole message."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from tests import strategies

ODD = {
    "text": np.array([b"a", b"", b"\xff"], object), "scalar": np.float32(3), "none": np.zeros((0, 3), np.int64),
    "flags": np.array([True, False]), "half": np.arange(5, dtype=np.float16), "many": np.arange(300.0),
}  # fmt: skip


def odd() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.asarray(values), name) for name, values in ODD.items()]
    weights.append(helper.make_tensor("nibbles", TensorProto.INT4, [3], [1, -2, 3]))
    nodes = [helper.make_node("Identity", [t.name], [f"y_{t.name}"]) for t in weights]
    outputs = [helper.make_tensor_value_info(f"y_{t.name}", t.data_type, t.dims) for t in weights]
    made = helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights, doc_string="d"), ir_version=10,
                             opset_imports=[helper.make_opsetid("", 21)], doc_string="whole")  # fmt: skip
    made.metadata_props.add(key="k", value="v")
    return made


@pytest.mark.parametrize("proto", [odd(), *(strategies.build(seed, 3, 17) for seed in range(3))])
def test_the_parts_are_the_message(tmp_path, proto):
    model = onnxc.load(proto)
    model.save(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == model.to_proto().SerializeToString(deterministic=True)
