"""prune.channels: remove whole channels, through shortcuts, concats, groups and flattening, wherever the axes allow.

    Conv 3->64, BN, Relu, Conv 64->64, Add      (ratio 0.5)      Conv 3->32, BN, Relu, Conv 32->32, Add

The result equals the unpruned model whose contractions see zeros at the removed channels (`onnxc.passes.prune.twin`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...ir.analysis import analyse, apply_masks
from ...ir.axes import Atom
from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from .coupling import Group, frozen_layers, groups
from .score import CRITERIA, scores
from .select import balance, masks


@register("prune.channels", alias="prune")
class PruneChannels(Pass):
    """Remove the least important channels of every group of coupled channels.

    ratio: share of channels removed. scope: of each group ("layer"), or of all together by score ("global").
    criterion: how channels are rated (l1: sum of magnitudes, Li 2017). min_channels: what every group keeps at least.
    statistics: whether channels may go over which an operator takes a statistic, so that removing is no longer the same
    as zeroing: "window" (LRN's sums over neighbours), "all" (LayerNormalization, GroupNormalization, means too), "none".
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    ratio: float = 0.5
    scope: Literal["layer", "global"] = "layer"
    criterion: str = "l1"
    min_channels: int = 1
    statistics: Literal["none", "window", "all"] = "window"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise BadOption("option ratio does not fit", pass_name=self.name, expected="0 <= ratio < 1", found=self.ratio)
        if self.min_channels < 1:
            raise BadOption("option min_channels does not fit", pass_name=self.name, expected="at least 1", found=self.min_channels)
        if self.criterion not in CRITERIA:
            raise BadOption(
                f"there is no criterion {self.criterion}", pass_name=self.name, expected=", ".join(sorted(CRITERIA))
            )

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        analysis = analyse(model)
        found = groups(model, analysis, self.statistics)
        rated = scores(found, analysis, self.criterion)
        counts = balance(self.counts(found, rated), analysis.balanced, self.min_channels)
        keep = masks(found, rated, counts)
        for node, reason in frozen_layers(model, analysis, self.statistics):
            report.refuse(node, reason)
        for name, sizes in _by_name(found, keep).items():
            before, after, weights = (sum(x) for x in zip(*sizes, strict=True))
            report.edit(name, f"{before} -> {after} channels in {weights} weights")
        soft = sorted({g.atom.soft[1] for g in found if g.atom in keep and g.atom.soft})
        if soft:
            report.note(f"not exact: {', '.join(soft)} sees fewer channels, so its statistics change")
        apply_masks(model, analysis, keep)
        return report

    def counts(self, found: list[Group], rated: dict[Atom, np.ndarray]) -> dict[Atom, int]:
        if self.scope == "layer":
            return {g.atom: max(min(self.min_channels, g.size), int(g.size * (1 - self.ratio) + 0.5)) for g in found}
        counts = {g.atom: g.size for g in found}
        total = sum(counts.values())
        pool = [(float(s), k, g) for k, g in enumerate(found) for s in rated[g.atom]]
        pool.sort(key=lambda item: item[:2])
        drop = int(total * self.ratio + 0.5)
        for _, _, g in pool:
            if drop == 0:
                break
            if counts[g.atom] > min(self.min_channels, g.size):
                counts[g.atom] -= 1
                drop -= 1
        return counts


def _by_name(found: list[Group], keep: dict[Atom, np.ndarray]) -> dict[str, list[tuple[int, int, int]]]:
    """Groups of one name (the blocks of a grouped convolution) together: (before, after, weights) of each that is cut."""
    cut: dict[str, list[tuple[int, int, int]]] = {}
    for g in found:
        if g.atom in keep:
            cut.setdefault(g.name, []).append((g.size, int(keep[g.atom].sum()), len(g.members)))
    return cut
