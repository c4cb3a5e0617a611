"""What a search found: the points that nothing beats, the one that keeps to the budget, and how far the nearest is from it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from ..passes.base import Pass
from .budget import Budget, doubt, drop, jackknife

MOST = 10
"""Points that are kept."""
SURE = 2.0
"""Standard errors above what was measured that a loss has at most."""
COSTS = ("bytes", "macs", "params", "nodes", "peak_bytes", "flash", "ram", "time")


@dataclass
class Point:
    """A candidate that was made and measured. text: its passes; result: costs, metrics by the samples that choose (`metrics`) and by
    those that judge (`held`), `without`: the first of both with each fold of the samples left out, `agreement`: the first where those
    that choose are held to what the model as given says; the model."""

    text: str
    passes: tuple[Pass, ...]
    format: str
    result: dict[str, Any]

    def proto(self) -> onnx.ModelProto:
        """The model."""
        return onnx.ModelProto.FromString(self.bytes())

    def bytes(self) -> bytes:
        """The model's file."""
        return base64.b64decode(self.result["model"])

    def costs(self) -> dict[str, float]:
        """Costs by name, of those that were measured."""
        return {name: self.result[name] for name in COSTS if name in self.result}


@dataclass
class Found:
    """given: costs and metrics of the model as given. points: by falling bytes. chosen: index of the one that keeps to the
    budget, else of the nearest; None where nothing was tried. misses: of the nearest, (found, allowed) by bound. curves:
    (bits, SNR of the outputs in dB) of each layer alone."""

    given: dict[str, Any]
    points: list[Point]
    chosen: int | None
    misses: dict[str, tuple[float, float]]
    budget: Budget
    metric: str
    higher: bool
    tried: int = 0
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def best(self) -> Point | None:
        """The chosen point, or the nearest."""
        return None if self.chosen is None else self.points[self.chosen]

    def drop(self, point: Point, part: str = "held") -> float:
        """What a point loses of the metric, by the samples that judge, or by those that choose (`metrics`)."""
        return drop(self.metric, self.higher, self.given[part], point.result[part])

    def doubt(self, point: Point, part: str = "held") -> float:
        """The standard error of `drop`."""
        return doubted(self.given, point.result, part)

    def timed(self, times: Callable[[list[dict[str, Any]]], list[float]]) -> None:
        """Measure the time of the points that have none, by what makes times of their results."""
        left = [p for p in self.points if "time" not in p.result]
        if left:
            for point, ratio in zip(left, times([p.result for p in left]), strict=True):
                point.result["time"] = ratio

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [
            {"passes": p.text, "format": p.format, **p.costs(), "snr_db": p.result["snr_db"], "metrics": p.result["held"],
             "chosen_by": p.result["metrics"], "drop": self.drop(p), "drop_error": self.doubt(p), "chosen": k == self.chosen,
             **({"refused": p.result["refused"]} if "refused" in p.result else {}), "steps": p.result["passes"]}
            for k, p in enumerate(self.points)
        ]  # fmt: skip
        return {
            "given": {
                k: v for k, v in self.given.items() if k not in ("held", "metrics", "without", "noise", "agreement")
            }
            | {"metrics": self.given["held"]},
            "budget": self.budget.bounds(),
            "metric": self.metric,
            "met": not self.misses,
            "misses": {name: {"found": f, "allowed": a} for name, (f, a) in self.misses.items()},
            "tried": self.tried,
            "points": rows,
            "notes": self.notes,
            "curves": {name: [list(pair) for pair in points] for name, points in self.curves.items()},
        }


def points(given: dict[str, Any], made: Sequence[Point], budget: Budget, metric: str, higher: bool) -> Found:
    """The best of the candidates that were made."""
    found = Found(given, [], None, {}, budget, metric, higher, tried=len(made))

    of = figures(given, made, metric, higher)
    sound = [p for p in made if p.result["bytes"] <= given["bytes"] and math.isfinite(found.drop(p, "metrics"))]
    if not sound:
        return found
    missed = {p.text: budget.misses(of[p.text], given) for p in sound}
    kept = [p for p in sound if not missed[p.text]]
    if kept and budget.drop is not None:
        best = min(kept, key=lambda p: (p.result["bytes"], of[p.text]["drop"]))
    elif kept:
        best = min(kept, key=lambda p: (of[p.text]["drop"], p.result["bytes"]))
    else:
        best = min(sound, key=lambda p: _distance(missed[p.text]))
        found.misses = missed[best.text]
    front = [p for p in sound if p is best or not any(_beats(of[q.text], of[p.text]) for q in sound)]
    others = sorted((p for p in front if p is not best), key=lambda p: of[p.text]["drop"])[: MOST - 1]
    found.points = sorted([best, *others], key=lambda p: (-p.result["bytes"], p.text))
    found.chosen = found.points.index(best)
    for number, p in enumerate(found.points, 1):
        if "refused" in p.result:
            found.notes.append(f"point {number} has no library: {p.result['refused']}")
    held = budget.drop
    if held is not None and not found.misses and found.drop(best) > held * (1 + 1e-9):
        lost, chosen = (f"{found.drop(best, p):.4g} ± {found.doubt(best, p):.2g}" for p in ("held", "metrics"))
        found.notes.append(
            f"by the samples held apart the drop is {lost}, above {held:g}: by those that chose it was {chosen}; more data tell better"
        )
    return found


def figures(given: Mapping[str, Any], made: Sequence[Point], metric: str, higher: bool) -> dict[str, dict[str, float]]:
    """text -> costs and `drop` of each candidate, with its standard error: the smallest of many candidates that seem to keep to a bound
    is often one that was lucky. It is what a candidate loses by the samples that choose, or smoothed over all, whichever is more:
    smoothed by how many answers change, or by noise, whichever says less, as one of both tells which cuts and codes are alike.
    Smoothed it counts as far as SURE standard errors of its own leave it possible: not every metric falls as these rise."""
    lost = {p.text: drop(metric, higher, given["metrics"], p.result["metrics"]) for p in made}
    orders = {p.text: (_changed(given, p.result, metric, higher), p.result["noise"]) for p in made}
    left = _left_out(given, made, higher)
    lent = dict.fromkeys(lost, math.inf)
    for which in (0, 1):
        by = {text: order[which] for text, order in orders.items()}
        whole, others = smoothed(by, lost), [smoothed(by, losses) for losses in left]
        for text, loss in whole.items():
            lent[text] = min(lent[text], loss + jackknife([other.get(text, loss) for other in others]))
    found = {}
    for p in made:
        own, error = lost[p.text], doubted(given, p.result, "metrics")
        most = min(lent[p.text], own + SURE * error) if error else lent[p.text]
        found[p.text] = p.costs() | {"drop": max(own + error, most)}
    return found


def _left_out(given: Mapping[str, Any], made: Sequence[Point], higher: bool) -> list[dict[str, float]]:
    """What each candidate loses with each fold of the samples left out, by its text."""
    before, sign = given["without"]["metrics"], 1 if higher else -1
    rows = {p.text: p.result["without"]["metrics"] for p in made}
    return [
        {text: sign * (whole - row[k]) for text, row in rows.items() if k < len(row)} for k, whole in enumerate(before)
    ]


def doubted(given: Mapping[str, Any], result: Mapping[str, Any], part: str) -> float:
    """The standard error of what a candidate loses by the samples that choose (`metrics`), or by those that judge (`held`)."""
    return doubt(given["without"][part], result["without"][part])


def _changed(given: Mapping[str, Any], result: Mapping[str, Any], metric: str, higher: bool) -> float:
    """How much a candidate answers otherwise than the model as given: what it loses of the metric where that one's answers stand for the
    labels, else the noise. More samples change than are lost, so that they tell candidates apart with less doubt, and of whatever kind
    these are."""
    before, after = (row.get("agreement") for row in (given, result))
    if before is None or after is None:
        return result["noise"]
    lost = drop(metric, higher, {metric: before}, {metric: after})
    return lost if math.isfinite(lost) else math.inf


def smoothed(by: Mapping[str, float], lost: Mapping[str, float]) -> dict[str, float]:
    """name -> loss, from the noise or the changes of each, and its loss as measured: the losses that never fall as these rise and are
    nearest to those measured (isotonic regression). So candidates lend each other their samples."""
    from scipy.optimize import isotonic_regression

    names = sorted((name for name, loss in lost.items() if math.isfinite(loss)), key=lambda n: (by[n], n))
    if not names:
        return {}
    return dict(zip(names, map(float, isotonic_regression([lost[n] for n in names]).x), strict=True))


def _distance(misses: dict[str, tuple[float, float]]) -> float:
    """How far from a budget: orders of magnitude over all bounds."""
    return sum(math.log(max(f, 1e-12) / max(a, 1e-12)) for f, a in misses.values())


def _beats(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    keys = [k for k in ("bytes", "macs", "drop", "time", "flash", "ram") if k in a and k in b]
    return all(a[k] <= b[k] for k in keys) and any(a[k] < b[k] for k in keys)
