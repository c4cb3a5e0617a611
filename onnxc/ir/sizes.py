"""How much a result takes, asked before any of it is computed.

A few bytes of model can ask for terabytes (HannWindow of 2^40, a chain of Concat(x, x), Einsum of three vectors). So
each fold says first how many bytes its results have when they are written, how many while they are held (repeated
elements are stride-0 views and cost nothing), and how many steps it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, isfinite, prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .evaluate import EVALUATORS, core
from .faults import ONNX_ERRORS
from .inference import infer
from .values import attribute_proto, to_tensor

Known = Mapping[str, tuple[tuple[int, ...] | None, int]]
"""Output -> its extents, None where they are not known, and the bytes of an element."""

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Slice", "Expand", "Dropout"}
LAZY = {
    "Sqrt", "Exp", "Log", "Floor", "Ceil", "Round", "Sin", "Cos", "Tanh", "Reciprocal", "Sigmoid", "Neg", "Abs", "Sign",
    "Relu", "Not", "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "And", "Or", "Xor", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Pow", "Mod", "Where", "Clip", "Cast",
}  # fmt: skip
"""Evaluated once for each element that is not repeated."""
STEPS = 1 << 31
"""Multiplications of a fold at most: a second or two."""
SLOW = {
    "Resize", "Upsample", "GridSample", "AffineGrid", "RoiAlign", "MaxRoiPool", "MaxPool", "AveragePool", "LpPool",
    "MaxUnpool", "NonMaxSuppression", "DeformConv", "Col2Im", "STFT", "Unique", "LRN", "ScatterND", "ScatterElements",
    "TopK", "Attention", "LSTM", "GRU", "RNN", "MelWeightMatrix", "GatherND", "ReverseSequence",
}  # fmt: skip
"""Operators that the reference evaluator loops over in Python."""
LOOPED = 1 << 14
"""Elements of these at most."""
SHOWN = 1 << 16
"""Bytes of a constant that ONNX's inference is shown."""


def written(node: gs.Node, arrays: list[np.ndarray | None], opset: int, known: Known) -> int | None:
    """Bytes of all outputs in a file; None where no inference says how large they are."""
    total = 0
    alone: dict[str, int] | None = None
    for t in node.outputs:
        if not t.name:
            continue
        extents, width = known[t.name]
        n = _at_most(node, arrays) if extents is None else prod(extents)
        if n is None:
            alone = _inferred(node, arrays, opset) if alone is None else alone
            n = alone.get(t.name)
        if n is None:
            return None
        total += n * width
    return total


def held(node: gs.Node, arrays: list[np.ndarray | None], file_bytes: int) -> int:
    """Bytes of new memory that the results take, at most `file_bytes`."""
    given = [a for a in arrays if a is not None]
    if node.op == "ConstantOfShape" or (node.op in VIEWS and _stays_view(node, given[0])):
        return 0
    if node.op in LAZY and len(node.outputs) == 1:
        shape = np.broadcast_shapes(*(core(a).shape for a in given))
        return min(file_bytes, prod(shape) * 8)
    return file_bytes


def too_long(node: gs.Node, arrays: list[np.ndarray | None], file_bytes: int, iterates: bool) -> bool:
    """Whether computing the results takes too many steps; `iterates`: an operator that sums over axes."""
    sizes = [a.shape for a in arrays if a is not None]
    if node.op == "Einsum":
        return _einsum_steps(node, sizes) > STEPS
    if node.op in SLOW or (node.op not in EVALUATORS and iterates):
        return file_bytes // 4 + sum(map(prod, sizes)) > LOOPED
    if node.op in ("MatMul", "Gemm") and len(sizes) >= 2 and sizes[0] and sizes[1]:
        return prod(sizes[0]) * sizes[1][-1] * prod(sizes[1][:-2]) > STEPS
    return node.op == "Det" and sum(map(prod, sizes)) > LOOPED


def _stays_view(node: gs.Node, x: np.ndarray) -> bool:
    """Whether NumPy only looks at `x` in another way: a Reshape of a partly repeated or transposed array copies."""
    moved = node.op in ("Reshape", "Flatten")
    return not moved or x.flags.c_contiguous or not any(x.strides)


def _at_most(node: gs.Node, arrays: list[np.ndarray | None]) -> int | None:
    """Elements of results whose extents depend on what the inputs hold; of Range also where ONNX's inference does not say
    (16-bit floats, operands of one axis)."""
    x = arrays[0] if arrays else None
    if x is None:
        return None
    if node.op == "Range":
        return _turns(arrays)
    if node.op == "NonZero":
        return x.size * max(x.ndim, 1)
    return x.size if node.op in ("Compress", "Unique") else None


def _turns(arrays: list[np.ndarray | None]) -> int | None:
    if len(arrays) != 3 or any(a is None or a.size != 1 for a in arrays):
        return None
    values = [a.reshape(-1).astype(a.dtype if a.dtype.kind in "iu" else np.float64)[0].item() for a in arrays]  # type: ignore[union-attr]
    if not all(map(isfinite, values)) or not values[2]:
        return None
    start, limit, delta = map(Fraction, values)
    return max(0, ceil((limit - start) / delta))


def _einsum_steps(node: gs.Node, sizes: list[tuple[int, ...]]) -> int:
    """The product of all extents of an equation: what it takes without a clever order."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "").partition("->")[0]
    extents: dict[str, int] = {}
    steps = 1
    for term, shape in zip(equation.split(","), sizes, strict=False):
        letters = term.replace("...", "")
        if "." in term:
            steps *= prod(shape)
        extents |= dict(zip(letters, shape, strict=False))
    return steps * prod(extents.values())


def _inferred(node: gs.Node, arrays: list[np.ndarray | None], opset: int) -> dict[str, int]:
    """Elements of each output by ONNX's inference of this node alone, shown what its inputs hold."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(arrays)]
    outs = [t.name for t in node.outputs]
    proto = onnx.NodeProto(op_type=node.op, input=names, output=outs)
    proto.attribute.extend(attribute_proto(k, v) for k, v in node.attrs.items())
    graph = onnx.GraphProto(name="one", node=[proto])
    for name, a in zip(names, arrays, strict=True):
        if a is None:
            continue
        if a.nbytes <= SHOWN:
            graph.initializer.append(to_tensor(name, a))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(a.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, a.shape))
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in outs if n)
    model = onnx.ModelProto(ir_version=10, graph=graph, opset_import=[onnx.helper.make_opsetid("", opset)])
    try:
        made = infer(model).graph
    except ONNX_ERRORS:
        return {}
    found = {}
    for info in (*made.output, *made.value_info):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
            found[info.name] = prod(d.dim_value for d in dims)
    return found
