"""What channels hold on data, and what a scale by channel would do to the errors of quantisers around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..layers.layout import layout
from .scaling import Class


@dataclass
class Seen:
    """Of each channel: the largest magnitude, the least value, the sums of values and squares, and how many values there were."""

    top: np.ndarray = field(default_factory=partial(np.full, (), 0.0))
    low: np.ndarray = field(default_factory=partial(np.full, (), np.inf))
    total: np.ndarray = field(default_factory=partial(np.full, (), 0.0))
    power: np.ndarray = field(default_factory=partial(np.full, (), 0.0))
    count: int = 0

    def add(self, x: np.ndarray) -> None:
        """Values [channels, any]."""
        self.top = np.maximum(self.top, np.maximum(x.max(1), -x.min(1)).astype(np.float64))
        self.low = np.minimum(self.low, x.min(1).astype(np.float64))
        self.total = self.total + x.sum(1, dtype=np.float64)
        self.power = self.power + np.einsum("ci,ci->c", x, x, dtype=np.float64)
        self.count += x.shape[1]


def estimate(c: Class, s: np.ndarray, seen: dict[str, Seen], bits: int) -> float:
    """The summed squared error of what the readers of a class put out, in units of 1/12, were it scaled by s.

    A reader's output o errs by sum over c of (s_c w_oc)^2 D^2 for an activation with step D, and by the square of its
    weight step times sum over c of E[x_c^2] / s_c^2. All tensors of the class count as read by every reader.
    """
    tensors = [seen[n] for n in c.tensors if n in seen]
    step = sum(float((t.top / s).max() / 255) ** 2 for t in tensors)
    power = sum(t.power / max(t.count, 1) for t in tensors) / len(tensors) / s**2
    total = 0.0
    for node, repeat in c.readers:
        w = layout(node).view(node.inputs[1].values).astype(np.float64)
        g, _, columns, taps = w.shape
        w = w * np.repeat(s, repeat).reshape(g, 1, columns, 1)
        weight_step = np.abs(w).max((2, 3)) / ((1 << (bits - 1)) - 1)
        inputs = np.repeat(power, repeat).reshape(g, columns).sum(1) * taps
        total += step * float((w**2).sum()) + float((weight_step**2 * inputs[:, None]).sum())
    return total
