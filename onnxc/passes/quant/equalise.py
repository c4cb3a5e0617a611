"""quant.equalise: scale channels so that all of a tensor's channels use its quantiser alike (cross-layer equalisation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.layout import layout
from ..options import Range
from .scaling import Class, classes, rescale

LEAST = 2.0**-7
"""Channels are enlarged up to the reciprocal: beyond it a channel is as good as dead."""
STRENGTHS = tuple(i / 8 for i in range(9))


@register("quant.equalise")
class Equalise(Pass):
    """Move scales by channel from activations into the weights around them (Nagel 2019, with ranges seen on data).

    Before -> after, with s > 0 by channel:

    1. Conv(W1, b1) -> Relu -> Conv(W2)   ->   Conv(W1 / s, b1 / s) -> Relu -> Conv(W2 s)
    2. the same over residual sums, pooling, Flatten and depthwise convolutions: all terms of a sum share s

    The outputs stay as they were but for rounding. A quantiser with one scale for a tensor of channel ranges r_c errs by
    D^2 / 12 in each entry, D = max r_c / s_c / 255, and readers enlarge that by s_c: the sum of s_c^2 D^2 is least where
    all r_c / s_c are equal. Where several tensors share s, each range counts relative to its tensor's largest.

    But s also enlarges the columns of W2, and the largest one sets the step of its whole output; so only a power of the
    relative ranges is moved.

    strength: that power; 1 equalises fully, 0 does nothing. By default the one of STRENGTHS for which the errors of
    activations and weights, estimated for independent roundings, are least together, for each class of tensors.
    bits: of the weights to come, for that estimate.
    """

    strength: Annotated[float | None, Range(0, 1)] = None
    bits: Annotated[int, Range(2, 8)] = 8

    claim = Claim.TOLERANCE(1e-6, 1e-4)
    requires = ("clean", "fuse")
    needs_data = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = []
        for c in classes(model, ctx.verified.analysis):
            if c.frozen or not c.readers:
                report.refuse(c.makers[0].name, f"its output keeps its scale: {c.frozen or 'no product reads it'}")
            else:
                found.append(c)
        seen = self._look(model, ctx, found)
        scale_in, scale_out = {}, {}
        for c in found:
            s = self._scale(c, seen)
            if s is None:
                report.refuse(c.makers[0].name, "its output is always zero")
                continue
            scale_out.update({n.name: s for n in c.makers})
            scale_in.update({n.name: np.repeat(s, repeat) for n, repeat in c.readers})
            spread = f"{1 / s.min():.3g}"
            names = ", ".join(n.name for n, _ in c.readers)
            report.edit(c.makers[0].name, f"{c.channels} channels equalised by up to {spread}, read by {names}")
        for node in list(model.nodes):
            if node.name in scale_in or node.name in scale_out:
                rescale(model, node, scale_in.get(node.name), scale_out.get(node.name))
        return report

    def _look(self, model: Model, ctx: Context, found: list[Class]) -> dict[str, Seen]:
        """What the channels of each tensor hold that something other than a Relu reads."""
        tensors = model.tensors()
        names = [
            n for c in found for n, r in c.tensors.items() if r == 1 and any(u.op != "Relu" for u in tensors[n].outputs)
        ]
        seen: dict[str, Seen] = {}
        for batch in ctx.tensors(model, names) if names else ():
            for name in names:
                seen.setdefault(name, Seen()).add(np.moveaxis(batch[name], 1, 0).reshape(batch[name].shape[1], -1))
        return {name: s for name, s in seen.items() if np.isfinite(s.power).all() and s.top.max() > 0}

    def _scale(self, c: Class, seen: dict[str, Seen]) -> np.ndarray | None:
        """s, its largest entry 1: the geometric mean over tensors of the channels' relative ranges, to a power."""
        tops = [seen[name].top for name in c.tensors if name in seen]
        if not tops:
            return None
        s = np.exp(np.mean([np.log(np.maximum(r / r.max(), LEAST)) for r in tops], axis=0))
        s /= s.max()
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        return min((s**a for a in strengths), key=lambda s: estimate(c, s, seen, self.bits))


@dataclass
class Seen:
    """Of each channel: the largest magnitude, the sum of squares, and how many values there were."""

    top: np.ndarray | float = 0.0
    power: np.ndarray | float = 0.0
    count: int = 0

    def add(self, x: np.ndarray) -> None:
        """Values [channels, any]."""
        self.top = np.maximum(self.top, np.maximum(x.max(1), -x.min(1)).astype(np.float64))
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
