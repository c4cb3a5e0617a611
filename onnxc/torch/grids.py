"""Stored whole numbers that are trained as the reals they stand for: real = (whole - zero) scale, rounded straight through.

Where the graph multiplies by the scale elsewhere (MatMulInteger, ConvInteger), the real is one of a network of fresh weights:
its deviation is sqrt(2 / n), n the inputs of an output (He 2015), so that a learning rate moves it as it moves others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .rows.quantised import RANGES, spread
from .steps import Step
from .table import round_through

MICROSOFT = "com.microsoft"
READERS: dict[tuple[str, str], dict[int, tuple[int | None, int]]] = {
    ("", "DequantizeLinear"): {0: (1, 2)},
    ("", "MatMulInteger"): {1: (None, 3)},
    ("", "ConvInteger"): {1: (None, 3)},
    ("", "QLinearConv"): {3: (4, 5)},
    ("", "QLinearMatMul"): {3: (4, 5)},
    (MICROSOFT, "DynamicQuantizeLSTM"): {1: (8, 9), 2: (10, 11)},
}
"""Inputs that stored numbers may be, by operator: which inputs are their scale and their zero point."""
AXES = {"MatMulInteger": -1, "QLinearMatMul": -1, "ConvInteger": 0, "QLinearConv": 0}
"""The axis of a scale that is no attribute."""


@dataclass(frozen=True)
class Grid:
    """kind: ONNX's name of the type. scale and zero: names of tensors, or none. nominal: the scale where it has no name."""

    kind: str
    op: str
    scale: str
    zero: str
    axis: int
    block: int
    nominal: float

    def at(self, like: torch.Tensor, values: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point, in shapes that broadcast to `like`."""
        scale = values[self.scale].float() if self.scale else torch.tensor(self.nominal)
        zero = values[self.zero].float() if self.zero else torch.zeros(())
        return self._spread(scale, like), self._spread(zero, like)

    def _spread(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if self.op == "DynamicQuantizeLSTM":
            return t.reshape(like.shape[0], 1, -1)
        return spread(t, like, self.axis, self.block)

    def real(self, whole: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scale, zero = self.at(whole, values)
        return (whole.float() - zero) * scale

    def whole(self, real: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The whole numbers, as floats, that reals are rounded to."""
        scale, zero = self.at(real, values)
        return (round_through(real / scale) + zero).clamp(*RANGES[self.kind])


def grid_of(kind: str, value: torch.Tensor, read: Sequence[tuple[Step, int]], known) -> Grid | None:
    """The grid of a stored tensor of the type `kind`, where all that read it agree on one; `known`: names of initialisers."""
    if kind not in RANGES or value.numel() < 2 or not read:
        return None
    found = {_grid(kind, value, step, i) for step, i in read}
    grid = found.pop()
    if found or grid is None or any(n and n not in known for n in (grid.scale, grid.zero)):
        return None
    return grid


def _grid(kind: str, value: torch.Tensor, step: Step, i: int) -> Grid | None:
    at = READERS.get((step.domain, step.op), {}).get(i)
    if at is None:
        return None
    scale, zero = (step.inputs[k] if k is not None and k < len(step.inputs) else "" for k in at)
    nominal = 1.0
    if at[0] is None:
        inputs = value.shape[0] if step.op == "MatMulInteger" else math.prod(value.shape[1:])
        nominal = math.sqrt(2 / max(inputs, 1)) / max(float(value.float().std()), 1.0)
    axis = AXES.get(step.op, step.attrs.get("axis", 1))
    return Grid(kind, step.op, scale, zero, axis, step.attrs.get("block_size", 0), nominal)
