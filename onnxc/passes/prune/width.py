"""prune.width: MobileNet's width multiplier on a trained network (Howard et al. 2017): every layer alpha times as wide.

Conv 3->32, Conv 32->64, Gemm 64->10      (alpha 0.5)      Conv 3->16, Conv 16->32, Gemm 32->10
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Atom
from ...ir.masks import apply_masks
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.shuffles import resolve_shuffles
from ..options import Range
from .coupling import Group, frozen_layers, groups
from .criteria import scores
from .score import ScoringContext
from .select import balance, masks


@register("prune.width")
class PruneWidth(Pass):
    """Cut every group of coupled channels to the same share.

    alpha: the share that stays, above 0 and at most 1. round_to: channels come out as a multiple of this where that
    leaves at least 90 % of what alpha asks for (MobileNet uses 8). keep: which channels stay: those of largest
    magnitude (l1), or the leading ones, as in a network that was trained at several widths (first).
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    alpha: Annotated[float, Range(above=0, high=1)] = 0.5
    round_to: Annotated[int, Range(1)] = 1
    keep: Literal["l1", "first"] = "l1"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        resolve_shuffles(model)
        analysis = analyse(model, alike=True)
        found, keep = self.plan(model, analysis)
        for node, reason in frozen_layers(model, analysis, "all"):
            report.refuse(node, reason)
        for name, (before, after) in _by_name(found, keep).items():
            report.edit(name, f"{before} -> {after} channels")
        soft = sorted({g.atom.soft[1] for g in found if g.atom in keep and g.atom.soft})
        if soft:
            report.note(f"not exact: {', '.join(soft)} sees fewer channels, so its statistics change")
        apply_masks(model, analysis, keep)
        return report

    def plan(self, model: Model, analysis: Analysis) -> tuple[list[Group], dict[Atom, np.ndarray]]:
        """The groups, and a mask [size] for each that loses channels. `analysis` must be of this very model."""
        found = groups(model, analysis, "all")
        if self.keep == "first":
            rated = {g.atom: -np.arange(g.size, dtype=np.float64) for g in found}
        else:
            rated = scores(ScoringContext(model, analysis, found), "l1")
            found = [g for g in found if g.atom in rated]
        counts = balance({g.atom: self.count(g.size) for g in found}, analysis.balanced)
        return found, masks(found, rated, counts)

    def count(self, size: int) -> int:
        """How many of `size` channels stay: MobileNet's rounding, never more than there are."""
        wanted = self.alpha * size
        rounded = max(self.round_to, int(wanted + self.round_to / 2) // self.round_to * self.round_to)
        if rounded < 0.9 * wanted:
            rounded += self.round_to
        return min(rounded, size)


def _by_name(found: list[Group], keep: dict[Atom, np.ndarray]) -> dict[str, tuple[int, int]]:
    """(before, after) of the groups that are cut; those of one name (blocks of a grouped Conv) together."""
    sides: dict[str, tuple[int, int]] = {}
    for g in found:
        if g.atom in keep:
            before, after = sides.get(g.name, (0, 0))
            sides[g.name] = before + g.size, after + int(keep[g.atom].sum())
    return sides
