"""ONNX Runtime's messages name neither its source files nor its functions."""

import pytest

from onnxc.runtime.wording import plain

MESSAGES = {
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code. Name:'y' Status Message: /onnxruntime_src/onnxruntime/core/providers/"
    "cpu/signal/window_functions.cc:133 onnxruntime::common::Status onnxruntime::CreateMelWeightMatrix<T>::operator()("
    "onnxruntime::OpKernelContext*, int64_t) [with T = float; int64_t = long int] index >= 0 was false. Out of range.":
    "Non-zero status code. Name:'y' Status Message: index >= 0 was false. Out of range.",
    "Exception during initialization: /onnxruntime_src/core/a.h:166 Status onnxruntime::X::Y(const A&, B*) const shape Mismatch (3)":
    "Exception during initialization: shape Mismatch (3)",
    "/a/b/model.cc:182 onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&) Unsupported version: 99":
    "Unsupported version: 99",
    "/a/k.cc:9 onnxruntime::F::G(const H&)::<lambda(ptrdiff_t, ptrdiff_t)> indices (7) out of bounds":
    "indices (7) out of bounds",
    "Node (n) Op (Conv) [ShapeInferenceError] /x/y/defs.cc:12 the kernel (3) does not fit":
    "Node (n) Op (Conv) [ShapeInferenceError] the kernel (3) does not fit",
    "no source: a.h is no file, 3.5 (x::y) stays": "no source: a.h is no file, 3.5 (x::y) stays",
    "/a/k.cc:9 cut off (": "cut off (",
    "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from /tmp/.a b/m.onnx failed:This is an invalid model. Type Error":
    "This is an invalid model. Type Error",
}  # fmt: skip


@pytest.mark.parametrize("said", MESSAGES)
def test_what_only_developers_can_use_is_left_out(said):
    assert plain(said) == MESSAGES[said]
