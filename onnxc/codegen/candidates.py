"""Which kernels might compute a layer: of each family the best few tiles of the cost model; and a choice among them that was measured.

candidates(spec, target) -> [(float32, float32.direct 14x1x16), (winograd, ...f4 ...), ...], the predicted one first
Chooser(target, {key(spec, target): "float32.direct: tile 7 ..."})(spec) -> that one
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnxc.codegen.kernels import FAMILIES, choose, winograd
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.winograd_form import F2, F4
from onnxc.codegen.target import Target

RANKS = 4
RANKS_ALIKE = 48  # most tiles lie otherwise
SLOWEST = 3.0
"""Times the predicted cycles of the best one at which nothing is worth a measurement."""
NEAR = 1.15
"""Times the predicted cycles of the best one that a layer may take to share weights with the same layer of another shape."""
Picks = Mapping[str, str]
"""`key` of a layer -> `Schedule.text()` of the kernel that it gets."""


def key(spec: KernelSpec, target: Target) -> str:
    """What a choice depends on, as 24 hexadecimal digits: equal for layers that are the same kernel."""
    return hashlib.sha256(f"{spec!r} {replace(target, rank=0)!r}".encode()).hexdigest()[:24]


def tunable(spec: KernelSpec, target: Target) -> bool:
    """Whether a choice may be made anew: what kernels pack for each other, and C code of small processors, go together."""
    bits = "bits" in (spec.activation.kind, spec.weight.kind, spec.output.kind)
    return not (bits or target.micro or spec.packed is not None or spec.source is not None)


def candidates(
    spec: KernelSpec, target: Target, exact: bool = False, ranks: int = RANKS
) -> list[tuple[Family, Schedule]]:
    """Kernels for `spec`, that of `choose` first, then by predicted cycles; `exact` as there. ranks: of each family."""
    first, plan, _ = choose(spec, target, exact=exact)
    if first is None or plan is None:
        return []
    found: dict[str, tuple[float, Family, Schedule]] = {}
    for family in FAMILIES if tunable(spec, target) else ():
        if exact and not family.exact:
            continue
        for other in _plans(family, spec, target, ranks):
            found.setdefault(other.text(), (family.cost(spec, other, target), family, other))
    most = SLOWEST * first.cost(spec, plan, target)
    rest = sorted(
        (row for text, row in found.items() if text != plan.text() and row[0] <= most), key=lambda row: row[0]
    )
    return [(first, plan), *((family, other) for _, family, other in rest)]


def _plans(family: Family, spec: KernelSpec, target: Target, ranks: int) -> list[Schedule]:
    plans = []
    for rank in range(ranks):
        ranked = replace(target, rank=rank)
        answer = family.schedule(spec, ranked)
        if isinstance(answer, Refusal):
            break
        if family is winograd.FAMILY:  # which form is a choice as well
            plans += [winograd.plan_of(spec, ranked, form, name) for form, name in ((F2, "f2"), (F4, "f4"))]
        else:
            plans.append(answer)
    return plans


class Layouts:
    """How the programs of other shapes hold weights, so that a library need not hold them twice for little."""

    def __init__(self) -> None:
        self.known: set[tuple] = set()
        self.made: set[tuple] = set()

    def turn(self) -> None:
        """Another shape begins."""
        self.known |= self.made

    @staticmethod
    def of(spec: KernelSpec, family: Family, plan: Schedule) -> tuple:
        """Equal for weights of equal extents that lie alike."""
        extents = (spec.c, spec.oc, spec.kh, spec.kw, spec.groups, spec.weight)
        return (*extents, family.name, family.pack_key(spec, plan))


class Chooser:
    """`kernels.choose` for a target, or what `picks` says of a layer; with `layouts`, what shares weights with other shapes where
    that is nearly as fast. `exact`: only families that are."""

    def __init__(self, target: Target, picks: Picks | None = None, layouts: Layouts | None = None, exact: bool = False):
        self.target, self.picks, self.tuning = target, dict(picks or {}), picks is not None
        self.layouts, self.exact = layouts, exact

    def said(self, spec: KernelSpec) -> dict[str, Any]:
        """Of a layer where picks are given, for its row in reports: its `key`, and the `others` that it might get, by predicted cycles."""
        if not self.tuning or not tunable(spec, self.target):
            return {"key": "", "others": ()}
        texts = tuple(plan.text() for _, plan in candidates(spec, self.target))
        return {"key": key(spec, self.target), "others": texts}

    def __call__(
        self, spec: KernelSpec, micro: bool = True, exact: bool = False
    ) -> tuple[Family | None, Schedule | None, list[Refusal]]:
        """As `kernels.choose`. A pick that is none of the candidates is passed over: it is of another version."""
        exact = exact or self.exact
        family, plan, refusals = choose(spec, self.target, micro, exact)
        wanted = self.picks.get(key(spec, self.target)) if self.picks and plan is not None else None
        if wanted is None or plan is None or plan.text() == wanted:
            return family, plan, refusals
        for other, better in candidates(spec, self.target, exact):
            if better.text() == wanted:
                return other, better, [*refusals, Refusal(plan.rule, f"measured to be slower than {wanted}")]
        return family, plan, refusals

    def settled(
        self, spec: KernelSpec, family: Family, plan: Schedule, exact: bool
    ) -> tuple[Family, Schedule, list[Refusal]]:
        """A choice as it stays, and why another was not taken: nothing but other shapes of the library can change it."""
        if self.layouts is None or not spec.weight_constant:
            return family, plan, []
        exact = exact or self.exact
        known, refusals = self.layouts.known, []
        if known and tunable(spec, self.target) and Layouts.of(spec, family, plan) not in known:
            most = NEAR * family.cost(spec, plan, self.target)
            for other, alike in candidates(spec, self.target, exact, RANKS_ALIKE)[1:]:
                if other.cost(spec, alike, self.target) <= most and Layouts.of(spec, other, alike) in known:
                    refusals = [Refusal(plan.rule, "the weights lie in another order for another shape")]
                    family, plan = other, alike
                    break
        self.layouts.made.add(Layouts.of(spec, family, plan))
        return family, plan, refusals
