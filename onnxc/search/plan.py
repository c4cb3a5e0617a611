"""What may be done to a model, how much noise each of it makes, and the best of it under a cap on the noise.

A candidate cuts channels, then stores the weights that are left: either shared (`quant.cluster`, 1 to 8 bits for each layer,
floats between layers) or as 8-bit integers (`quant.int8`, single layers in float). Cutting changes what storing costs, so that both
are not one linear programme; the cap is divided between them in several ways, a knapsack is solved for each, the second at
the sizes that the first leaves, and the way that costs least is taken.

What the knapsack believes is corrected by what real candidates show: noise = a · (sum of the cuts') + b · (sum of the layers'), a
and b by non-negative least squares of relative errors, in which candidates count by how near their noise is to the one asked for:
repairs make up for nearly all that mild cuts do, and for less of what deep ones do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..passes.base import Pass
from ..passes.registry import make
from .budget import Budget
from .knapsack import choose
from .work import Job, Worker, globbed

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.75)
BITS = (1, 2, 3, 4, 5)
FURTHER = (6, 8)
"""Bits that are not measured: each one more has a quarter of the noise."""
DIVISIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
FLOAT = 32
FORMATS = ("shared", "int8")
PROBED = 0.1
"""The noise, uncorrected, of the first candidates, by which corrections begin."""
PRIOR, NEAR = 0.01, 0.8
"""Weight of the belief that a correction is 1, beside one candidate's; nepers of noise at which a candidate counts 0.6."""


@dataclass(frozen=True)
class Candidate:
    """Passes, and the noise that they are believed to make: of the cuts and of the stored weights, uncorrected."""

    passes: tuple[Pass, ...]
    format: str
    cuts: float
    stored: float

    @property
    def text(self) -> str:
        return ", ".join(map(str, self.passes))


@dataclass
class Options:
    """All noises that were measured: by (unit, ratio), by (layer, bits), by layer in 8-bit integers, and of all of these."""

    channels: dict[tuple[int, float], float] = field(default_factory=dict)
    bits: dict[tuple[str, int], float] = field(default_factory=dict)
    int8: dict[str, float] = field(default_factory=dict)

    def take(self, job: Job, noise: float) -> None:
        """Enter what a job found."""
        if job[0] == "channels":
            self.channels[job[1], job[2]] = noise
        elif job[0] == "bits":
            self.bits[job[1], job[2]] = noise
        elif job[0] == "int8":
            self.int8[job[1]] = noise

    def layer(self, name: str) -> dict[int, float]:
        """bits -> noise of one layer in shared values; nothing for a layer that was not measured."""
        found = {b: self.bits[name, b] for b in BITS if (name, b) in self.bits}
        if found:
            most = max(found)
            found |= {b: found[most] / 4.0 ** (b - most) for b in FURTHER}
        return found


def jobs(local: Worker, formats: tuple[str, ...]) -> list[Job]:
    """Every measurement, the ones that matter most first."""
    found: list[Job] = []
    if "int8" in formats:
        found += [("int8", name) for name in local.stored]
    for ratio in (0.25, 0.5, 0.125, 0.375, 0.75):
        found += [("channels", k, ratio) for k in range(len(local.sweep.units))]
    if "shared" in formats:
        for bits in (3, 2, 4, 1, 5):
            found += [("bits", name, bits) for name in local.stored]
    return found


class Planner:
    """Makes candidates; learns from those that were tried."""

    def __init__(self, local: Worker, options: Options, budget: Budget, given: Mapping[str, float]) -> None:
        self._local, self._options, self._budget, self._given = local, options, budget, given
        self._tried: list[tuple[str, float, float, float]] = []
        self._known: dict[tuple, tuple[dict[str, int], dict[str, int]]] = {}
        self._unit = "macs" if {"macs", "time"} & set(budget.bounds()) else "bytes"
        self._savings = self._alone()

    def _alone(self) -> list[dict[float, float]]:
        """Of each unit, what cutting it alone saves, by ratio."""
        from ..passes.prune.budget import Costing

        sweep = self._local.sweep
        costing = Costing(self._local.clean, sweep.analysis, self._unit, {g.atom for g in sweep.groups})
        whole = costing({})
        return [
            {r: whole - costing(sweep.plan.by_ratio({g.atom: r for g in unit})) for r in RATIOS} for unit in sweep.units
        ]

    def learn(self, candidate: Candidate, noise: float) -> None:
        """Take in the noise that a candidate really has."""
        self._tried.append((candidate.format, candidate.cuts, candidate.stored, noise))

    def corrections(self, kind: str, cap: float) -> tuple[float, float]:
        """By how much noises of cuts and of stored weights are multiplied, for a format and about so much noise."""
        from scipy.optimize import nnls

        rows, right = [[PRIOR, 0.0], [0.0, PRIOR]], [PRIOR, PRIOR]
        for format_, cuts, stored, noise in self._tried:
            if noise > 0 and format_ in (kind, "floats"):
                near = math.exp(-((math.log(noise / cap) / NEAR) ** 2) / 2)
                rows.append([near * cuts / noise, near * stored / noise])
                right.append(near)
        a, b = nnls(np.array(rows), np.array(right))[0]
        return max(float(a), 1e-3), max(float(b), 1e-3)

    def probes(self, formats: tuple[str, ...]) -> list[Candidate]:
        """Candidates that show what cuts alone do, which are repaired where single measurements are not, and what each format
        alone does."""
        cut = self._cut(PROBED)
        cuts = sum(self._options.channels[k, r] for k, r in cut.items())
        found = [Candidate(self._passes("floats", cut, {}), "floats", cuts, 0.0)] if cut else []
        for kind in formats:
            stored, noise, _ = self._stored(kind, self._local.stored, PROBED)
            found.append(Candidate(self._passes(kind, {}, stored), kind, 0.0, noise))
        return found

    def best(self, kind: str, cap: float) -> Candidate:
        """The candidate of a format that costs least with a noise of at most `cap`."""
        a, b = self.corrections(kind, cap)
        found: list[tuple] = []
        for share in DIVISIONS:
            cut = self._cut(cap * share / a)
            cuts = sum(self._options.channels[k, r] for k, r in cut.items())
            sizes, costs = self._costs(cut)
            stored, noise, size = self._stored(kind, sizes, max(cap - a * cuts, 1e-12) / b)
            believed = costs | {"bytes": costs["bytes"] + size - 4 * sum(sizes.values())}
            if kind == "int8":
                believed["peak_bytes"] = believed["peak_bytes"] // 4
            missed = self._budget.misses({k: believed[k] for k in ("bytes", "macs")}, self._given)
            over = sum(value / allowed for value, allowed in missed.values())
            found.append((over, believed["bytes"], len(found), cut, stored, cuts, noise))
        _, _, _, cut, stored, cuts, noise = min(found, key=lambda f: f[:3])
        return Candidate(self._passes(kind, cut, stored), kind, cuts, noise)

    def _cut(self, cap: float) -> dict[int, float]:
        """unit -> ratio, of those that are cut."""
        units = range(len(self._local.sweep.units))
        choices = [[0.0, *(r for r in RATIOS if (k, r) in self._options.channels)] for k in units]
        costs = [[-self._savings[k].get(r, 0.0) for r in rs] for k, rs in zip(units, choices)]
        noises = [[self._options.channels.get((k, r), 0.0) for r in rs] for k, rs in zip(units, choices)]
        picked = choose(costs, noises, cap)
        return {k: rs[j] for k, rs, j in zip(units, choices, picked) if rs[j]}

    def _costs(self, cut: dict[int, float]) -> tuple[dict[str, int], dict[str, int]]:
        key = tuple(sorted(cut.items()))
        if key not in self._known:
            self._known[key] = self._local.cut(cut)
        return self._known[key]

    def _stored(self, kind: str, sizes: Mapping[str, int], cap: float) -> tuple[dict[str, int], float, float]:
        """(layer -> bits, their noise, bytes of all layers)."""
        names = list(sizes)
        options: list[dict[int, tuple[float, float]]] = []
        for name in names:
            float_ = {FLOAT: (4.0 * sizes[name], 0.0)}
            if kind == "int8":
                more = {8: (1.0 * sizes[name], self._options.int8[name])} if name in self._options.int8 else {}
            else:
                noises = self._options.layer(name)
                more = {b: (sizes[name] * b / 8 + 4.0 * 2**b, noise) for b, noise in noises.items()}
                more = {b: pair for b, pair in more.items() if pair[0] < float_[FLOAT][0]}
            options.append(float_ | more)
        costs = [[c for c, _ in o.values()] for o in options]
        each = [[n for _, n in o.values()] for o in options]
        picked = choose(costs, each, cap)
        bits = {name: list(o)[j] for name, o, j in zip(names, options, picked)}
        return bits, sum(n[j] for n, j in zip(each, picked)), sum(c[j] for c, j in zip(costs, picked))

    def _passes(self, kind: str, cut: dict[int, float], stored: dict[str, int]) -> tuple[Pass, ...]:
        passes: list[Pass] = []
        if cut:
            by_name = {globbed(self._local.sweep.units[k][0].name): r for k, r in cut.items()}
            passes.append(make("prune.channels", {"ratio": 0.0, "ratio_by": by_name}))
        passes.append(make("fuse"))
        floats = [globbed(name) for name, bits in stored.items() if bits == FLOAT]
        if len(floats) == len(stored):
            return tuple(passes)
        if kind == "int8":
            passes.append(make("quant.int8", {"skip": floats or None, "bias_correction": True}))
        else:
            usual = max(stored.values(), key=lambda b: (sum(x == b for x in stored.values()) if b != FLOAT else 0, -b))
            by = {globbed(name): 0 if bits == FLOAT else bits for name, bits in stored.items() if bits != usual}
            passes.append(make("quant.cluster", {"bits": usual, "bits_by": by or None, "refit": True}))
        return tuple(passes)
