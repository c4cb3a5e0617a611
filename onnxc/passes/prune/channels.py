"""prune.channels: remove whole channels, through shortcuts, concats, groups and flattening, wherever the axes allow.

    Conv 3->64, BN, Relu, Conv 64->64, Add      (ratio 0.5)      Conv 3->32, BN, Relu, Conv 32->32, Add

The result equals the unpruned model whose contractions see zeros at the removed channels (`onnxc.passes.prune.twin`),
unless recovery or merging then changes weights on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom
from ...ir.errors import BadOption
from ...ir.masks import apply_masks
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.linear import add_to_bias
from ..layers.shuffles import resolve_shuffles
from ..layers.widths import WIDTHS
from .budget import TOLERANCE, UNITS, Costing, limit, search
from .coupling import Group, frozen_layers, groups
from .criteria import lookup, scores
from .plan import NEAR, CutPlan, inner, matching, per_cost
from .recover import recover
from .recover_bias import bias_shifts
from .redundancy import merge
from .score import ScoringContext
from .select import masks
from .sensitivity import SAMPLES, Allocation, Curve, measure, units
from .uncut import Uncut

RATIO = 0.5
TRIES = 8
"""How often a cut is made deeper because recovery has added to the cost."""


@register("prune.channels", alias="prune")
class PruneChannels(Pass):
    """Remove the least important channels of every group of coupled channels.

    ratio: share of channels removed; 0.5 unless a budget says how much; "auto": by group, so that the budget is met
    at the least error, by its sensitivity. sensitivity: the file that holds the sensitivities for ratio=auto, as
    `onnxc sensitivity` writes it; measured, and written there, where it does not exist. scope: of each group
    ("layer"), of all together by score ("global"), or, for a budget, where the outputs lose least, measured with each
    group cut alone ("outputs"; auto: for a budget with criterion reconstruction, else layer). macs: budget of
    multiply-accumulates, a share of the model's, or a number above 1; met within 1 % where the groups allow. params:
    budget of parameters, likewise. bytes: budget of stored bytes, likewise. time: budget of the time that the
    products are predicted to take, compiled, as a share. target: the machine of that prediction, as in `onnxc
    compile`. criterion: how channels are rated; l1, l2, fpgm, lamp, bn_scale, redundancy and random read weights
    alone; activation, apoz, hessian, obs and reconstruction look at data (auto: reconstruction where the user gave
    data, l1 for groups that it cannot rate and without data). readers: rate by the weights that read a channel too;
    l1 does, unless told not to, and l2, fpgm and lamp look at the filter that makes it, as in their papers. reduce: how what a group cuts
    in several weights becomes one score (mean, sum, max, min). normalise: what each weight's scores are divided by
    (mean, max, none; auto: what suits the criterion). recover: what repairs the layers behind a cut, without labels
    (none, bias, bn, lstsq, all; auto: lstsq where the user gave data, else none; lstsq and all make floats of weights
    that were trained to few bits). steps: cut in so many steps, rated (and recovered) anew at each. samples: how many calibration
    samples are looked at, at most. round_to: what remains is a multiple of this where a group has more, and the ratio
    is met in the mean over groups (1: in each, to the nearest channel); auto: of 16, which vector registers and
    blocked convolutions take whole, or of 8, 4, 2 or 1 where a group is too small to be halved so, or all are to meet
    the ratio or the budget. min_channels: what every group keeps at least. ratio_by: ratios of their own for layers
    by glob on node names. keep: globs of layers whose channels all stay. couple: "inner" leaves everything alone that
    a shortcut ties. statistics: whether channels may go over which an operator takes a statistic, so that removing is
    no longer the same as zeroing: "window" (LRN's sums over neighbours), "all" (LayerNormalization,
    GroupNormalization, means too), "none". shared: whether a weight that several layers read is cut for all of them
    alike and stays one, or for each by itself ("apart": it is split, and all its copies are stored).
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    ratio: float | Literal["auto"] | None = None
    scope: Literal["auto", "layer", "global", "outputs"] = "auto"
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    time: float | None = None
    target: str = "native"
    criterion: str = "auto"
    readers: bool | None = None
    reduce: Literal["mean", "sum", "max", "min"] = "mean"
    normalise: Literal["auto", "mean", "max", "none"] = "auto"
    recover: Literal["auto", "none", "bias", "bn", "lstsq", "all"] = "auto"
    steps: int = 1
    samples: int = 512
    round_to: int | Literal["auto"] = "auto"
    min_channels: int = 1
    ratio_by: dict[str, float] | None = None
    keep: list[str] | None = None
    couple: Literal["all", "inner"] = "all"
    statistics: Literal["none", "window", "all"] = "window"
    sensitivity: str | None = None
    shared: Literal["alike", "apart"] = "alike"

    def __post_init__(self) -> None:
        ratios: dict[str, float | str | None] = {f"ratio_by of {k}": v for k, v in (self.ratio_by or {}).items()}
        for name, value in {"ratio": self.ratio, **ratios}.items():
            if value not in ("auto", None) and not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise self._bad(name, "0 <= ratio < 1", value)
        for name in ("steps", "samples", "min_channels", "round_to"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise self._bad(name, "at least 1", value)
        given = {u: getattr(self, u) for u in UNITS if getattr(self, u) is not None}
        for name, value in given.items():
            if not value > 0:
                raise self._bad(name, "a share up to 1, or a number above 1", value)
        if self.time is not None and self.time > 1:
            raise self._bad("time", "a share up to 1", self.time)
        if self.target != "native" and self.time is None:
            raise self._bad("target", "time= beside it", self.target)
        if len(given) > 1:
            raise BadOption("only one budget can be met", pass_name=self.name, found=", ".join(given))
        self.budget = next(iter(given.items()), None)
        if self.budget is not None and self.ratio not in ("auto", None):
            raise BadOption(f"ratio and {self.budget[0]} both say how much goes", pass_name=self.name,
                            found=f"ratio={self.ratio:g}, {self.budget[0]}={self.budget[1]:g}",
                            remedy="give one of them; ratio_by sets single layers beside a budget")  # fmt: skip
        if self.ratio == "auto" and self.budget is None:
            raise BadOption(
                "ratio=auto needs a budget", pass_name=self.name, remedy="add macs=, params=, bytes= or time="
            )
        if self.readers is not None and not (self.criterion != "auto" and lookup(self.criterion).filters):
            raise BadOption("option readers goes with criterion l1, l2, fpgm or lamp", pass_name=self.name,
                            found=f"criterion={self.criterion}")  # fmt: skip
        if self.sensitivity and self.ratio != "auto":
            raise BadOption("option sensitivity goes with ratio=auto", pass_name=self.name)
        rates = self.criterion != "auto" and lookup(self.criterion).needs_data
        self.needs_data = rates or self.ratio == "auto" or self.recover in ("bias", "bn", "lstsq", "all")

    def _bad(self, option: str, expected: object, found: object) -> BadOption:
        return BadOption(f"option {option} does not fit", pass_name=self.name, expected=expected, found=found)

    def run(self, model: Model, ctx: Context) -> Report:
        if self.budget is None:
            return self._prune(model, ctx, None)
        unit, wanted = self.budget
        self._predict = ctx.predict(self.target) if unit == "time" else None
        whole = Costing(model, analyse(model), unit, set(), self._predict).whole
        wanted = goal = limit(whole, wanted)
        over = 0.0
        for n in range(TRIES):
            work = model.copy()
            report = self._prune(work, ctx, (unit, goal))
            left = Costing(work, analyse(work), unit, set(), self._predict).whole
            over = left - wanted
            if over <= 0 or not report.edits:
                break
            goal -= over * 2**n  # of what recovery has added: biases, and weights that it took apart
            if goal <= 0:
                break
        if over > 0:
            raise BadOption("the budget cannot be met", pass_name=self.name, expected=f"at most {wanted:.0f} {unit}",
                            found=f"{wanted + over:.0f}", remedy="ask for less, or take recover=none")  # fmt: skip
        model.adopt(work)
        if unit == "time":
            report.note(
                f"predicted time of the products, compiled for {self.target}: {left / whole:.2f} of what it was"
            )
        return report

    def _costing(self, model: Model, analysis: Analysis, unit: str, found: list[Group]) -> Costing:
        return Costing(model, analysis, unit, {g.atom for g in found}, self._predict)

    def _prune(self, model: Model, ctx: Context, costing: tuple[str, float] | None) -> Report:
        """Cut and recover; costing: the unit of the budget, and how much of it may be left."""
        report = Report()
        given = ctx.runner is not None and ctx.data is not None and not ctx.synthetic
        how = self.recover if self.recover != "auto" else "lstsq" if given else "none"
        self._criterion = self.criterion if self.criterion != "auto" else "reconstruction" if given else "l1"
        spread = self._criterion == "reconstruction" and self.budget is not None and self.ratio != "auto"
        self._scope = self.scope if self.scope != "auto" else "outputs" if spread else "layer"
        if resolve_shuffles(model):
            report.note("channel shuffles became Split and Concat, so that what they hand on can be cut")
        analysis = self._analyse(model)
        original = model.copy() if how != "none" else None
        uncut = (
            Uncut(original, analyse(original), ctx, self.samples, self._source(ctx)) if original is not None else None
        )
        sizes = {g.key: g.size for g in groups(model, analysis, self.statistics)}
        self._refusals(model, analysis, report)
        edits: dict[str, dict[tuple, list[int]]] = {}
        for step in range(1, self.steps + 1):
            if step > 1:
                analysis = self._analyse(model)
            found, rated = self._rate(model, analysis, ctx, report if step == 1 else Report())
            known = {g.atom: sizes.get(g.key, g.size) for g in found}
            keep = self._choose(model, analysis, found, rated, known, costing, step / self.steps, ctx)
            for g in found:
                if g.atom in keep:
                    sides = edits.setdefault(g.name, {}).setdefault(g.key, [known[g.atom], 0, len(g.members)])
                    sides[1] = int(keep[g.atom].sum())
            self._cut(model, analysis, found, keep, ctx, uncut, how, report if step == self.steps else Report())
        for name, cuts in edits.items():
            before, after, weights = (sum(x) for x in zip(*cuts.values(), strict=True))
            report.edit(name, f"{before} -> {after} channels in {weights} weights")
        if edits and self.recover == "auto" and not given:
            report.note(
                "no data given: the layers behind the cut are as they were, not repaired; give --data, or retrain"
            )
        return report

    def _source(self, ctx: Context) -> Model | None:
        """The model ahead of passes that factored layers, its shuffles as parts too."""
        if ctx.source is None:
            return None
        source = ctx.source.copy()
        resolve_shuffles(source)
        return source

    def _analyse(self, model: Model) -> Analysis:
        return analyse(model, alike=self.shared == "alike")

    def _refusals(self, model: Model, analysis: Analysis, report: Report) -> None:
        for node, reason in frozen_layers(model, analysis, self.statistics):
            report.refuse(node, reason)

    def _rate(self, model: Model, analysis: Analysis, ctx: Context, report: Report):
        """The groups that may be cut, and their scores. What may not is refused, with the reason."""
        found = groups(model, analysis, self.statistics)
        if self.couple == "inner":
            found, tied = inner(model, analysis, found)
            for name in dict.fromkeys(g.name for g in groups(model, analysis, self.statistics) if g.atom in tied):
                report.refuse(name, "its channels are tied to a shortcut, and couple=inner")
        for pattern in self.keep or ():
            for g in matching(found, pattern, "keep", self.name):
                report.refuse(g.name, f"keep names it: {pattern}")
                found = [x for x in found if x is not g]
        scene = ScoringContext(
            model, analysis, found, ctx, self.samples, ctx.seed, self._scope == "outputs", self.readers
        )
        rated = scores(scene, self._criterion, self.reduce, self.normalise)
        if self.criterion == self.scope == "auto" and found and not rated:
            self._scope = "layer"  # what no measurement tells apart gives the same share each
        if self.criterion == "auto" and self._scope == "layer" and len(rated) < len(found):
            rated = scores(scene, "l1", self.reduce, self.normalise) | rated
        for name in dict.fromkeys(g.name for g in found if g.atom not in rated):
            report.refuse(name, f"criterion {self._criterion}: {lookup(self._criterion).lacks}")
        return [g for g in found if g.atom in rated], rated

    def _choose(
        self, model, analysis, found, rated, sizes, budget, share: float, ctx: Context
    ) -> dict[Atom, np.ndarray]:
        """The masks of this step, which is to have done `share` of the whole way."""
        fixed = {}
        for pattern, ratio in (self.ratio_by or {}).items():
            for g in matching(found, pattern, "ratio_by", self.name):
                fixed[g.atom] = 1 - (1 - ratio) ** share
        by_price = self._scope == "outputs" and budget is not None
        worth = per_cost(found, rated, self._costing(model, analysis, budget[0], found)) if by_price else rated
        scope = "global" if by_price else self._scope
        timed = budget is not None and budget[0] == "time"  # of which less than 8 channels at a time save nothing
        widths = (self.round_to,) if self.round_to != "auto" else WIDTHS[:2] if timed else WIDTHS
        plans = [
            CutPlan(found, analysis, worth, scope, self.min_channels, m, len(widths) > 1, fixed, sizes) for m in widths
        ]
        if budget is None:
            level = 1 - (1 - (self.ratio if isinstance(self.ratio, (int, float)) else RATIO)) ** share
            for plan in plans:
                counts = plan.at(level, mean=True)
                if plan.misses(counts, level) <= NEAR:
                    break
        else:
            counts = self._within(model, analysis, found, plans, budget, share, ctx)
        return masks(found, rated, counts)

    def _within(
        self, model, analysis, found, plans: list[CutPlan], budget, share: float, ctx: Context
    ) -> dict[Atom, int]:
        """The counts that meet the budget, by the first of the plans that come within TOLERANCE of it, else by the last."""
        unit, wanted = budget
        cost = self._costing(model, analysis, unit, found)
        target = wanted if share == 1 else cost.whole * (wanted / cost.whole) ** (1 / (1 + self._steps_left(share)))
        curves = self._curves(model, ctx, plans[0]) if self.ratio == "auto" else None
        for plan in plans:
            at = plan.at if curves is None else Allocation(plan, cost, curves).at
            try:
                counts = plan.refine(*search(cost, at, target), cost, target)
            except BadOption:
                if plan is plans[-1]:
                    raise
                continue
            if unit == "time":
                if cost(counts) < target * (1 - NEAR) and plan is not plans[-1]:
                    continue
            elif cost(counts) < target * (1 - TOLERANCE) and self.round_to == "auto":
                topped = plan.top_up(counts, cost, target)
                if topped is None and plan is not plans[-1]:
                    continue
                counts = topped or counts
            break
        return counts

    def _curves(self, model: Model, ctx: Context, plan: CutPlan) -> list[Curve]:
        """The sensitivity of each unit of the plan, measured on this model."""
        file = Path(self.sensitivity) if self.sensitivity and self.steps == 1 else None
        criterion = "l1" if self._criterion == "reconstruction" else self._criterion
        curves = measure(
            model, ctx, criterion=criterion, statistics=self.statistics, samples=min(self.samples, SAMPLES), file=file,
            alike=self.shared == "alike", progress=ctx.progress,
        )  # fmt: skip
        by_name = {c.name: c for c in curves}
        return [by_name[u[0].name] for u in units(plan.groups, plan.analysis)]

    def _steps_left(self, share: float) -> int:
        return round((1 - share) * self.steps)

    def _cut(
        self, model, analysis, found: list[Group], keep: Mapping, ctx, uncut: Uncut | None, how: str, report: Report
    ) -> None:
        shifts = []
        if lookup(self._criterion).merges:
            keep = merge(model, analysis, found, keep)
        elif uncut is not None and how in ("bias", "all"):
            shifts = bias_shifts(model, analysis, keep, ctx, self.samples, report)
        if uncut is not None:
            uncut.advance(analysis, keep)
        soft = sorted({g.atom.soft[1] for g in found if g.atom in keep and g.atom.soft})
        if soft:
            report.note(f"not exact: {', '.join(soft)} sees fewer channels, so its statistics change")
        apply_masks(model, analysis, keep)
        nodes = {n.name: n for n in model.nodes}
        for name, shift in shifts:
            add_to_bias(model, nodes[name], shift)
        if uncut is not None and how != "none":
            recover(model, uncut, how, report, self.shared == "apart")
