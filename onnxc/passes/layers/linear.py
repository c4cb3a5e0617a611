"""Layers that are matrix products: y = W x + b for every output position, whatever the operator calls it.

    Conv, group g        x [n, g·c, *s]  ->  rows [g, n·positions, c·prod(k)],  W [g, o, c·prod(k)]
    Gemm, MatMul         x [..., k]      ->  rows [1, positions, k],            W [1, n, k]

Criteria read the second moments of such rows, and recovery solves for W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ...ir.ops.window import explicit_pads
from .layout import Layout, layout


@dataclass(frozen=True)
class Linear:
    """A node that multiplies an activation with a stored floating weight, its input `i`."""

    node: gs.Node
    layout: Layout
    i: int = 1

    @property
    def is_conv(self) -> bool:
        return self.layout.is_conv

    @property
    def groups(self) -> int:
        """Blocks of the weight that see inputs of their own."""
        return self.layout.groups

    @property
    def weight(self) -> np.ndarray:
        return self.node.inputs[self.i].values

    @property
    def is_shared(self) -> bool:
        """Whether other layers read the weight too."""
        return len(self.node.inputs[self.i].outputs) > 1

    @property
    def reads(self) -> str:
        """The name of the activation."""
        return self.node.inputs[1 - self.i].name

    @property
    def makes(self) -> str:
        """The name of the output."""
        return self.node.outputs[0].name

    @property
    def bias(self) -> np.ndarray | None:
        """The stored bias, shape [outputs] or one that broadcasts to it; None where there is none."""
        return self.node.inputs[2].values if has_input(self.node, 2) else None

    @property
    def outputs(self) -> int:
        """Of all groups."""
        return self.layout.groups * self.layout.outputs

    @property
    def channel_axis(self) -> int:
        """Where the channels of its input and its output stand."""
        return 1 if self.is_conv else -1

    @property
    def columns(self) -> int:
        """The length of a row: the inputs of one output of one group."""
        return self.layout.columns

    def matrix(self) -> np.ndarray:
        """The weight as float64 [groups, outputs / groups, columns]."""
        return self.layout.matrix(self.weight)

    def as_weight(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`, in the weight's own shape and type."""
        return self.layout.store(matrix, self.weight.dtype)

    def rows(self, x: np.ndarray, out: tuple[int, ...], picked: np.ndarray) -> np.ndarray:
        """The rows that make the outputs at the positions `picked`, float32 [groups, n·len(picked), columns].

        x: the activation; out: the extents of the output's positions (spatial ones of a Conv, all but the first and
        the last axis else); picked: indices into these, flattened.
        """
        if not self.is_conv:
            x = self._turned(x)
            return _wide(x.reshape(len(x), -1, x.shape[-1])[:, picked].reshape(1, -1, x.shape[-1]))
        at = np.unravel_index(picked, out)
        chosen: tuple = (slice(None), slice(None), *at)
        found = _wide(self._windows(x, out)[chosen])  # n, channels, picked, *kernel
        n, c, p = found.shape[:3]
        return np.ascontiguousarray(
            found.reshape(n, self.groups, c // self.groups, p, -1).transpose(1, 0, 3, 2, 4)
        ).reshape(self.groups, n * p, -1)

    def _windows(self, x: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
        """[n, c, *out, *kernel]: a view of the padded input at each output position."""
        attrs, kernel = self.node.attrs, self.weight.shape[2:]
        d = len(kernel)
        strides, dilations = attrs.get("strides", [1] * d), attrs.get("dilations", [1] * d)
        spans = [(k - 1) * r + 1 for k, r in zip(kernel, dilations)]
        needed = [(o - 1) * s + span - n for o, s, span, n in zip(out, strides, spans, x.shape[2:])]
        begins = self._pads(x, strides, dilations)[:d]
        # where strides leave a remainder the windows need less than what stands there
        pads = [(b, max(n - b, 0)) for b, n in zip(begins, needed)]
        x = np.pad(x, [(0, 0), (0, 0), *pads])
        views = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + d)))
        steps = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(out, strides))
        holes = tuple(slice(None, None, r) for r in dilations)
        return views[(slice(None), slice(None), *steps, *holes)]

    def _turned(self, x: np.ndarray) -> np.ndarray:
        """A product's activation [n, ..., columns]."""
        if x.ndim == 1:
            return x[None]
        across = bool(self.node.op == "Gemm" and self.node.attrs.get("transA" if self.i else "transB", 0))
        return np.moveaxis(x, -2, -1) if across == (self.i == 1) else x

    def _pads(self, x: np.ndarray, strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
        pads = explicit_pads(self.node, x.shape[2:], self.weight.shape[2:], strides, dilations)
        assert pads is not None, "extents of arrays are known"
        return pads

    def extents(self, x: np.ndarray) -> tuple[int, ...]:
        """The extents of the output's positions for an input `x`, as `rows` takes them."""
        if not self.is_conv:
            return self._turned(x).shape[1:-1]
        attrs, kernel = self.node.attrs, self.weight.shape[2:]
        d = len(kernel)
        strides, dilations = attrs.get("strides", [1] * d), attrs.get("dilations", [1] * d)
        pads = self._pads(x, strides, dilations)
        return tuple(
            (n + pads[k] + pads[k + d] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1
            for k, n in enumerate(x.shape[2:])
        )

    def positions(self, y: np.ndarray) -> tuple[int, ...]:
        """The extents of the positions of an output `y`."""
        return y.shape[2:] if self.is_conv else y.shape[1:-1]

    def pick(self, y: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """The outputs at the positions `picked`, [n·len(picked), outputs], row for row as `rows`."""
        if not self.is_conv:
            return _wide(y.reshape(len(y), -1, y.shape[-1])[:, picked].reshape(-1, y.shape[-1]))
        flat = _wide(y.reshape(*y.shape[:2], -1)[:, :, picked])
        return flat.transpose(0, 2, 1).reshape(-1, y.shape[1])


def _wide(x: np.ndarray) -> np.ndarray:
    """float16 as float32, whose sums of products neither overflow nor lose what they add up."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def linear(model: Model, node: gs.Node) -> Linear | None:
    """The layer that `node` is, or None where it is no product of an activation with a stored floating weight."""
    if not model.is_standard(node, "Conv", "Gemm", "MatMul") or isinstance(node.inputs[0], gs.Constant):
        return None
    w = node.inputs[1]
    if not isinstance(w, gs.Constant) or w.values.dtype not in (np.float16, np.float32, np.float64):
        return None
    outputs = w.values.shape[0 if node.op == "Conv" or node.attrs.get("transB", 0) else -1] if w.values.ndim else 0
    if has_input(node, 2) and not (
        isinstance(node.inputs[2], gs.Constant) and node.inputs[2].values.size in (1, outputs)
    ):
        return None
    if node.op == "Conv":
        return Linear(node, layout(node)) if w.values.ndim >= 3 else None
    plain = not node.attrs.get("transA", 0) and node.attrs.get("alpha", 1.0) == 1 and node.attrs.get("beta", 1.0) == 1
    return Linear(node, layout(node)) if w.values.ndim == 2 and plain else None


def bias_home(model: Model, node: gs.Node) -> tuple[gs.Node, int] | None:
    """(node, input) where a shift of each output of `node` is stored or can be, or None: a MatMul has no bias, but an
    Add of a vector may stand behind it."""
    if node.op != "MatMul":
        return node, 2
    out = node.outputs[0]
    if len(out.outputs) == 1 and model.is_standard(out.outputs[0], "Add") and not model.is_output(out):
        reader = out.outputs[0]
        i = 1 if reader.inputs[0] is out else 0
        other = reader.inputs[i]
        if isinstance(other, gs.Constant) and other.values.shape == node.inputs[1].values.shape[-1:]:
            return reader, i
    return None


def gains_bias(model: Model, node: gs.Node) -> bool:
    """Whether `add_to_bias` would store a vector that is not there yet."""
    home = bias_home(model, node)
    return home is not None and not has_input(*home)


def add_to_bias(model: Model, node: gs.Node, b: np.ndarray) -> None:
    """Add `b`, shape [outputs], to what `node` puts out; it must have a `bias_home`."""
    there = bias_home(model, node)
    assert there is not None, f"{node.name} has no bias"
    home, i = there
    if has_input(home, i):
        old = home.inputs[i].values
        model.set_weight(home, i, (old.astype(np.float64) + b).astype(old.dtype))
        return
    bias = model.constant(f"{node.name}_bias", np.asarray(b, node.inputs[1].values.dtype))
    if len(home.inputs) > i:
        home.inputs[i] = bias
    else:
        home.inputs.append(bias)


def has_input(node: gs.Node, i: int) -> bool:
    """Whether input `i` of a node is given."""
    return i < len(node.inputs) and bool(node.inputs[i].name)
