"""How many channels each group keeps: from one level for all (a ratio, a share by score, an error) to counts.

What the user fixed (`keep`, `ratio_by`), rounding to vector widths and least counts are applied here, in one place;
the balance of grouped convolutions comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Atom, atoms
from ...ir.errors import BadOption
from ...ir.model import Model
from .budget import TOLERANCE, Costing
from .coupling import Group
from .select import balance

VECTOR_BYTES = {"AVX512F": 64, "AVX2": 32}


@dataclass
class CutPlan:
    """The groups that may be cut, and the rules for how far. fixed: a ratio for groups that have one of their own;
    sizes: what each group had in the original model, which ratios refer to."""

    groups: list[Group]
    analysis: Analysis
    rated: Mapping[Atom, np.ndarray]
    scope: str = "layer"
    minimum: int = 1
    multiple: int = 1
    fixed: dict[Atom, float] = field(default_factory=dict)
    sizes: dict[Atom, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pool = [(self.rated[g.atom], np.full(g.size, k)) for k, g in enumerate(self.groups) if g.atom not in self.fixed]
        scores = np.concatenate([s for s, _ in pool]) if pool else np.zeros(0)
        owners = np.concatenate([o for _, o in pool]) if pool else np.zeros(0, int)
        self._owners = owners[np.lexsort((owners, scores))]

    def size(self, g: Group) -> int:
        return self.sizes.get(g.atom, g.size)

    def at(self, level: float) -> dict[Atom, int]:
        """The counts at a level from 0 (all stay) to 1: a ratio of each group, or of all channels by score."""
        if self.scope == "layer":
            wanted = {g.atom: self.size(g) * (1 - level) for g in self.groups}
        else:
            total = sum(self.size(g) for g in self.groups if g.atom not in self.fixed)
            gone = total - len(self._owners)  # by earlier steps
            wanted = self._lowest(max(0, int(total * level + 0.5) - gone))
        return self.finish(wanted)

    def _lowest(self, drop: int) -> dict[Atom, float]:
        """The counts when the `drop` lowest scores go; a group at its least count passes its turn on."""
        least = np.array([self.least(g) for g in self.groups])
        left = np.array([g.size for g in self.groups])
        fixed = np.array([g.atom in self.fixed for g in self.groups], bool)
        spare = np.where(fixed, 0, left - least)
        order = np.argsort(self._owners, kind="stable")
        begins = np.searchsorted(self._owners[order], np.arange(len(left)))
        turn = np.empty(len(order), int)  # how many of its group stand before each
        turn[order] = np.arange(len(order)) - begins[self._owners[order]]
        taken = self._owners[turn < spare[self._owners]][:drop]
        left = left - np.bincount(taken, minlength=len(left))
        return {g.atom: float(n) for g, n in zip(self.groups, left)}

    def by_ratio(self, ratios: Mapping[Atom, float]) -> dict[Atom, int]:
        """The counts where each group has a ratio."""
        return self.finish({g.atom: self.size(g) * (1 - ratios.get(g.atom, 0.0)) for g in self.groups})

    def finish(self, wanted: Mapping[Atom, float]) -> dict[Atom, int]:
        """Whole, rounded, balanced counts from wanted ones."""
        counts = {}
        for g in self.groups:
            n = self.size(g) * (1 - self.fixed[g.atom]) if g.atom in self.fixed else wanted[g.atom]
            n = _round(n / self.multiple) * self.multiple if self.size(g) > self.multiple else self.size(g)
            counts[g.atom] = min(max(n, self.least(g)), g.size)
        return balance(counts, self.analysis.balanced, self.minimum)

    def least(self, g: Group) -> int:
        """What the group keeps at least."""
        return min(max(self.minimum, self.multiple if self.size(g) > self.multiple else 1), g.size)

    def refine(
        self, counts: dict[Atom, int], milder: Mapping[Atom, int], cost: Costing, target: float
    ) -> dict[Atom, int]:
        """Give channels back as long as `cost` stays within `target`: towards `milder` first, then to any group."""
        counts = self._give(counts, milder, cost, target)
        if cost(counts) < target * (1 - TOLERANCE):
            counts = self._give(counts, {g.atom: g.size for g in self.groups}, cost, target)
        return counts

    def _give(
        self, counts: Mapping[Atom, int], most: Mapping[Atom, int], cost: Costing, target: float
    ) -> dict[Atom, int]:
        """Round after round, the groups with the best score per cost get a channel back first, where it fits."""
        tied = {a for axes in self.analysis.balanced for axis in axes for a in atoms(axis)}
        counts = dict(counts)
        open_groups = [g for g in self.groups if g.atom not in tied and g.atom not in self.fixed]
        ranked = {g.atom: np.sort(self.rated[g.atom])[::-1] for g in open_groups}
        spare = target - cost(counts)
        given = True
        while given:
            given = False
            offers = []
            for k, g in enumerate(open_groups):
                n = counts[g.atom]
                step = min(self.multiple, g.size - n)
                if n < most[g.atom] and step > 0 and n % self.multiple == 0:
                    price = cost.change(counts, g.atom, n + step)
                    worth = float(ranked[g.atom][n : n + step].sum()) / max(price, 1e-300)
                    offers.append((-worth, k, g, step))
            for _, _, g, step in sorted(offers, key=lambda o: o[:2]):
                price = cost.change(counts, g.atom, counts[g.atom] + step)
                if price <= spare:
                    counts[g.atom] += step
                    spare -= price
                    given = True
        return counts


def per_cost(found: list[Group], rated: Mapping[Atom, np.ndarray], cost: Costing) -> dict[Atom, np.ndarray]:
    """Scores by what a channel of the group costs, so that the lowest are the cheapest to lose for the same budget."""
    price = {
        g.atom: max(-cost.change({}, g.atom, g.size - 1) / cost.whole, 1e-12) if g.size > 1 else 1e-12 for g in found
    }
    return {g.atom: rated[g.atom] / price[g.atom] for g in found}


def _round(x: float) -> int:
    """The nearest whole number; halves go down, so that half of an odd count never costs more than half."""
    return ceil(x - 0.5 - 1e-9)


def inner(model: Model, analysis: Analysis, found: list[Group]) -> tuple[list[Group], dict[Atom, str]]:
    """The groups that no shortcut ties, and for the others the sum that does."""
    tied: dict[Atom, str] = {}
    for node in model.nodes:
        if model.is_standard(node, "Add", "Sum", "Sub") and sum(isinstance(t, gs.Variable) for t in node.inputs) > 1:
            for axis in analysis.axes.get(node.outputs[0].name) or ():
                for a in atoms(axis):
                    tied.setdefault(a, node.name)
    return [g for g in found if g.atom not in tied], {g.atom: tied[g.atom] for g in found if g.atom in tied}


def matching(found: list[Group], pattern: str, option: str, pass_name: str) -> list[Group]:
    """The groups that a glob on node names selects: those that a matching node makes, or reads, or follows."""
    chosen = [g for g in found if any(m.role == "makes" and fnmatchcase(m.layer.name, pattern) for m in g.members)]
    chosen = chosen or [g for g in found if any(fnmatchcase(m.layer.name, pattern) for m in g.members)]
    if not chosen:
        names = ", ".join(dict.fromkeys(g.name for g in found[:4]))
        raise BadOption(
            f"option {option}: no prunable layer is called {pattern}",
            pass_name=pass_name,
            expected=f"names like {names}",
        )
    return chosen


def multiple_of(round_to: int | str, itemsize: int = 4) -> int:
    """`round_to` as a number; "auto" is how many float32 this machine's vector registers hold (16, 8 or 4)."""
    if round_to != "auto":
        return int(round_to)
    features = np.show_config(mode="dicts").get("SIMD Extensions", {})
    present = {*features.get("baseline", ()), *features.get("found", ())}
    wide = [n for name, n in VECTOR_BYTES.items() if name in present or (name == "AVX512F" and "X86_V4" in present)]
    wide += [32] if "X86_V3" in present else []
    return max(wide, default=16) // itemsize
