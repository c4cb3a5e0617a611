"""Which outputs are scores of classes, of which the largest counts: read off the graph, and names where they say it.

Softmax(x), Gemm(x, w), GlobalAveragePool(Conv(x))           scores
Sigmoid(x), Tanh(x), LSTM(...), x / norm, Slice(x)           something else
boxes, embedding, y [n, 640] of x [n, 640]                   something else
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

NAMED = re.compile(r".*(logit|prob|class|score|softmax|label).*", re.IGNORECASE)
OTHER = re.compile(
    r".*(embed|feat|hidden|state|cell|box|bbox|loc|coord|offset|reg(ression)?$|mean|mu$|var|latent|vector|mask|recon|noise|sound|"
    r"audio|wave|key|value|cache).*",
    re.IGNORECASE,
)
PASSED = {
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Cast",
    "DequantizeLinear",
    "QuantizeLinear",
    "Dropout",
    "Transpose",
}
SUMS = {"Add", "Sub", "BatchNormalization", "Mul", "ReduceMean", "GlobalAveragePool", "AveragePool", "Clip"}
"""What may stand behind the product that makes scores: bias, scale, a mean over places."""
ENDS = {
    "Softmax", "LogSoftmax", "Gemm", "MatMul", "Conv", "QLinearConv", "QLinearMatMul", "QGemm", "FusedMatMul", "MatMulNBits",
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm", "GemmFloat8",
}  # fmt: skip
DEPTH = 12


def score_outputs(graph: onnx.GraphProto) -> frozenset[str]:
    """The outputs that may be scores of classes, [samples, classes]."""
    makers = {name: node for node in graph.node for name in node.output}
    given = {_shape(v) for v in graph.input}
    found = set()
    for value in graph.output:
        plain = not OTHER.fullmatch(value.name) and _shape(value) not in given and _scored(value.name, makers)
        if plain or NAMED.fullmatch(value.name):
            found.add(value.name)
    return frozenset(found)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The extents but that of samples; empty where one is not known."""
    dims = value.type.tensor_type.shape.dim[1:]
    return tuple(d.dim_value for d in dims) if dims and all(d.dim_value > 0 for d in dims) else ()


def _scored(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    for _ in range(DEPTH):
        node = makers.get(name)
        if node is None:
            return False
        if node.op_type in ENDS or node.domain == "ai.onnx.ml" or node.domain not in ("", "ai.onnx", "com.microsoft"):
            return True
        if node.op_type not in PASSED | SUMS:
            return False
        name = next((n for n in node.input if n in makers and makers[n].op_type != "Constant"), "")
    return False
