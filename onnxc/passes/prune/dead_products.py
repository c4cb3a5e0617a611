"""Products as prune.dead reads them, in floats or between quantisers, and what becomes of constants on the way.

Conv(x, w, b)                                  W and b as they are stored
Conv(DQ(x), DQ(w), DQ(b)), b int32             (w - z) scale, and b scale: a constant x adds whole numbers to b
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import numbers
from ...ir.model import Model
from ..layers.layout import Layout
from ..layers.linear import add_to_bias, bias_home, has_input, linear

NEAR = 1e-3  # of a step: how near to a half a constant is not told
MOST = 2**31 - 1
Range = tuple[np.ndarray, np.ndarray]
"""The least and the greatest value of each channel, float64 [channels]."""


@dataclass(frozen=True)
class Product:
    """A Conv, Gemm or MatMul with known weights.

    matrix: float64 [groups, outputs, columns]. bias: float64 [outputs of all groups]. whole: its integer bias and what one step of
    that stands for, where x, weights and bias are integers.
    """

    node: gs.Node
    matrix: np.ndarray
    positions: int
    bias: np.ndarray
    whole: tuple[gs.Node, np.ndarray] | None = None

    @property
    def columns(self) -> int:
        """Inputs of an output of a group."""
        return self.matrix.shape[2]

    @property
    def padded(self) -> bool:
        """Whether zeros stand beside its input."""
        a = self.node.attrs
        return self.node.op == "Conv" and (
            a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(a.get("pads", ()))
        )

    def range(self, x: Range | None, threshold: float = 0.0) -> Range:
        """Between what values each output lies where the channels of its input lie in `x`; weights up to `threshold` are zeros."""
        groups, outputs, _ = self.matrix.shape
        w = np.where(np.abs(self.matrix) <= threshold, 0.0, self.matrix).reshape(groups, outputs, -1, self.positions)
        if x is None or len(x[0]) != groups * w.shape[2]:
            still = ~w.any((2, 3)).reshape(-1)
            return np.where(still, self.bias, -np.inf), np.where(still, self.bias, np.inf)
        low, high = (v.reshape(groups, 1, -1) for v in x)
        if self.padded:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        more, less = np.maximum(w, 0).sum(3), np.minimum(w, 0).sum(3)
        least, most = _times(more, low) + _times(less, high), _times(more, high) + _times(less, low)
        return least.sum(2).reshape(-1) + self.bias, most.sum(2).reshape(-1) + self.bias

    def takes_constants(self, model: Model, reach: float) -> bool:
        """Whether a constant input is the same sum at each position, and the bias has room for it: inputs of at most `reach`."""
        if len(self.matrix) != 1 or self.padded:
            return False
        if self.whole is None:
            return isinstance(self.node.inputs[1], gs.Constant) and bias_home(model, self.node) is not None
        most = (np.abs(self.bias) + np.abs(self.matrix[0]).sum(1) * reach) / self.whole[1]
        return bool((most < MOST).all())

    def add_to_bias(self, model: Model, shift: np.ndarray, kept: np.ndarray) -> None:
        """Add `shift`, float64 [outputs], to what it puts out, of which the outputs `kept` are left."""
        if not shift.any():
            return
        if self.whole is None:
            add_to_bias(model, self.node, shift[kept])
            return
        home, step = self.whole
        made = home.inputs[0].values.astype(np.int64) + np.rint(shift / step).astype(np.int64)[kept]
        model.set_weight(home, 0, made.astype(np.int32))


def _times(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """w v, where zero times infinity is zero."""
    with np.errstate(invalid="ignore"):
        return np.where(w == 0, 0.0, w * v)


def product(model: Model, node: gs.Node) -> Product | None:
    """The product that `node` is; None for what has other operands."""
    plain = linear(model, node)
    if plain is not None:
        bias = np.zeros(plain.outputs) if plain.bias is None else plain.bias.reshape(-1).astype(np.float64)
        matrix = plain.matrix()
        return Product(node, matrix, plain.layout.positions, np.broadcast_to(bias, (plain.outputs,)))
    return _quantised(model, node)


def _quantised(model: Model, node: gs.Node) -> Product | None:
    if not model.is_standard(node, "Conv", "Gemm") or len(node.inputs) < 2:
        return None
    weight, x = (numbers.operand(node, i) for i in (1, 0))
    if weight is None or not weight.constant or x is None or x.constant or not _one_scale(x) > 0:
        return None
    values = weight.real()
    if values.ndim < 2 or values.dtype.kind != "f":
        return None
    plain = all(node.attrs.get(key, 1) == 1 for key in ("alpha", "beta")) and not node.attrs.get("transA", 0)
    if node.op == "Gemm" and not (plain and values.ndim == 2):
        return None
    groups = node.attrs.get("group", 1) if node.op == "Conv" else 1
    turned = node.op == "Gemm" and not node.attrs.get("transB", 0)
    outputs, channels, *kernel = values.T.shape if turned else values.shape
    form = Layout.of("Conv", groups, outputs // groups, channels, tuple(kernel))
    matrix = form.matrix(values.T if turned else values)
    if not has_input(node, 2):
        return Product(node, matrix, form.positions, np.zeros(outputs))
    bias = numbers.operand(node, 2)
    home = node.inputs[2].inputs[0] if node.inputs[2].inputs else None
    if bias is None or not bias.constant or home is None or bias.integers().dtype != np.int32 or bias.views:
        return None
    scale = np.broadcast_to(np.asarray(bias.q.scale, np.float64).reshape(-1), (outputs,))
    wanted = _one_scale(x) * np.asarray(weight.q.scale, np.float64).reshape(-1)
    zero = 0 if bias.q.zero_point is None else bias.q.zero_point
    if np.any(zero) or bias.integers().shape != (outputs,) or not np.allclose(scale, wanted, rtol=1e-6, atol=0):
        return None
    return Product(node, matrix, form.positions, bias.real().astype(np.float64).reshape(-1), (home, scale))


def _one_scale(x: numbers.Numbers) -> float:
    """The scale of integers that have one, else 0."""
    return float(x.q.scale.item()) if x.q.known and x.q.scale is not None and x.q.scale.size == 1 else 0.0


def _affine(node: gs.Node) -> tuple[float, np.ndarray] | None:
    """Scale and zero point of a quantiser that has one of each."""
    parts = [t.values for t in node.inputs[1:3] if isinstance(t, gs.Constant) and t.values.size == 1]
    return (float(parts[0].item()), parts[1]) if len(parts) == 2 and parts[0].item() > 0 else None


def quantised(node: gs.Node, x: Range | None, channels: int) -> Range | None:
    """The integers that a QuantizeLinear of one scale makes of values between these, of any in None."""
    affine = _affine(node)
    if affine is None or affine[1].dtype.kind not in "iu" or not channels:
        return None
    scale, zero = affine
    limits = np.iinfo(zero.dtype)
    low, high = (np.full(channels, limits.min), np.full(channels, limits.max)) if x is None else (v / scale for v in x)
    if x is not None:  # float32 may fall to the other side of a half
        low, high = low - NEAR - 1e-6 * np.abs(low), high + NEAR + 1e-6 * np.abs(high)
        low, high = (np.clip(np.rint(v) + int(zero.item()), limits.min, limits.max) for v in (low, high))
    return low.astype(np.float64), high.astype(np.float64)


def dequantised(node: gs.Node, x: Range) -> Range | None:
    """What a DequantizeLinear of one scale makes of integers between these."""
    affine = _affine(node)
    return (
        None
        if affine is None
        else ((x[0] - int(affine[1].item())) * affine[0], (x[1] - int(affine[1].item())) * affine[0])
    )
