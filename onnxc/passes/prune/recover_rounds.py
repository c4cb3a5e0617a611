"""Least squares for what an activation makes of a layer's output, solved as least squares again and again.

With y = W x + b of the last round and t what the original puts out, W is solved anew for targets that stand above the
loss behind the activation everywhere and touch it at y, so that this loss falls in each round:

    Relu, Clip to [l, u]   || f(y) - f(t) ||²   where t <= l: min(y, l),  where t >= u: max(y, u),  else t   (Zhang et al. 2015, eq. 6)
    Sigmoid                cross-entropy        y + 4 (f(t) - f(y))      as f' <= 1/4                        (Boehning 1992)
    Softmax                cross-entropy        y + 2 (f(t) - f(y))      as diag(p) - p p' <= 1/2            (Boehning 1992)

The moments of x stay what they are, so a round costs two products. No labels are read: t is the original's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ..layers.linear import Linear
from ..layers.moments import Moments
from ..quant.placement import clip_bounds

ROWS_BYTES = 256 * 2**20
"""What the rows of a layer that are gone over in rounds may hold; one with more is solved once."""


@dataclass(frozen=True)
class Behind:
    """An activation. kind: clip, sigmoid or softmax (over channels); low, high: what a clip leaves as it is."""

    kind: str
    low: float = -np.inf
    high: float = np.inf

    @property
    def rounds(self) -> int:
        """Clips settle fast; the bounds of the others are far from tight where probabilities are near 0 and 1."""
        return 8 if self.kind == "clip" else 60

    def targets(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        """What to solve for next, [rows, outputs], where the layer gives y and should give t."""
        if self.kind == "clip":
            now = np.where(t <= self.low, np.minimum(y, self.low), t)
            return np.where(t >= self.high, np.maximum(y, self.high), now)
        f, steep = (_sigmoid, 4.0) if self.kind == "sigmoid" else (_softmax, 2.0)
        return y + steep * (f(t) - f(y))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def behind(model: Model, t: gs.Variable, channel: int) -> Behind | None:
    """The activation that alone reads `t`, whose channels stand on axis `channel`, maybe turned by a Transpose."""
    reader = t.outputs[0] if len(t.outputs) == 1 and not model.is_output(t) else None
    if reader is not None and model.is_standard(reader, "Transpose") and "perm" in reader.attrs:
        perm = list(reader.attrs["perm"])
        t, channel = reader.outputs[0], perm.index(channel % len(perm))
        reader = t.outputs[0] if len(t.outputs) == 1 and not model.is_output(t) else None
        if reader is None or reader.op != "Softmax":
            return None
        axis = reader.attrs.get("axis", -1)
        return Behind("softmax") if channel == axis % len(perm) == len(perm) - 1 else None
    if reader is None or reader.inputs[0] is not t:
        return None
    if model.is_standard(reader, "Relu"):
        return Behind("clip", 0.0)
    if model.is_standard(reader, "Clip"):
        bounds = clip_bounds(reader)
        return None if bounds is None else Behind("clip", *bounds)
    if model.is_standard(reader, "Sigmoid"):
        return Behind("sigmoid")
    if model.is_standard(reader, "Softmax") and channel == -1 and reader.attrs.get("axis", -1) in (-1, 1):
        return Behind("softmax")
    return None


class Rounds:
    """The rows and targets of one layer, held to be solved for again. scale: what stands between it and the activation."""

    def __init__(self, layer: Linear, behind: Behind | None, scale: np.ndarray | float, rows: int):
        plain = behind is not None and bool((np.asarray(scale) > 0).all())
        self.useful = plain and 4 * rows * (layer.groups * layer.columns + 2 * layer.outputs) <= ROWS_BYTES
        self.layer, self.behind = layer, behind
        self.scale = np.broadcast_to(np.asarray(scale, np.float32), layer.outputs)
        self._rows: list[np.ndarray] = []
        self._wanted: list[np.ndarray] = []
        self._goals: list[np.ndarray] = []

    def add(self, rows: np.ndarray, wanted: np.ndarray, goal: np.ndarray) -> None:
        """Rows [g, r, k]; wanted [r, outputs]: what the original has where the activation reads it; goal: the output of the
        layer that gives it."""
        if self.useful:
            self._rows.append(rows)
            self._wanted.append(wanted.astype(np.float32))
            self._goals.append(goal.astype(np.float32))

    def refine(
        self, seen: Moments, damping: np.ndarray, matrix: np.ndarray, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The matrix [g, O, K] and shift [g·O] that the rounds end with, from those of the least-squares solution."""
        layer, g, behind = self.layer, self.layer.groups, self.behind
        assert behind is not None
        x, wanted, goal = (np.concatenate(parts, axis) for parts, axis in
                           ((self._rows, 1), (self._wanted, 0), (self._goals, 0)))  # fmt: skip
        rest = wanted - goal * self.scale  # what other branches and shifts add on the way
        bias = np.zeros(shift.shape)
        if layer.bias is not None:
            bias = bias + layer.bias.reshape(-1)
        h, mean = seen.covariance(), seen.mean
        inverse = np.linalg.inv(h + damping)
        first = layer.matrix()
        held = first - first @ h @ inverse  # what the ridge holds on to
        x = x - mean[:, None].astype(np.float32)
        for _ in range(behind.rounds):
            offset = bias + shift + np.einsum("gok,gk->go", matrix, mean).ravel()
            y = x @ matrix.transpose(0, 2, 1).astype(np.float32)
            y = y.transpose(1, 0, 2).reshape(len(goal), -1) + offset.astype(np.float32)
            now = (behind.targets(y * self.scale + rest, wanted) - rest) / self.scale
            level = now.mean(0, dtype=np.float64)
            c = (now - level.astype(np.float32)).reshape(len(now), g, -1).transpose(1, 2, 0) @ x / len(now)
            matrix = held + c.astype(np.float64) @ inverse
            shift = level - np.einsum("gok,gk->go", matrix, mean).ravel() - bias
        return matrix, shift
