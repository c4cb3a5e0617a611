"""What may be done to a model, and how much noise each of it makes alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .budget import Budget
from .steps import Cut
from .work import SMALL, WORST, Job, Worker

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.75)
BITS = (1, 2, 3, 4, 5)
FURTHER = (6, 7, 8)
"""Bits that are not measured: each one more has a quarter of the noise."""
CODES = (-8, -7, -6, -5)
"""Bits of a code for a run of weights (`quant.product`), below 0 to tell them from bits of an index for each weight."""
CODED = (-8, -6)
"""Codes that are measured: of those between and beyond each bit more has so much less noise as these have on average."""
ENERGIES = (0.97, 0.9, 0.75)
SIDES = (0.75, 0.5)
"""Of an image, by the old side."""
PIXELS = ("macs", "time", "ram")
"""Bounds that smaller images serve."""
FORMATS = ("shared", "int8")


@dataclass
class Options:
    """What was measured: noise by (unit, ratio), (layer, bits), layer in 8-bit integers; noise and savings of other cuts; the share of
    memory that half of each unit takes."""

    channels: dict[tuple[int, float], float] = field(default_factory=dict)
    bits: dict[tuple[str, int], float] = field(default_factory=dict)
    int8: dict[str, float] = field(default_factory=dict)
    others: dict[Cut, dict[float, dict[str, float]]] = field(default_factory=dict)
    peaks: dict[int, float] = field(default_factory=dict)

    def take(self, job: Job, found: Any) -> None:
        """Enter what a job found."""
        kind = job[0]
        if kind == "channels":
            self.channels[job[1], job[2]] = found
        elif kind == "bits":
            self.bits[job[1], job[2]] = found
        elif kind == "int8":
            self.int8[job[1]] = found
        elif kind == "peak":
            self.peaks[job[1]] = found
        else:
            name, value = {"rank": job[1:], "branch": (*job[1:], 1.0), "resolution": ("", *job[1:])}[kind]
            self.others.setdefault((kind, name), {})[value] = found

    def layer(self, name: str) -> dict[int, float]:
        """bits -> noise of one layer in shared values, codes of runs below 0; nothing for a layer that was not measured. A factor
        of a layer makes as much as the layer itself."""
        found = {b: self.bits[name, b] for b in BITS if (name, b) in self.bits}
        if found:
            most = max(found)
            found |= {b: found[most] / 4.0 ** (b - most) for b in FURTHER}
        more, less = (self.bits.get((name, b), WORST) for b in CODED)
        if more > 0 and less < WORST:
            by = (less / more) ** (1 / (CODED[1] - CODED[0]))
            found |= {b: more * by ** (b - CODED[0]) for b in CODES}
        return found


def jobs(local: Worker, formats: tuple[str, ...], budget: Budget) -> list[Job]:
    """Every measurement, the ones that matter most first."""
    found: list[Job] = []
    bounds, units = set(budget.bounds()), range(len(local.sweep.units))
    stored = {f.partition("+")[0] for f in formats}
    if "int8" in stored:
        found += [("int8", name) for name in local.products]
    if "ram" in bounds:
        found += [("peak", k) for k in units]
    if bounds & set(PIXELS):
        found += [("resolution", side) for side in SIDES]
    found += [("channels", k, 0.25) for k in units]
    if "shared" in stored:
        found += [("bits", name, 3) for name in local.stored]
    found += [("channels", k, 0.5) for k in units]
    if "shared" in stored:
        found += [("bits", name, 2) for name in local.stored]
    found += [("branch", name) for name in local.branches]
    whole = sum(local.stored.values())
    large = [name for name, size in local.stored.items() if size >= SMALL * whole]
    found += [("rank", name, energy) for energy in ENERGIES for name in large if name in local.factored]
    if "shared" in stored:
        found += [("bits", name, bits) for bits in CODED for name in large if name in local.runs]
    for ratio in (0.125, 0.375, 0.75):
        found += [("channels", k, ratio) for k in units]
    if "shared" in stored:
        found += [("bits", name, bits) for bits in (4, 1, 5) for name in local.stored]
    return found
