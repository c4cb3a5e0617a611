"""quant.equalise: scale channels so that tensors, or the weights around them, use their quantisers alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np

from ...ir.difference import decibels
from ...ir.errors import BadOption
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report, register
from ..options import Range
from .channel_ranges import Seen, estimate
from .equalise_weights import absorb, by_weights
from .int8 import QuantInt8
from .scaling import Class, classes, rescale

LEAST = 2.0**-7
"""Channels are enlarged up to the reciprocal: beyond it a channel is as good as dead."""
SAMPLES = 256
"""Samples that methods are compared on, at most."""
STRENGTHS = tuple(i / 8 for i in range(9))


@register("quant.equalise")
class Equalise(Pass):
    """Move scales by channel between layers, so that quantisers lose less; kept where they do on the data.

    Before -> after, with s > 0 by channel:

    1. Conv(W1, b1) -> Relu -> Conv(W2)   ->   Conv(W1 / s, b1 / s) -> Relu -> Conv(W2 s)
    2. the same over residual sums, pooling, Flatten and depthwise convolutions: all terms of a sum share s

    The outputs stay as they were but for rounding. method:

    weights: the ranges of a channel in the weights that make it and in those that read it become equal (cross-layer
    equalisation, Nagel 2019), and what a channel is above 0 at all times moves on into biases (bias absorption).

    activations: a quantiser with one scale for a tensor of channel ranges r_c errs by D^2 / 12 in each entry,
    D = max r_c / s_c / 255, and readers enlarge that by s_c: the sum of s_c^2 D^2 is least where all r_c / s_c are equal. Where
    several tensors share s, each range counts relative to its tensor's largest. But s also enlarges the columns of W2, and the
    largest one sets the step of its whole output; so only a power of the relative ranges is moved.

    auto: both, and the model as it is, are quantised to int8, and the one of the nearest outputs on the data stays.

    strength: of activations, that power; 1 equalises fully, 0 does nothing. By default the one of STRENGTHS for which the errors of
    activations and weights, estimated for independent roundings, are least together, for each class of tensors.
    bits: of the weights to come; per_channel: whether they will have a scale for each output channel.
    """

    method: Literal["auto", "activations", "weights"] = "auto"
    strength: Annotated[float | None, Range(0, 1)] = None
    bits: Annotated[int, Range(2, 8)] = 8
    per_channel: bool = True

    claim = Claim.TOLERANCE(1e-6, 1e-4)
    requires = ("clean", "fuse")
    needs_data = True

    def __post_init__(self) -> None:
        if self.strength is not None and self.method == "weights":
            raise BadOption("option strength goes with method=activations", pass_name=self.name)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = []
        for c in classes(model, ctx.verified.analysis):
            if c.frozen or not c.readers:
                report.refuse(c.makers[0].name, f"its output keeps its scale: {c.frozen or 'no product reads it'}")
            else:
                found.append(c)
        seen = self._look(model, ctx, found)
        measured = self.method == "auto" and self.strength is None and ctx.evaluator is not None and found
        plans: dict[str, Callable[[], list[np.ndarray | None]]] = {
            "activations": lambda: [self._scale(c, seen) for c in found],
            "weights": lambda: list(by_weights(found, LEAST)),
        }
        how: str
        if not measured:
            how = "activations" if self.method == "auto" else self.method
            self._apply(model, found, plans[how](), seen, how == "weights", report)
            return report
        tried = {"as it is": (self._judged(model, model.copy(), ctx), model.copy(), Report())}
        for how, scales in plans.items():
            work, said = model.copy(), Report()
            self._apply(work, found, scales(), seen, how == "weights", said)
            tried[how] = self._judged(model, work.copy(), ctx), work, said
        best = max(tried, key=lambda how: tried[how][0])
        _, work, said = tried[best]
        model.adopt(work)
        report.edits += said.edits
        report.refusals += said.refusals
        report.note("int8 on the data: " + ", ".join(f"{how} {snr:.1f} dB" for how, (snr, *_) in tried.items()))
        return report

    def _judged(self, model: Model, work: Model, ctx: Context) -> float:
        """Signal to noise in dB of `work`, quantised, beside `model`."""
        judge = ctx.evaluate(model, SAMPLES)
        given: Callable[..., Pass] = QuantInt8
        given(bits=self.bits, per_channel=self.per_channel).run(work, replace(ctx, verified=verify(work)))
        return decibels(judge(work).noise)

    def _apply(
        self, model: Model, found: list[Class], scales: list[np.ndarray | None], seen: dict[str, Seen], lift: bool,
        report: Report,
    ) -> None:  # fmt: skip
        """Write the scales of each class; lift: and let biases take what channels are above 0 at all times."""
        scale_in, scale_out = {}, {}
        nodes = {n.name: n for n in model.nodes}
        for c, s in zip(found, scales, strict=True):
            if s is None:
                report.refuse(c.makers[0].name, "its output is always zero")
                continue
            scale_out.update({n.name: s for n in c.makers})
            scale_in.update({n.name: np.repeat(s, repeat) for n, repeat in c.readers})
            spread = f"{1 / s.min():.3g}"
            names = ", ".join(n.name for n, _ in c.readers)
            report.edit(c.makers[0].name, f"{c.channels} channels equalised by up to {spread}, read by {names}")
        for name, node in nodes.items():
            if name in scale_in or name in scale_out:
                rescale(model, node, scale_in.get(name), scale_out.get(name))
        for c, s in zip(found, scales, strict=True) if lift else ():
            if s is not None and (low := _least(c, seen)) is not None and (n := absorb(model, c, nodes, low / s)):
                report.edit(c.makers[0].name, f"{n} channels lowered by what they are at least")

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


def _least(c: Class, seen: dict[str, Seen]) -> np.ndarray | None:
    """What each channel of a class is at least, [channels]: seen, and three deviations below its mean (Nagel 2019); None where
    more than an activation stands between maker and readers."""
    found = [seen[n] for n in c.tensors if n in seen]
    if len(found) != 1 or len(c.tensors) > 2:
        return None
    t = found[0]
    mean = np.asarray(t.total / t.count)
    deviation = np.sqrt(np.maximum(t.power / t.count - mean**2, 0.0))
    return np.maximum(np.minimum(t.low, mean - 3 * deviation), 0.0)
