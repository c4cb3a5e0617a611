"""Axes that are declared open and can have one extent only: what the stored weights of the first products say.

Conv(x [N, C, H, W], w [8, 3, 3, 3])            C: 3
MatMul(Transpose(x [a, b, c]), w [16, 4])       the axis that stands last: 16
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from onnxc.runtime.specs import TensorSpec

LIKE_FIRST = {"Identity", "Cast", "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Sqrt", "Clip", "Dropout", "Log", "Exp"}
BINARY = {"Add", "Sub", "Mul", "Div"}
Dims = tuple[int, ...]


def settled(proto: onnx.ModelProto, inputs: dict[str, TensorSpec]) -> dict[str, int]:
    """Extents of open axes of `inputs`, by symbol or "name[axis]"."""
    weights = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    # tensor -> the input that it is, and which axis of it each of its own is
    origin = {n: (n, list(range(len(s.shape)))) for n, s in inputs.items() if s.shape is not None and n not in weights}
    found: dict[str, int] = {}
    for node in proto.graph.node:
        for i, axis, extent in _demands(node, weights):
            name, axes = origin.get(node.input[i], ("", []))
            if not -len(axes) <= axis < len(axes):
                continue
            dim = (inputs[name].shape or ())[axes[axis]]
            if not isinstance(dim, int):
                found.setdefault(dim or f"{name}[{axes[axis]}]", extent)
        _follow(node, weights, origin)
    return found


def _demands(node: onnx.NodeProto, weights: dict[str, Dims]) -> Iterator[tuple[int, int, int]]:
    """(input, axis, extent) that a product asks of what it reads."""
    dims = weights.get(node.input[1]) if len(node.input) > 1 else None
    if dims is None:
        return
    ints = {a.name: a.i for a in node.attribute}
    op = node.op_type
    if op == "Conv" and len(dims) > 2:
        yield 0, 1, dims[1] * ints.get("group", 1)
    elif op == "ConvTranspose" and len(dims) > 2:
        yield 0, 1, dims[0]
    elif op == "MatMul" and dims:
        yield 0, -1, dims[-2] if len(dims) > 1 else dims[0]
    elif op == "Gemm" and len(dims) == 2:
        yield 0, 0 if ints.get("transA") else 1, dims[1 if ints.get("transB") else 0]
    elif op in ("LSTM", "GRU", "RNN") and len(dims) == 3:
        yield 0, 2, dims[2]
    elif op in ("BatchNormalization", "InstanceNormalization") and len(dims) == 1:
        yield 0, 1, dims[0]
    elif op == "LayerNormalization" and len(dims) == 1 and ints.get("axis", -1) == -1:
        yield 0, -1, dims[0]


def _follow(node: onnx.NodeProto, weights: dict[str, Dims], origin: dict[str, tuple[str, list[int]]]) -> None:
    """Say of what `node` makes which input it is, where axes stay what they are."""
    x = next((name for name in node.input if name in origin), None)
    if x is None or not node.output:
        return
    name, axes = origin[x]
    if node.op_type == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(axes)))[::-1])
        if len(perm) == len(axes):
            origin[node.output[0]] = name, [axes[k] for k in perm]
    elif node.op_type in LIKE_FIRST or (node.op_type in BINARY and _broadcasts(node, x, weights, len(axes))):
        origin[node.output[0]] = name, axes


def _broadcasts(node: onnx.NodeProto, x: str, weights: dict[str, Dims], rank: int) -> bool:
    """Whether the other operand is a constant of no more axes."""
    other = next((weights.get(name) for name in node.input if name != x), None)
    return other is not None and len(other) <= rank
