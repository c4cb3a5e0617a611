"""One view of the weight of a product, whatever operator stores it: [groups, outputs, channels, positions].

Each output of a group is a sum over channels x positions; a *column* is one channel at one position.

    Conv            [g·o, c, *k]   ->  [g, o, c, k]
    ConvTranspose   [g·c, o, *k]   ->  [g, o, c, k]
    Gemm, MatMul    [b, c, o]      ->  [b, o, c, 1]      [b, o, c] where the operator or the side turns it
    LSTM, GRU, RNN  [d, g·h, c]    ->  [d, g·h, c, 1]    d directions, g gates of h units, for W and for R
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")
"""Layers with two products: W, input 1, with what they read, and R, input 2, with their state."""
PLAIN, TURNED = (0, 1, 2, 3), (0, 2, 1, 3)


@dataclass(frozen=True)
class Layout:
    """stored: the weight's own shape. shape and order: `values.reshape(shape).transpose(order)` is the common view."""

    stored: tuple[int, ...]
    shape: tuple[int, int, int, int]
    order: tuple[int, int, int, int]
    is_conv: bool

    @staticmethod
    def of(op: str, groups: int, outputs: int, channels: int, kernel: tuple[int, ...] = ()) -> Layout:
        """How a Conv, ConvTranspose or MatMul stores so many outputs and channels a group."""
        if op == "Conv":
            return Layout((groups * outputs, channels, *kernel), (groups, outputs, channels, prod(kernel)), PLAIN, True)
        shape = (groups, channels, outputs, prod(kernel))
        if op == "ConvTranspose":
            return Layout((groups * channels, outputs, *kernel), shape, TURNED, True)
        return Layout((groups, channels, outputs) if groups > 1 else (channels, outputs), shape, TURNED, False)

    @property
    def groups(self) -> int:
        return self.shape[0]

    @property
    def outputs(self) -> int:
        """Of a group."""
        return self.shape[self.order[1]]

    @property
    def channels(self) -> int:
        """Of a group."""
        return self.shape[self.order[2]]

    @property
    def positions(self) -> int:
        return self.shape[3]

    @property
    def columns(self) -> int:
        return self.channels * self.positions

    @property
    def output_axis(self) -> int:
        """Where outputs stand in the stored weight."""
        return self._axis(1)

    @property
    def channel_axis(self) -> int:
        """Where channels stand in the stored weight."""
        return self._axis(2)

    def _axis(self, k: int) -> int:
        first = 0 if self.is_conv else len(self.stored) - 2
        return first + self.order[k] - 1

    def view(self, values: np.ndarray) -> np.ndarray:
        """A stored weight as [groups, outputs, channels, positions]."""
        return values.reshape(self.shape).transpose(self.order)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """A stored weight as float64 [groups, outputs, columns]."""
        return self.view(values).reshape(self.groups, self.outputs, -1).astype(np.float64)

    def store(self, view: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The inverse of `view`, and of `matrix`."""
        full = view.reshape(self.groups, self.outputs, self.channels, self.positions)
        return np.ascontiguousarray(full.transpose(np.argsort(self.order)).reshape(self.stored), dtype)

    def factor(self, vector: np.ndarray, *, inward: bool) -> np.ndarray:
        """A vector over all outputs (inward: all channels), in a shape that broadcasts to the stored weight."""
        g, o, c = self.groups, self.outputs, self.channels
        wide = vector.reshape((g, 1, c, 1) if inward else (g, o, 1, 1))
        if g > 1:  # the groups share an axis with the outputs or the channels
            wide = np.broadcast_to(wide, (g, o, c, 1))
        wide = wide.transpose(np.argsort(self.order))
        if self.is_conv:
            return wide.reshape(wide.shape[0] * wide.shape[1], wide.shape[2], *(1,) * (len(self.stored) - 2))
        return wide.reshape(*self.stored[:-2], *wide.shape[1:3]) if g > 1 else wide.reshape(wide.shape[1:3])


def layout(node: gs.Node, i: int = 1) -> Layout:
    """How a product stores its weight, input `i`; for products the weight must have two axes, for convolutions three."""
    shape, g = node.inputs[i].values.shape, node.attrs.get("group", 1)
    if node.op in ("Conv", "ConvTranspose"):
        axes = (g, shape[0] // g, shape[1], prod(shape[2:]))
        return Layout(shape, axes, PLAIN if node.op == "Conv" else TURNED, True)
    if node.op in RECURRENT:
        return Layout(shape, (*shape, 1), PLAIN, False)
    turned = bool(node.op == "Gemm" and node.attrs.get("transB" if i else "transA", 0))
    return Layout(shape, (prod(shape[:-2]), *shape[-2:], 1), PLAIN if turned == bool(i) else TURNED, False)


FEW = 4
"""Different weights of an output, at most, of a layer that was trained to few bits."""


def has_few_values(rows: np.ndarray) -> bool:
    """Whether the weights of each output, [groups, outputs, columns], are a few values alone, as training to few bits leaves them."""
    flat = rows.reshape(-1, rows.shape[-1])
    return flat.shape[-1] > 2 * FEW and all(np.unique(row).size <= FEW for row in flat)
