"""How a tensor's numbers are stored: bits, signedness, scale, zero point, axis, codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from .functions import calls, is_lookup, weight_bits
from .model import STANDARD


@dataclass(frozen=True)
class QType:
    """A quantised number type. Real value = scale * (stored - zero_point), or codebook[stored].

    bits: per stored number. axis: of scale and zero_point, None for one of the whole tensor.
    """

    bits: int
    signed: bool = True
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    axis: int | None = None
    codebook: np.ndarray | None = None

    @property
    def low(self) -> int:
        """The smallest stored number."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest stored number."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


def dtype_bits(dtype: np.dtype) -> int:
    """Bits of one stored element of a NumPy or ml_dtypes dtype: int4 has 4, bool 8."""
    name = np.dtype(dtype).name
    if name in ("int4", "uint4", "float4_e2m1fn"):
        return 4
    if name in ("int2", "uint2"):
        return 2
    return np.dtype(dtype).itemsize * 8


def stored_bytes(values: np.ndarray) -> int:
    """Bytes that `values` take in an ONNX file."""
    if values.dtype == object:
        return sum(len(v) if isinstance(v, bytes) else len(str(v).encode()) for v in values.ravel())
    return -(-values.size * dtype_bits(values.dtype) // 8)


def number_bits(t: gs.Variable | gs.Constant, types: dict[str, int] | None = None) -> int:
    """Bits of the numbers that `t` carries, seen through DequantizeLinear and the operators that only move them.

    An initialiser has those of its dtype; a float tensor that DequantizeLinear makes has those of the stored integers,
    one that a Lookup makes those of the packed indices, one that a quantiser makes those that its levels need.
    """
    for _ in range(64):
        if isinstance(t, gs.Constant):
            return dtype_bits(t.values.dtype)
        maker = t.inputs[0] if t.inputs else None
        if maker is not None and is_lookup(maker):
            return weight_bits(maker)
        if maker is not None and (bits := activation_bits(maker)):
            return bits
        if maker is None or maker.domain not in STANDARD:
            break
        if maker.op == "QuantizeLinear":
            zero = maker.inputs[2] if len(maker.inputs) > 2 else None
            return dtype_bits(zero.values.dtype) if isinstance(zero, gs.Constant) else 8
        if maker.op not in _MOVES:
            break
        t = maker.inputs[0]
    kind = (types or {}).get(t.name)
    return {2: 8, 3: 8, 4: 16, 5: 16, 9: 8, 10: 16, 16: 16, 21: 4, 22: 4}.get(kind, 32) if kind else 32


def activation_bits(node: gs.Node) -> int | None:
    """Bits that the result of a quantiser of domain ai.onnxc needs, one for each plane of +-1; None for other nodes."""
    if calls(node, "Binarize"):
        return 1
    if calls(node, "ResidualBinarize", "DynamicResidualBinarize") and isinstance(node.inputs[1], gs.Constant):
        return int(np.count_nonzero(node.inputs[1].values)) or 1
    if calls(node, "Quantize") and all(isinstance(t, gs.Constant) for t in node.inputs[2:4]):
        low, high = (float(t.values.item()) for t in node.inputs[2:4])
        return max(1, int(high - low).bit_length())
    return None


_MOVES = {
    "DequantizeLinear", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Slice", "Pad",
}  # fmt: skip
