"""What models cost and are worth, beside a stored baseline: what has got worse fails.

b.json   {"form": "onnxc baseline 1", "models": {"net.onnx": {"bytes": ..., "macs": ..., "metrics": {"accuracy": ...}}}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..ir.bounded import read_json
from ..ir.cost import cost
from ..ir.errors import BadData
from ..ir.escape import json_text
from ..ir.files import load
from ..ir.output import write_whole
from ..pipeline import at_usual_shapes, sound
from ..report import RISE, finite
from ..runtime.evaluate import Judge, Task
from ..runtime.feeding import Wishes, feed
from ..runtime.reference import Runner, Session
from ..runtime.tasks import is_higher_better, misfit

FORM = "onnxc baseline 1"
COSTS = ("bytes", "params", "macs", "peak_bytes")
MOST = 1 << 20
UNITS = ("mae",)
"""Metrics that have the unit of the labels."""


@dataclass(frozen=True)
class Line:
    """One figure of one model. was: None where the baseline lacks it; worse: by more than is allowed."""

    model: str
    what: str
    was: float | None
    now: float | None
    worse: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def figures(source: object, data: object = None, *, task: Task | None = None, time: bool = False, seed: int = 0,
            wishes: Wishes | None = None) -> dict[str, Any]:  # fmt: skip
    """Costs, metrics on all of the data (none without labels), and with `time` the best time of a call in seconds: ONNX Runtime, one
    sample, one thread."""
    model = load(source).copy()
    proto = model.to_proto()
    found: dict[str, Any] = {}
    verified = None
    if data is not None or time:
        fed = feed(proto, data, wishes, seed=seed, runner=Runner(optimise=False))
        model.shapes = fed.shapes()
        verified = sound(model)
        if data is not None:
            judge = Judge(Runner(optimise=False), fed, proto, MOST, task)
            score = judge.score(judge.outputs)
            found |= {"samples": judge.samples, "metrics": score.values()}
            if fed.labelled and not found["metrics"]:
                raise misfit(task, judge.outputs[0], judge.labels[0])
            found["lower"] = [n for n in found["metrics"] if not is_higher_better(n, score.task)]
        if time:
            from .bench import measure

            session, feeds = (
                Session(proto, redraw=False),
                {k: a for k, a in next(iter(fed.batches(1))).items() if k != "labels"},
            )
            found["time"] = measure({"model": lambda: session.run(feeds)}, rounds=21)[0].best
    costs = cost(model, verified or at_usual_shapes(model, wishes, sound)).to_dict()
    return {name: costs[name] for name in COSTS} | found


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The models of a baseline. Raises BadData."""
    try:
        found = read_json(file)
        if found["form"] != FORM:
            raise KeyError(f"form {FORM}")
        return {str(name): dict(row) for name, row in found["models"].items()}
    except FileNotFoundError:
        raise BadData(f"there is no baseline {file}", remedy="write one with --write") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(f"{file} holds no baseline: {error}", remedy="write one with --write") from None


def write(file: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a baseline, whole or not at all."""
    write_whole(
        file, [(json_text(finite({"form": FORM, "models": {k: dict(v) for k, v in models.items()}})) + "\n").encode()]
    )


def compare(model: str, was: Mapping[str, Any], now: Mapping[str, Any], *, drop: float, slower: float) -> list[Line]:
    """Every figure of both. drop: of a metric that is borne, in its unit, or of those of a unit of the labels (a mean error) the share;
    slower: share of the time."""
    lines = []
    for name in (*COSTS, "time"):
        if name in now or name in was:
            a, b = was.get(name), now.get(name)
            share = slower if name == "time" else RISE
            lines.append(Line(model, name, a, b, a is not None and b is not None and b > a * (1 + share)))
    metrics = [dict(side.get("metrics") or {}) for side in (was, now)]
    lower = set(now.get("lower") or was.get("lower") or ())
    for name in dict.fromkeys([*metrics[0], *metrics[1]]):
        a, b = (side.get(name) for side in metrics)
        lost = 0.0 if a is None else math.inf if b is None else (b - a if name in lower else a - b)
        # what can no longer be measured has got worse too
        borne = drop * abs(a) if name in UNITS and a else drop
        lines.append(Line(model, name, a, b, not lost <= borne))
    return lines
