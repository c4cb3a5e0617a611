"""How much the outputs change when one group alone loses a share of its channels; and ratios that meet a budget by it.

A unit is a group, together with what must keep equally many channels (the blocks of grouped convolutions). Its error is
sqrt(sum (y' - y)² / sum y²) over all samples, of the output where that is largest, without recovery unless asked for.

Ratios for a budget: errors of different units add up roughly as squares, so each unit takes the ratio r that minimises

    error_u(r)² - price · (what cutting u alone by r saves, as a share of the whole)

at one price for all, and the price is searched until the budget is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom, atoms
from ...ir.bounded import read_json
from ...ir.digest import digest
from ...ir.errors import BadData
from ...ir.escape import json_text
from ...ir.masks import apply_masks
from ...ir.model import Model
from ...ir.output import write_whole
from ..base import Context, Judgement, Report
from ..layers.shuffles import resolve_shuffles
from .budget import Costing
from .coupling import Group, groups
from .criteria import scores
from .plan import CutPlan
from .recover import recover
from .score import ScoringContext
from .select import masks
from .uncut import Uncut

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
GRID = np.linspace(0, max(RATIOS), 91)
SAMPLES = 256
WORST = 1e12
"""The noise of outputs that hold no numbers any more."""
FORM = "onnxc sensitivity 2"


@dataclass(frozen=True)
class Point:
    """What one cut does. ratio: the share of channels asked for; error: see above; metrics: of the task, by name, and
    empty without labels."""

    ratio: float
    error: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Curve:
    """The points of one unit, by rising ratio. name: of its first group; channels: of all its groups."""

    name: str
    channels: int
    points: list[Point]

    def error(self, ratios: np.ndarray) -> np.ndarray:
        """The error at each ratio: linear between points, 0 at 0."""
        return np.interp(ratios, [0.0, *(p.ratio for p in self.points)], [0.0, *(p.error for p in self.points)])


def units(found: list[Group], analysis: Analysis) -> list[list[Group]]:
    """The groups, those that must stay balanced together, in graph order."""
    home = {g.atom: [g] for g in found}
    for parts in analysis.balanced:
        tied = list({id(home[a]): home[a] for p in parts for a in atoms(p) if a in home}.values())
        for other in tied[1:]:
            tied[0].extend(other)
            for g in other:
                home[g.atom] = tied[0]
    return list({id(u): u for u in (home[g.atom] for g in found)}.values())


class Sweep:
    """The units of a model, and what cuts do to it. units: see the module's text; the others as in `measure`."""

    def __init__(
        self, model: Model, ctx: Context, criterion: str = "l1", how: str = "none", statistics: str = "window",
        samples: int = SAMPLES, alike: bool = True,
    ) -> None:  # fmt: skip
        model = model.copy()
        resolve_shuffles(model)
        self.model, self._ctx, self._how, self._samples = model, ctx, how, samples
        self.analysis = analyse(model, alike=alike)
        found = groups(model, self.analysis, statistics)
        self.rated = scores(ScoringContext(model, self.analysis, found, ctx, samples, ctx.seed), criterion)
        self.groups = [g for g in found if g.atom in self.rated]
        self.units = units(self.groups, self.analysis)
        self.plan = CutPlan(self.groups, self.analysis, self.rated)

    @cached_property
    def judge(self) -> Callable[[Model], Judgement]:
        """Measures models beside the one that is cut."""
        return self._ctx.evaluate(self.model, self._samples)

    def cut(self, ratios: Mapping[int, float]) -> Model:
        """A copy without the share `ratios[k]` of the channels of each unit `k` that is named, recovered."""
        wanted = {g.atom: ratio for k, ratio in ratios.items() for g in self.units[k]}
        keep = masks(self.groups, self.rated, self.plan.by_ratio(wanted))
        return _cut(self.model, self.analysis, keep, self._ctx, self._how, self._samples)

    def point(self, unit: int, ratio: float) -> Point:
        """What cutting one unit alone does."""
        seen = self.judge(self.cut({unit: ratio}))
        return Point(ratio, math.sqrt(min(seen.noise, WORST)), seen.metrics)


def measure(
    model: Model, ctx: Context, *, criterion: str = "l1", how: str = "none", statistics: str = "window", samples: int = SAMPLES,
    ratios: tuple[float, ...] = RATIOS, file: Path | None = None, progress: Callable[[str, float], None] | None = None,
    alike: bool = True,
) -> list[Curve]:  # fmt: skip
    """The curve of every unit of `model`. Each finished unit is written to `file` at once, and read from it next time.

    alike: a weight that several layers read is cut for all of them alike.
    Raises BadData where `file` holds results of another model, other data or other settings.
    """
    sweep = Sweep(model, ctx, criterion, how, statistics, samples, alike)
    head = {
        "form": FORM, "model": digest(sweep.model.to_proto()), "data": getattr(ctx.data, "name", ""),
        "criterion": criterion, "recover": how,
        "statistics": statistics, "samples": samples, "seed": ctx.seed, "ratios": list(ratios),
    } | ({} if alike else {"shared": "apart"})  # fmt: skip
    done = read(file, head) if file is not None and file.exists() else {}
    work = sweep.units
    for k, unit in enumerate(work):
        if progress is not None:
            progress(f"group {k + 1} of {len(work)}, {unit[0].name}", k / len(work))
        key = _key(unit, k)
        if key in done:
            continue
        points = [sweep.point(k, ratio) for ratio in ratios]
        done[key] = Curve(unit[0].name, sum(g.size for g in unit), points)
        if file is not None:
            write(file, head, done)
    return [done[_key(unit, k)] for k, unit in enumerate(work)]


def _key(unit: list[Group], k: int) -> str:
    return f"{k}:{unit[0].name}"


def _cut(
    model: Model, analysis: Analysis, keep: Mapping[Atom, np.ndarray], ctx: Context, how: str, samples: int
) -> Model:
    """A copy of `model` without the channels that `keep` removes, recovered."""
    work = model.copy()
    apply_masks(work, analysis, keep)
    if how != "none":
        uncut = Uncut(model, analysis, ctx, samples)
        uncut.advance(analysis, keep)
        recover(work, uncut, how, Report())
    return work


def write(file: Path, head: Mapping, curves: Mapping[str, Curve]) -> None:
    """Write the curves, whole or not at all."""
    rows = {
        key: {"name": c.name, "channels": c.channels, "points": [vars(p) for p in c.points]}
        for key, c in curves.items()
    }
    write_whole(file, [(json_text({**head, "curves": rows}) + "\n").encode()])


def read(file: Path, head: Mapping | None = None) -> dict[str, Curve]:
    """The curves in `file`. Raises BadData where it holds none, or, with `head`, those of something else."""
    try:
        found = read_json(file)
        curves = {
            key: Curve(c["name"], c["channels"], [Point(**p) for p in c["points"]])
            for key, c in found["curves"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadData(f"{file} holds no sensitivities: {e}", remedy="give another file, or remove it") from None
    for key, value in (head or {}).items():
        if found.get(key) != value:
            raise BadData(
                f"{file} was measured otherwise: {key}",
                expected=value,
                found=found.get(key),
                remedy="give another file, or remove it",
            )
    return curves


class Allocation:
    """Counts that meet a budget at the least error: one price for all units; see the module's text."""

    def __init__(self, plan: CutPlan, cost: Costing, curves: list[Curve]):
        self.plan = plan
        self.offers: list[tuple[list[Group], np.ndarray, np.ndarray]] = []
        for unit, curve in zip(units(plan.groups, plan.analysis), curves, strict=True):
            saved = [cost.whole - cost(plan.by_ratio({g.atom: r for g in unit})) for r in GRID]
            self.offers.append((unit, np.square(curve.error(GRID)), np.array(saved) / max(cost.whole, 1e-30)))

    def at(self, level: float) -> dict[Atom, int]:
        """The counts at a price from nothing (level 0) to any (level 1)."""
        price = 10.0 ** (16 * level - 10) if level > 0 else 0.0
        ratios = {}
        for unit, errors, saved in self.offers:
            best = float(GRID[int(np.argmin(errors - price * saved))])
            ratios.update({g.atom: best for g in unit})
        return self.plan.by_ratio(ratios)
