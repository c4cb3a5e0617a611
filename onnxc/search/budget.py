"""What a user asks of a search: bounds on costs and on what is lost; and how far a candidate is from them.

    flash 256k, ram 96k, bytes 0.25, macs 0.5, time 0.5, drop 1%

Costs up to 1 are shares of the model's as given; flash and ram are absolute, of the compiled library. k is 1,000.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ..ir.errors import BadOption
from ..require import UNITS

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*(%|[kMG]?)\s*", re.ASCII)
DROP = 0.01
"""Loss of the metric that is borne where nothing else is asked for."""


def number(text: str | float | None, option: str) -> float | None:
    """`256k`, `0.25` or `1%` as a number. Raises BadOption."""
    if text is None or isinstance(text, (int, float)):
        return text
    got = _NUMBER.fullmatch(text)
    if got is None:
        raise BadOption(f"--{option} does not fit", expected="a number like 0.25, 1% or 256k", found=text)
    return float(got[1]) * 10.0 ** int(got[2] or 0) * UNITS[got[3]]


@dataclass(frozen=True)
class Budget:
    """Bounds; None: none. bytes, macs, time: shares up to 1, else absolute (time only as a share); drop: in the metric's unit."""

    bytes: float | None = None
    macs: float | None = None
    time: float | None = None
    flash: float | None = None
    ram: float | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not (value >= 0 if f.name == "drop" else value > 0):
                raise BadOption(f"--{f.name} does not fit", expected="above 0", found=value)
        if self.time is not None and self.time > 2:
            raise BadOption("--time is a share of the time as given", expected="0.5, say", found=self.time)

    def settled(self) -> Budget:
        """The same, with a bound on the drop where there is none on anything."""
        return self if any(getattr(self, f.name) is not None for f in fields(self)) else Budget(drop=DROP)

    def bounds(self) -> dict[str, float]:
        """The bounds that there are."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def allowed(self, given: Mapping[str, float]) -> dict[str, float]:
        """The bounds, absolute but for time. given: the costs of the model as given."""
        return {
            name: bound * given[name] if name in ("bytes", "macs") and bound <= 1 else bound
            for name, bound in self.bounds().items()
        }

    def misses(self, found: Mapping[str, float], given: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """Of each bound that `found` misses (found, allowed), absolute but for time; what was not measured is not missed."""
        bounds = {name: most for name, most in self.allowed(given).items() if name in found}
        return {name: (found[name], most) for name, most in bounds.items() if not found[name] <= most * (1 + 1e-9)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.bounds().items())


def drop(metric: str, higher: bool, given: Mapping[str, float], found: Mapping[str, float]) -> float:
    """What is lost of a metric; below 0 where it has grown."""
    lost = given[metric] - found.get(metric, float("nan"))
    return lost if higher else -lost


def doubt(given: Sequence[float], found: Sequence[float]) -> float:
    """The standard error of a drop, by the jackknife over folds (Quenouille 1949, Tukey 1958); 0 where nothing was left out.

    given, found: the metric of both models with each fold left out in turn. As both see the same samples, what is hard for both is
    no doubt: models that are right and wrong alike have an error of 0. With d the differences and k folds
    sqrt((k - 1) / k * sum((d - mean(d))^2)), which for a mean over samples is the error of the mean of paired differences."""
    return jackknife([a - b for a, b in zip(given, found, strict=False)])


def jackknife(without: Sequence[float]) -> float:
    """The standard error of a number from what it is with each fold left out; 0 of fewer than two."""
    k = len(without)
    if k < 2:
        return 0.0
    mean = math.fsum(without) / k
    return math.sqrt((k - 1) / k * math.fsum((d - mean) ** 2 for d in without))
