"""What ONNX's inference is given, when a model is verified."""

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.ir.errors import OnnxcError
from onnxc.ir.verify import verify


def test_inference_writes_out_no_vector_of_weights(monkeypatch):
    text = """g (float[N,1000] x, float[1000] given) => (float[N,1000] y) {
        s = Mul(x, scale)  t = Mul(s, given)  y = Add(t, given) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000, np.float32), "scale"))
    seen, infer = [], onnx.shape_inference.infer_shapes
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda m, **k: seen.append(m) or infer(m, **k))
    model = onnxc.load(proto)
    verified = verify(model)
    verified.analysis.inferred("y")
    assert verified.types["scale"] == onnx.TensorProto.FLOAT
    assert len(seen) == 3 and all([i.name for i in m.graph.input] == ["x", "given"] for m in seen)
    proto.graph.initializer[0].dims[:] = [500, 2]
    with pytest.raises(OnnxcError, match="scale"):
        verify(onnxc.load(proto))
