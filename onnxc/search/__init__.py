"""`auto`: one budget in, the best recipe out.

    model, data, budget  ->  noises of all single options (measured once, kept)  ->  knapsacks  ->  six to nine real candidates,
    each round wiser than the last  ->  the best that keeps to the budget, beside the others that nothing beats

The data are cut into three parts by the seed: what passes see, what chooses, and what judges. No number of the last part has been
looked at when the choice is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.digest import digest
from ..ir.errors import BadData, BadOption
from ..ir.files import load
from ..pipeline import sound
from ..runtime.feeding import Wishes, feed
from ..runtime.reference import Runner
from ..runtime.split import split
from ..runtime.tasks import find_task
from .budget import Budget, drop
from .executor import opened
from .found import COSTS, Found, Point, points, smoothed
from .plan import BITS, FORMATS, Candidate, Options, Planner, jobs
from .state import State
from .work import Job, Spec, Worker

if TYPE_CHECKING:
    from ..ir.model import Model

SHARES = (2, 4, 2)
"""Eighths of the samples that passes see, that choose, that judge."""
LOW, HIGH = 1e-4, 0.6
"""Noises of the outputs between which candidates are looked for: 40 dB to 2 dB."""
ROUNDS = 3
Progress = Callable[[str, float], None]
"""progress(what is done, share of the whole that is behind)."""


@dataclass(frozen=True)
class Estimate:
    """What would be measured: (what, how many, seconds by one thread)."""

    rows: tuple[tuple[str, int, float], ...]

    @property
    def seconds(self) -> float:
        return sum(n * each for _, n, each in self.rows)


@dataclass
class Search:
    """A search that is set up: `plan` says what it would do, `run` does it. See `auto`."""

    local: Worker
    budget: Budget
    state: State
    formats: tuple[str, ...]
    executor: str
    minutes: float | None
    progress: Progress
    tried: dict[str, Candidate] = field(default_factory=dict)

    def plan(self) -> Estimate:
        """What would be tried, with times by one job of each kind."""
        wanted = jobs(self.local, self.formats)
        rows = []
        for kind in dict.fromkeys(job[0] for job in wanted):
            same = [job for job in wanted if job[0] == kind]
            first = same[0]
            begun = time.perf_counter()
            if first not in self.state:
                self.state.put(first, self.local.do(first))
            rows.append((kind, len(same), time.perf_counter() - begun))
        slowest = max((each for _, _, each in rows), default=1.0)
        rows.append(("candidate", 2 * ROUNDS + 2 * len(self.formats), 12 * slowest))
        return Estimate(tuple(rows))

    def run(self) -> Found:
        """Search; whatever ends it early, `found` of what there is by then is told by `partial`."""
        self._deadline = None if self.minutes is None else time.monotonic() + 60 * self.minutes
        self._begun = time.monotonic()
        with opened(self.executor, self.local) as executor:
            self.given = next(self._do(executor, [("given",)]))[1]
            if not self.given["metrics"]:
                raise BadData(
                    "the outputs cannot be judged by these data", remedy="give labels, or --task and --metric"
                )
            self._warm()
            options = self._measure(executor)
            self._rounds(executor, options)
        self.state.save()
        found = self.partial()
        found.timed(self.local)
        return found

    def _warm(self) -> None:
        """What all threads share is made by one."""
        _ = self.local.judges, self.local.sweep.judge, self.local.stored

    def _do(self, executor: Any, wanted: list[Job]) -> Any:
        """Each job with what came of it, in order; what is known is not done again."""
        missing = executor.map([job for job in wanted if job not in self.state])
        for job in wanted:
            if job not in self.state:
                self.state.put(job, next(missing))
            yield job, self.state[job]

    def _measure(self, executor: Any) -> Options:
        options, wanted = Options(), jobs(self.local, self.formats)
        for k, (job, noise) in enumerate(self._do(executor, wanted)):
            options.take(job, noise)
            self._tell(f"{job[0]} of {job[1]}", 0.6 * (k + 1) / len(wanted))
            if self._late(0.6):
                break
        return options

    def _rounds(self, executor: Any, options: Options) -> None:
        planner = Planner(self.local, options, self.budget, self.given)
        spans = dict.fromkeys(self.formats, (LOW, HIGH))
        for turn in range(1 + ROUNDS):
            if turn and self._late(1.0):
                break
            asked: list[tuple[str, float, Candidate]] = []
            if turn == 0:
                asked = [(c.format, 0.0, c) for c in planner.probes(self.formats)]
            for kind in self.formats if turn else ():
                first = kind == self.formats[0]
                for cap in _between(*spans[kind], 2 if first else 1, turn) if first or turn == 2 else ():
                    asked.append((kind, cap, planner.best(kind, cap)))
            texts = list(dict.fromkeys(c.text for _, _, c in asked))
            done = {}
            for k, (job, found) in enumerate(self._do(executor, [("recipe", text) for text in texts])):
                done[job[1]] = self._clocked(job[1], found)
                self._tell(
                    f"candidate {len(self.tried) + k + 1}", 0.6 + 0.4 * (turn + (k + 1) / len(texts)) / (1 + ROUNDS)
                )
            for _, _, candidate in asked:
                if candidate.text not in self.tried:
                    planner.learn(candidate, done[candidate.text]["noise"])
                self.tried[candidate.text] = candidate
            lost = self._lost()
            for kind, cap, candidate in asked if turn else ():
                found = done[candidate.text]
                bold = self._bold(found, lost[candidate.text])
                spans[kind] = _narrowed(spans[kind], math.sqrt(cap * max(found["noise"], 1e-9)), bold)

    def _clocked(self, text: str, found: dict) -> dict:
        """With its time, where that is asked for."""
        if self.budget.time is None:
            return found
        if ("time", text) not in self.state:
            self.state.put(("time", text), self.local.time([Point(text, (), "", found).proto()])[0])
        found["time"] = self.state["time", text]
        return found

    def _lost(self) -> dict[str, float]:
        """What each candidate loses of the metric, by those that choose, smoothed over all."""
        seen = {text: self.state["recipe", text] for text in self.tried}
        of = (self.metric, self.higher, self.given["metrics"])
        return smoothed({text: (found["noise"], drop(*of, found["metrics"])) for text, found in seen.items()})

    def _bold(self, found: dict, lost: float) -> bool:
        """Whether more noise should be tried than this candidate has: with a bound on the drop, while it holds; without one,
        while costs are missed."""
        costs = {k: found[k] for k in COSTS if k in found}
        misses = self.budget.misses(costs | {"drop": lost}, self.given)
        if self.budget.drop is not None:
            return "drop" not in misses
        return bool(misses)

    @property
    def metric(self) -> str:
        """The metric by which candidates are judged."""
        return next(iter(self.given["metrics"]))

    @property
    def higher(self) -> bool:
        from ..runtime.tasks import is_higher_better

        return is_higher_better(self.metric, self.local.task)

    def _late(self, share: float) -> bool:
        return self._deadline is not None and time.monotonic() > self._begun + share * (self._deadline - self._begun)

    def _tell(self, what: str, share: float) -> None:
        spent = time.monotonic() - self._begun
        left = spent / max(share, 1e-6) * (1 - share)
        if self._deadline is not None:
            left = min(left, max(self._deadline - time.monotonic(), 0))
        self.progress(f"{what}; about {_minutes(left)} left", share)

    def partial(self) -> Found:
        """What has been found by now, without timing anything."""
        made = [Point(c.text, c.passes, c.format, self.state["recipe", text]) for text, c in self.tried.items()]
        for point in made:
            if ("time", point.text) in self.state:
                point.result["time"] = self.state["time", point.text]
        found = points(self.given, made, self.budget, self.metric, self.higher)
        for name in self.local.stored:
            noises = [(b, self.state["bits", name, b]) for b in BITS if ("bits", name, b) in self.state]
            found.curves[name] = [(b, -10 * math.log10(max(noise, 1e-12))) for b, noise in noises]
        return found


def _between(low: float, high: float, count: int, turn: int) -> list[float]:
    """Noises within a span, in equal steps of dB; the first round begins where most models still work."""
    if turn == 1:
        return [0.025, 0.1][:count]
    return [low * (high / low) ** ((k + 1) / (count + 1)) for k in range(count)]


def _narrowed(span: tuple[float, float], cap: float, bold: bool) -> tuple[float, float]:
    low, high = span
    return (max(low, cap), high) if bold else (low, min(high, cap))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def auto(
    model: object, data: object, *, budget: Budget | None = None, task: str | None = None, metric: str | None = None,
    decode: str | None = None, target: str | None = None, minutes: float | None = None, seed: int = 0,
    executor: str = "threads", formats: tuple[str, ...] | None = None, folder: str | Path | None = None,
    wishes: Wishes | None = None, progress: Progress | None = None,
) -> Search:  # fmt: skip
    """A search for the smallest model within `budget` (a drop of 0.01 of the metric where nothing is asked for).

    model: whatever `onnxc.load` takes; data: whatever `open_data` takes, with labels, or such that the model as given can stand
    in for them. folder: where what is measured is kept, and gone on from. Raises OnnxcError.
    """
    given: Model = load(model)
    sound(given.copy())
    if data is None:
        raise BadOption("a search needs data", remedy="give --data: candidates are judged by it")
    proto = given.to_proto()
    opened_data = feed(proto, data, wishes, seed=seed, runner=Runner(optimise=False))
    first, second, third = split(opened_data, SHARES, seed)
    found_task = find_task(task, metric, decode)
    if found_task is None and not first.labelled:
        task = "classification" if _has_classes(given) else "embeddings"
    wanted = (budget or Budget()).settled()
    if target is None and (wanted.flash is not None or wanted.ram is not None):
        raise BadOption("--flash and --ram are of a compiled library", remedy="give --target")
    if formats is None:
        formats = ("int8",) if target is not None or wanted.time is not None else FORMATS
    spec = Spec(proto.SerializeToString(deterministic=True), (first, second, third), task, metric, decode, target, seed)
    head = {
        "seed": seed,
        "target": target,
        "task": ", ".join(map(str, (task, metric, decode))),
        "model": digest(proto),
        "data": first.digest()[:16] + third.digest()[:16],
    }
    place = None if folder is None else Path(folder) / "search.json"
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    return Search(
        Worker(spec), wanted, State(place, head), formats, executor, minutes, progress or (lambda text, share: None)
    )


def _has_classes(model: Model) -> bool:
    """Whether an output has the form of scores [samples, classes]."""
    analysis = sound(model.copy()).analysis
    shapes = [analysis.shape(t.name) for t in model.outputs]
    return any(shape is not None and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1 for shape in shapes)


__all__ = ["Budget", "Estimate", "Found", "Point", "Search", "auto"]
