"""What a model would cost with so many channels in each group: counted over the axes, without cutting anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Atom, Axis, atoms
from ...ir.cost import number, shape_operands
from ...ir.errors import BadOption
from ...ir.model import Model
from ...ir.product import Predict
from ...ir.qtype import stored_bytes
from .select import count
from .timing import Timed, timed

Counts = Mapping[Atom, int]
UNITS = ("macs", "params", "bytes", "time")
TOLERANCE = 0.01
STEPS = 40


@dataclass
class _Term:
    """A number that shrinks with the extents of `axes`: `factor` times their product."""

    factor: float
    axes: tuple[Axis, ...]

    def value(self, counts: Counts) -> float:
        """The number where each atom keeps `counts[atom]` indices."""
        return self.factor * prod(count(a, counts) for a in self.axes)


class Costing:
    """The cost of a model in one unit (macs, params, bytes or the time that `predict` says) as a function of the groups' counts.

    Only what some group can change is looked at again; the rest is a constant. Extents that are no
    numbers count as in `Model.shapes`.
    """

    def __init__(
        self, model: Model, analysis: Analysis, unit: str, free: set[Atom], predict: Predict | None = None
    ) -> None:
        self.unit, self.fixed = unit, 0.0
        self.terms: list[_Term | Timed] = []
        for term in timed(model, analysis, predict) if predict is not None else ():
            if any(x in free for a in term.axes for x in atoms(a)):
                self.terms.append(term)
            else:
                self.fixed += term.value({})
        for factor, axes in _all_terms(model, analysis, unit) if predict is None else ():
            moving = tuple(a for a in axes if any(x in free for x in atoms(a)))
            factor *= prod(number(a, analysis.sizes) for a in axes if a not in moving)
            if moving:
                self.terms.append(_Term(factor, moving))
            else:
                self.fixed += factor
        self.whole = self({})
        self._of: dict[Atom, list[_Term | Timed]] = {}
        for t in self.terms:
            for atom in {x for a in t.axes for x in atoms(a)}:
                self._of.setdefault(atom, []).append(t)

    def __call__(self, counts: Counts) -> float:
        """The cost where each atom keeps `counts[atom]` indices (all where it is not named)."""
        return self.fixed + sum(t.value(counts) for t in self.terms)

    def change(self, counts: Counts, atom: Atom, n: int) -> float:
        """How much the cost changes where `atom` keeps n instead of `counts[atom]`."""
        other = {**counts, atom: n}
        return sum(t.value(other) - t.value(counts) for t in self._of.get(atom, ()))


def _all_terms(model: Model, analysis: Analysis, unit: str):
    if unit == "macs":
        for node in model.nodes:
            if axes := analysis.facts[node.name].iteration:
                yield 1.0, tuple(axes)
        return
    seen: set[int] = set()
    operands = shape_operands(analysis) if unit == "params" else set()
    for node in model.nodes:
        for i, t in enumerate(node.inputs):
            if not isinstance(t, gs.Constant) or id(t) in seen:
                continue
            seen.add(id(t))
            if unit == "params" and (t.values.dtype.kind in "OUSb" or t.name in operands):
                continue
            if i in analysis.facts[node.name].operands:
                yield float(stored_bytes(t.values) if unit == "bytes" else t.values.size), ()
                continue
            each = stored_bytes(t.values) / max(t.values.size, 1) if unit == "bytes" else 1.0
            yield each, analysis.uses[node.name, i]


def limit(whole: float, wanted: float) -> float:
    """A budget as a number: what is at most 1 is a share of the original."""
    return wanted * whole if wanted <= 1 else wanted


def search(
    cost: Callable[[Counts], float], counts_at: Callable[[float], dict[Atom, int]], target: float, top: float = 1.0
) -> tuple[dict[Atom, int], dict[Atom, int]]:
    """The counts of the smallest level in [0, top] whose cost is within `target`, and the next milder counts.

    `counts_at(level)` must cost less at higher levels. Returns (counts, milder counts); raises BadOption where even
    the highest level costs more.
    """
    low, high = 0.0, top
    milder = counts_at(low)
    if cost(milder) <= target:
        return milder, milder
    best = counts_at(high)
    if cost(best) > target:
        raise BadOption("the budget cannot be met", expected=f"at least {cost(best):.0f}", found=f"{target:.0f}",
                        remedy="allow more groups to be cut, or fewer channels in each")  # fmt: skip
    for _ in range(STEPS):
        middle = (low + high) / 2
        trial = counts_at(middle)
        if cost(trial) <= target:
            high, best = middle, trial
        else:
            low, milder = middle, trial
    return best, milder
