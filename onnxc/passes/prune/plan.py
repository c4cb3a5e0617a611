"""How many channels each group keeps: from one level for all (a ratio, a share by score, an error) to counts.

What the user fixed (`keep`, `ratio_by`), rounding to vector widths and least counts are applied here, in one place;
the balance of grouped convolutions comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil, gcd

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Atom, atoms
from ...ir.errors import BadOption
from ...ir.model import Model
from ..layers.widths import WIDTHS
from .budget import TOLERANCE, Costing
from .coupling import Group
from .select import balance

NEAR = 0.05
"""How far the mean share of channels that go may be from the ratio, for the sake of a multiple."""


@dataclass
class CutPlan:
    """The groups that may be cut, and the rules for how far. fixed: a ratio for groups that have one of their own;
    sizes: what each group had in the original model, which ratios refer to; multiple: what counts are multiples of;
    halves: of less where that lets a group be halved, unless a grouped convolution holds it."""

    groups: list[Group]
    analysis: Analysis
    rated: Mapping[Atom, np.ndarray]
    scope: str = "layer"
    minimum: int = 1
    multiple: int = 1
    halves: bool = False
    fixed: dict[Atom, float] = field(default_factory=dict)
    sizes: dict[Atom, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._held = {g.atom: any(m.layer.attrs.get("group", 1) > 1 for m in g.members) for g in self.groups}
        self._multiples = {g.atom: self._multiple(g) for g in self.groups}
        pool = [(self.rated[g.atom], np.full(g.size, k)) for k, g in enumerate(self.groups) if g.atom not in self.fixed]
        scores = np.concatenate([s for s, _ in pool]) if pool else np.zeros(0)
        owners = np.concatenate([o for _, o in pool]) if pool else np.zeros(0, int)
        self._owners = owners[np.lexsort((owners, scores))]

    def _multiple(self, g: Group) -> int:
        whole = self.multiple
        if self.halves and not self._held[g.atom]:
            whole = next((w for w in WIDTHS if w <= min(whole, self.size(g) // 2)), 1)
        return whole // gcd(whole, repeat(g))

    def _multiple_for(self, g: Group, wanted: float) -> int:
        """The multiple of its count; where it has a ratio of its own and multiples may be less, the first that comes near that."""
        m = self._multiples[g.atom]
        if self.halves and g.atom in self.fixed:
            fits = (w for w in WIDTHS if w <= m and abs(_round(wanted / w) * w - wanted) <= NEAR * self.size(g))
            return next(fits, 1)
        return m

    def size(self, g: Group) -> int:
        return self.sizes.get(g.atom, g.size)

    def at(self, level: float, mean: bool = False) -> dict[Atom, int]:
        """The counts at a level from 0 (all stay) to 1: a ratio of each group, or of all channels by score. mean: rounding to
        multiples above 1 shall leave the mean as it is."""
        if self.scope == "layer":
            wanted = {g.atom: self.size(g) * (1 - level) for g in self.groups}
        else:
            total = sum(self.size(g) for g in self.groups if g.atom not in self.fixed)
            gone = total - len(self._owners)  # by earlier steps
            wanted = self._lowest(max(0, int(total * level + 0.5) - gone))
        return self.finish(wanted, mean)

    def misses(self, counts: Mapping[Atom, int], level: float) -> float:
        """How far the share of channels that go is from `level`, over the groups that have no ratio of their own."""
        open_groups = [g for g in self.groups if g.atom not in self.fixed]
        whole = sum(self.size(g) for g in open_groups)
        return abs(1 - sum(counts[g.atom] for g in open_groups) / whole - level) if whole else 0.0

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

    def finish(self, wanted: Mapping[Atom, float], mean: bool = False) -> dict[Atom, int]:
        """Whole, rounded, balanced counts from wanted ones."""
        wanted = {
            g.atom: self.size(g) * (1 - self.fixed[g.atom]) if g.atom in self.fixed else wanted[g.atom]
            for g in self.groups
        }
        counts = {}
        for g in self.groups:
            m, n = self._multiple_for(g, wanted[g.atom]), self.size(g)
            n = _round(wanted[g.atom] / m) * m if n > m else n
            if g.size - wanted[g.atom] < abs(n - wanted[g.atom]):
                n = g.size  # a group that is no multiple may stay whole
            counts[g.atom] = min(max(n, self.least(g, m)), g.size)
        if mean and self.multiple > 1:  # else each is the nearest whole number as it is
            self._level(counts, wanted)
        return balance(counts, self.analysis.balanced, self.minimum)

    def _level(self, counts: dict[Atom, int], wanted: Mapping[Atom, float]) -> None:
        """Move counts by their multiples, the least by its size first, until their sum is next to the one wanted. No group keeps
        less than half of what it should."""
        open_groups = [g for g in self.groups if g.atom not in self.fixed and self.size(g) > self._multiples[g.atom]]
        while True:
            over = sum(counts.values()) - sum(wanted.values())
            moves = []
            for k, g in enumerate(open_groups):
                m, now = self._multiples[g.atom], counts[g.atom]
                n = max((now - 1) // m * m, self.least(g)) if over > 0 else min((now // m + 1) * m, g.size)
                if abs(over + n - now) < abs(over) and n >= wanted[g.atom] / 2:
                    moves.append((abs(n - wanted[g.atom]) / self.size(g), k, g, n))
            if not moves:
                return
            _, _, g, n = min(moves, key=lambda move: move[:2])
            counts[g.atom] = n

    def least(self, g: Group, multiple: int | None = None) -> int:
        """What the group keeps at least."""
        m = multiple or self._multiples[g.atom]
        return min(max(self.minimum, m if self.size(g) > m else 1), g.size)

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
        counts, open_groups = dict(counts), self._single()
        ranked = {g.atom: np.sort(self.rated[g.atom])[::-1] for g in open_groups}
        spare = target - cost(counts)
        given = True
        while given:
            given = False
            offers = []
            for k, g in enumerate(open_groups):
                n = counts[g.atom]
                m = self._multiples[g.atom]
                step = min(m, g.size - n)
                if n < most[g.atom] and step > 0 and n % m == 0:
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

    def _single(self) -> list[Group]:
        """The groups whose counts change nothing but their own."""
        tied = {a for axes in self.analysis.balanced for axis in axes for a in atoms(axis)}
        return [g for g in self.groups if g.atom not in tied and g.atom not in self.fixed]

    def top_up(self, counts: Mapping[Atom, int], cost: Costing, target: float) -> dict[Atom, int] | None:
        """`counts` with one group alone off the multiples, so that the cost comes within TOLERANCE of `target`: one that no
        grouped convolution holds if there is one, by as few odd channels as will do; None where no group does."""
        spare = target - cost(counts)
        for step in (w for w in WIDTHS if w < self.multiple):
            for g in sorted(self._single(), key=lambda g: self._held[g.atom]):
                for n in range(counts[g.atom] // step * step + step, g.size, step):
                    price = cost.change(counts, g.atom, n)
                    if spare - TOLERANCE * target <= price <= spare:
                        return {**counts, g.atom: n}
        return None


def per_cost(found: list[Group], rated: Mapping[Atom, np.ndarray], cost: Costing) -> dict[Atom, np.ndarray]:
    """Scores by what a channel of the group costs, so that the lowest are the cheapest to lose for the same budget."""
    price = {}
    for g in found:
        # kernels of one channel less take longer: times fall by vectors
        step = min(WIDTHS[0], g.size // 2) if cost.unit == "time" else min(1, g.size - 1)
        saved = -cost.change({}, g.atom, g.size - step) / cost.whole
        price[g.atom] = max(saved / max(step, 1), 1e-12)
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


def repeat(group: Group) -> int:
    """How often a channel of the group stands in the axis of a weight that makes it, at least: once in each group of a grouped
    convolution, once in each head."""
    makers = [m.node.inputs[m.i].values.shape[m.d] for m in group.members if m.role == "makes"]
    return max(1, min(makers, default=group.size) // group.size)
