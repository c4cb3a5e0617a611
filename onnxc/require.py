"""What a user requires of a result: `accuracy>=0.92, drop<=1%, snr>=20, bytes<=300k, macs<=0.5, time<=1.0`.

Qualities (a metric of the task, drop, snr, top1) are held after every pass, so that the one that lost them is named;
costs (bytes, params, macs, nodes, time) at the end. What misses is an error: nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .ir.errors import BadOption, VerificationError
from .passes.base import Report

COSTS = ("bytes", "params", "macs", "nodes")
QUALITIES = {"snr": "snr_db", "top1": "top1"}
UNITS = {"": 1.0, "%": 0.01, "k": 1e3, "M": 1e6, "G": 1e9}
_BOUND = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*(%|[kMG]?)\s*", re.ASCII)


@dataclass(frozen=True)
class Bound:
    """`name` at most (or, with `least`, at least) `value`; text: as the user wrote it."""

    name: str
    least: bool
    value: float
    text: str

    def holds(self, found: float) -> bool:
        """Whether a number keeps to it; not a number never does."""
        return found >= self.value if self.least else found <= self.value


def bounds(text: str) -> list[Bound]:
    """The bounds that a text lists. A cost up to 1 is a share of the model's as given. Raises BadOption."""
    found = []
    for part in text.split(","):
        got = _BOUND.fullmatch(part)
        try:
            value = float(got[3]) * UNITS[got[4]] if got else None
        except ValueError:
            value = None
        if got is None or value is None:
            raise BadOption("a requirement cannot be read", found=part.strip() or text,
                            expected='a list like "accuracy>=0.92, drop<=1%, snr>=20, bytes<=300k, macs<=0.5, time<=1.0"')  # fmt: skip
        costs = got[1] in (*COSTS, "time", "drop")
        if costs == (got[2] == ">="):
            if costs or got[1] in QUALITIES or got[1] == "accuracy":
                wanted = "<=" if costs else ">="
                raise BadOption(f"a requirement on {got[1]} goes the other way", expected=wanted, found=part.strip())
        found.append(Bound(got[1], got[2] == ">=", value, part.strip()))
    return found


class Requirements:
    """Bounds, held against one report after the other. given: the metrics of the model as it was given, metric: the one of
    them that `drop` is of."""

    def __init__(self, text: str) -> None:
        self.bounds = bounds(text)
        self.given: Mapping[str, float] = {}
        self.metric = "accuracy"
        self.higher = True

    @property
    def timed(self) -> bool:
        """Whether time is asked for."""
        return any(b.name == "time" for b in self.bounds)

    def take(self, metrics: Mapping[str, float], metric: str, tested: bool = True, higher: bool = True) -> None:
        """The metrics of the model as it was given, before any pass; tested: outputs will be looked at; higher: more of `metric`
        is better. Raises BadOption, VerificationError."""
        self.given, self.metric, self.higher = metrics, metric, higher
        for b in self.bounds:
            if b.name not in COSTS and not tested:
                raise BadOption(f"a requirement on {b.name} needs --check data", found=b.text)
            if b.name in metrics and not b.holds(metrics[b.name]):
                raise VerificationError("the model as given misses a requirement", expected=b.text,
                                        found=f"{metrics[b.name]:.4g}")  # fmt: skip
            if (b.name not in (*COSTS, "time", *QUALITIES, "drop") and b.name not in metrics) or (
                b.name == "drop" and metric not in metrics
            ):
                known = ", ".join((*metrics, *(("drop",) if metrics else ()), *QUALITIES, *COSTS, "time"))
                raise BadOption("a requirement names what was not measured", found=b.text, expected=f"one of {known}",
                                remedy="give --data with labels, or --task to be held to the model as given")  # fmt: skip

    def qualities(self, row: Report) -> None:
        """Hold what a pass left to the bounds on quality. Raises VerificationError, which names the pass."""
        for b in self.bounds:
            if b.name in (*COSTS, "time") or not row.error:
                continue
            self._hold(b, self._found(b, row.error), "after this pass the model misses a requirement")

    def costs(self, row: Report, first: Report) -> None:
        """Hold the last row to the bounds on cost. Raises VerificationError."""
        for b in self.bounds:
            if b.name == "time":
                self._hold(b, row.error.get("time", float("nan")), "the model misses a requirement")
            elif b.name in COSTS:
                now, was = (getattr(cost, b.name) for cost in (row.after, first.before))
                self._hold(b, now / max(was, 1) if b.value <= 1 else now, "the model misses a requirement")

    def _found(self, b: Bound, error: Mapping[str, float]) -> float:
        if b.name == "drop":
            lost = self.given[self.metric] - error.get(self.metric, float("nan"))
            return lost if self.higher else -lost
        return error.get(QUALITIES.get(b.name, b.name), float("nan"))

    def _hold(self, b: Bound, found: float, what: str) -> None:
        if not b.holds(found):
            raise VerificationError(what, expected=b.text, found=f"{found:.4g}" if abs(found) < 1e4 else f"{found:,.0f}",
                                    remedy="ask less of it, or of the requirement; nothing was written")  # fmt: skip
