"""Which outputs are scores of classes, of which the largest counts: read off the graph, and names where they say it.

Softmax(x), Gemm(x, w), GlobalAveragePool(Conv(x))           scores
Sigmoid(x), Tanh(x), LSTM(...), x / norm, Slice(x)           something else
boxes, embedding, y [n, 640] of x [n, 640]                   something else
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
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
SOFTMAXES = {"Softmax", "LogSoftmax", "Hardmax"}
CLASSIFIERS = {"TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"}
PROBABLE = (1, 2, 3)
"""What TreeEnsemble does to its sums where they are of classes: softmax, logistic, softmax of what is not 0."""
DEPTH = 12


def score_outputs(graph: onnx.GraphProto) -> frozenset[str]:
    """The outputs that may be scores of classes, [samples, classes]. Where one is a softmax, others are scores by name, or as
    what a softmax reads: boxes and landmarks stand beside classes."""
    makers = {name: node for node in graph.node for name in node.output}
    given = {_shape(v) for v in graph.input}
    constants = _constants(graph)
    ends = {value.name: _end(value.name, makers, constants) for value in graph.output}
    softmaxes = [node for node in graph.node if node.op_type in SOFTMAXES]
    top = any(ends[v.name] in softmaxes for v in graph.output if len(v.type.tensor_type.shape.dim) == 2)
    read = {name for node in softmaxes for name in node.input}
    found = set()
    for value in graph.output:
        plain = not OTHER.fullmatch(value.name) and _shape(value) not in given and _is_score(ends[value.name])
        if top and ends[value.name] not in softmaxes and value.name not in read:
            plain = False
        if plain or NAMED.fullmatch(value.name):
            found.add(value.name)
    return frozenset(found)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The extents but that of samples; empty where one is not known."""
    dims = value.type.tensor_type.shape.dim[1:]
    return tuple(d.dim_value for d in dims) if dims and all(d.dim_value > 0 for d in dims) else ()


def _is_score(node: onnx.NodeProto | None) -> bool:
    if node is None or node.domain != "ai.onnx.ml":
        return node is not None
    ends = {a.name: a.i for a in node.attribute}
    return node.op_type in CLASSIFIERS or (node.op_type == "TreeEnsemble" and ends.get("post_transform", 0) in PROBABLE)


def _end(name: str, makers: Mapping[str, onnx.NodeProto], constants: Set[str]) -> onnx.NodeProto | None:
    """The softmax, product or classical model behind an output, through what keeps scores; None where there is something else."""
    for _ in range(DEPTH):
        node = makers.get(name)
        if node is None:
            return None
        if node.op_type in ENDS or node.domain not in ("", "ai.onnx", "com.microsoft"):
            return node
        if node.op_type not in PASSED | SUMS:
            return None
        computed = [n for n in dict.fromkeys(node.input) if n not in constants]
        if node.op_type == "Mul" and len(computed) > 1:  # a gate, not a scale
            return None
        name = computed[0] if computed else ""
    return None


def _constants(graph: onnx.GraphProto) -> set[str]:
    """The tensors that hang on no input."""
    found = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer} | {""}
    for node in graph.node:
        if all(name in found for name in node.input):
            found.update(node.output)
    return found
