"""The search: what runs when, until when, and what it leaves.

    what serves most models  ->  noises of all single options (measured once, kept)  ->  probes  ->  rounds of knapsacks and candidates

Where a search has so many minutes, half of what is left after the first candidates goes to measuring, most important things first; what
is under way when time is up is left alone.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import onnx

from ..ir.errors import BadData, BadOption
from ..runtime.tasks import is_higher_better, is_share, misfit
from .boards import times
from .budget import Budget
from .doubts import doubts, unstored
from .executor import Executor, opened
from .found import COSTS, Found, Point, figures, points
from .options import BITS, Options, jobs
from .plan import TRAINED, Candidate, Planner
from .state import State
from .work import Job, Worker

LOW, HIGH = 1e-4, 0.6
"""Noises of the outputs between which candidates are looked for: 40 dB to 2 dB."""
ROUNDS = 3
STEPS = 8
"""How often candidates that keep to the budget are made smaller still, layer by layer."""
PARTS = (1.0, 0.5, 0.2, 0.05)
"""Shares of what a bit less everywhere would save."""
CUTS = 2
"""Units of channels that are cut a step further, one at a time."""
BESIDE = 1.1
NEARLY, APART, FEW = 2.0, 2.0, 3
"""Candidates that lose up to so many times what may be lost are made milder, where all that keep to the budget are so many times as
large; so many of them at each step."""
BEYOND = 2.0
"""Bytes, by those that there may be, of the largest candidates that are made smaller where there is no bound on the drop."""
MEASURING = 0.5
"""Share of the time after which nothing more is measured."""
ENDING, TIMING = 0.05, 0.4
"""Share of the time that is kept for timing and writing what was found; share of that for timing."""
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
    begun: float = field(default_factory=time.monotonic)
    boards: tuple[str, ...] = ()
    tried: dict[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._said: list[str] = []
        self.remarks: list[str] = []

    def plan(self) -> Estimate:
        """What would be tried, with times by one job of each kind."""
        wanted = jobs(self.local, self.formats, self.budget)
        rows = []
        for kind in dict.fromkeys(job[0] for job in wanted):
            same = [job for job in wanted if job[0] == kind]
            first = same[0]
            begun = time.perf_counter()
            if first not in self.state:
                self.state.put(first, self.local.do(first))
            rows.append((kind, len(same), time.perf_counter() - begun))
        slowest = max((each for _, _, each in rows), default=1.0)
        rows.append(("candidate", 2 * ROUNDS + 3 * len(self.formats) + STEPS, 12 * slowest))
        return Estimate(tuple(rows))

    @property
    def end(self) -> float | None:
        """When the search has to be over, by the monotonic clock."""
        return None if self.minutes is None else self.begun + 60 * self.minutes

    def run(self) -> Found:
        """Search; whatever ends it early, `partial` tells what there is by then."""
        self._until = None if self.end is None else self.end - ENDING * 60 * (self.minutes or 0)
        with opened(self.executor, self.local) as executor:
            self.given = next((found for _, found in self._do(executor, [("given",)])), None) or self._late()
            if not self.given["metrics"]:
                judge = self.local.judges[1]
                raise misfit(self.local.task, judge.outputs[0], judge.labels[0])
            if not math.isfinite(value := self.given["metrics"][self.metric]):
                raise BadData(f"{self.metric} of the model as given is {value}, to which nothing compares",
                              remedy="give other labels, or another --metric")  # fmt: skip
            if self.budget.drop is not None and self.budget.drop >= 1 and is_share(self.metric):
                raise BadOption(
                    f"--drop is of {self.metric}, which is a share",
                    expected="below 1, or 5% say",
                    found=self.budget.drop,
                )
            self.remarks += doubts(self.local.judges[1], self.given["metrics"], self.budget.drop)
            self._warm()
            if not self.local.stored:
                self.remarks.append(unstored(self.local.fused))
            planner = Planner(self.local, Options(), self.budget, self.given)
            self._try(executor, planner, [("", 0.0, c) for c in planner.first(self.formats)], 0.0)
            self._measure(executor, planner.options)
            self._rounds(executor, planner)
            self._descend(executor, planner)
        self.state.save()
        found = self.partial()
        if self.is_late:
            found.notes.append(f"the search ended after {self.minutes:g} minutes; the same command goes on from here")
        until = math.inf if self.end is None else self._now + TIMING * max(self.end - self._now, 0)
        found.timed(lambda results: self._times(results, until))
        if self.boards and found.points:
            found.notes.append(f"times are those of the libraries on {', '.join(self.boards)}")
        found.notes += self._said
        return found

    def _late(self) -> dict:
        raise BadData(
            f"{self.minutes:g} minutes are too few to look at the model as given", remedy="give more --minutes"
        )

    def _warm(self) -> None:
        """What all threads share is made by one."""
        _ = (
            self.local.joined,
            self.local.judges,
            self.local.sweep.judge,
            self.local.branches,
            self.local.few,
            self.local.whole,
        )

    def _do(self, executor: Executor, wanted: list[Job], until: float | None = None) -> Iterator[tuple[Job, Any]]:
        """Each job with what came of it, in order; what is known is not done again, what there is no time for is left out."""
        until = self._until if until is None else until
        arriving = executor.map([job for job in wanted if job not in self.state], until)
        for job in wanted:
            while job not in self.state:
                done = next(arriving, None)
                if done is None:
                    break
                self.state.put(*done)
            if job in self.state:
                yield job, self.state[job]

    def _measure(self, executor: Executor, options: Options) -> None:
        until = None if self._until is None else self._now + MEASURING * max(self._until - self._now, 0)
        wanted, from_ = jobs(self.local, self.formats, self.budget), self._now
        for k, (job, found) in enumerate(self._do(executor, wanted, until)):
            options.take(job, found)
            share = 0.1 + 0.5 * (k + 1) / len(wanted)
            self._tell(f"{WHAT[job[0]]} {k + 1} of {len(wanted)}", share, from_, 0.1)

    def _rounds(self, executor: Executor, planner: Planner) -> None:
        spans = dict.fromkeys(self.formats, (LOW, HIGH))
        for turn in range(1 + ROUNDS):
            if self.is_late:
                return
            asked: list[tuple[str, float, Candidate]] = []
            if turn == 0:
                asked = [(c.format, 0.0, c) for c in planner.probes(self.formats)]
            for kind in self.formats if turn else ():
                first = kind == self.formats[0]
                for cap in _between(*spans[kind], 2 if first else 1, turn) if first or turn == 2 else ():
                    if not self.is_late:
                        asked.append((kind, cap, planner.best(kind, cap)))
            done = self._try(executor, planner, asked, 0.6 + 0.4 * turn / (1 + ROUNDS))
            lost = self._lost()
            for kind, cap, candidate in asked if turn else ():
                if candidate.text in done:
                    found = done[candidate.text]
                    bold = candidate.text in lost and self._bold(found, lost[candidate.text])
                    noise = math.sqrt(cap * max(found.get("noise", cap), 1e-9))
                    spans[kind] = _narrowed(spans[kind], noise, bold)

    def _descend(self, executor: Executor, planner: Planner) -> None:
        """Lower the bits of what keeps to the budget as long as that does: what noises add up to says little of some networks' classes.
        Where that ends with what is twice as large as some that lose a little too much, these become milder. Without a bound on the
        drop, the bits of what has too many bytes are lowered, as long as that comes nearer."""
        starts: list[Candidate] = []
        milder: set[str] = set()
        for _ in range(STEPS if {"drop", "bytes"} & set(self.budget.bounds()) else 0):
            before, starts = starts, self._starts()
            nearly = self._nearly(milder) if starts == before else []
            if self.is_late or (starts == before and not nearly):
                break
            milder |= {c.text for c in nearly}
            wanted = [planner.lowered(start, part) for start in starts for part in PARTS]
            wanted += [c for start in starts[:1] for c in planner.narrower(start, CUTS)]
            wanted += [c for start in starts for c in planner.traded(start)]
            wanted += [c for start in nearly for c in planner.milder(start)]
            asked = [("", 0.0, c) for c in wanted if c is not None and c.text not in self.tried]
            if asked:
                self._try(executor, planner, asked, 1.0)

    def _starts(self) -> list[Candidate]:
        """Of the candidates that keep to the budget the smallest; the smallest that cuts nothing; and the one that loses least among
        those that are at most `BESIDE` times as large: what it has to spare may be worth more than it is larger by."""
        made = self._made()
        of = figures(self.given, made, self.metric, self.higher)
        if self.budget.drop is None:
            return self._too_large(made, of)
        kept = sorted(
            (p for p in made if not self.budget.misses(of[p.text], self.given)),
            key=lambda p: (p.result["bytes"], p.text),
        )
        if not kept:
            return []
        most = BESIDE * kept[0].result["bytes"]
        near = [p for p in kept if p.result["bytes"] <= most]
        ahead = len(self.local.head) + len(self.local.joined)
        plain = [p for p in kept if self.tried[p.text].ahead <= ahead]
        chosen = [kept[0], *plain[:1], min(near, key=lambda p: of[p.text]["drop"])]
        return [self.tried[text] for text in dict.fromkeys(p.text for p in chosen)]

    def _nearly(self, but: Set[str]) -> list[Candidate]:
        """Of the candidates but those named that lose up to `NEARLY` times what may be lost, and miss nothing else, the few that lose
        least, where all that keep to the budget are `APART` times as large."""
        if self.budget.drop is None:
            return []
        made = self._made()
        of = figures(self.given, made, self.metric, self.higher)
        misses = {p.text: set(self.budget.misses(of[p.text], self.given)) for p in made}
        least = min((p.result["bytes"] for p in made if not misses[p.text]), default=math.inf)
        near = (
            p for p in made if misses[p.text] == {"drop"} and of[p.text]["drop"] <= NEARLY * self.budget.drop
            and APART * p.result["bytes"] <= least and p.text not in but
        )  # fmt: skip
        chosen = sorted(near, key=lambda p: (of[p.text]["drop"], p.result["bytes"], p.text))[:FEW]
        return [self.tried[p.text] for p in chosen]

    def _too_large(self, made: list[Point], of: dict[str, dict[str, float]]) -> list[Candidate]:
        """Of the candidates that have too many bytes, and miss nothing else, the smallest and the one that loses least; and of those
        nearly as small as the smallest the one that loses least."""
        bound = self.budget.allowed(self.given)["bytes"]
        over = sorted(
            (
                p
                for p in made
                if set(self.budget.misses(of[p.text], self.given)) == {"bytes"} and p.result["bytes"] <= BEYOND * bound
            ),
            key=lambda p: (p.result["bytes"], p.text),
        )
        if not over:
            return []
        near = [p for p in over if p.result["bytes"] <= BESIDE * over[0].result["bytes"]]
        chosen = [over[0], *(min(some, key=lambda p: of[p.text]["drop"]) for some in (over, near))]
        return [self.tried[text] for text in dict.fromkeys(p.text for p in chosen)]

    def _try(
        self, executor: Executor, planner: Planner, asked: list[tuple[str, float, Candidate]], share: float
    ) -> dict[str, dict]:
        """Make and measure candidates; what came of each, by its text. One that a pass refuses is left out of what was tried."""
        texts = list(dict.fromkeys(c.text for _, _, c in asked))
        done: dict[str, dict] = {}
        self._tell(f"making {len(texts)} candidate{'s' * (len(texts) != 1)}", share, self.begun)
        for job, found in self._do(executor, [("recipe", text) for text in texts]):
            done[job[1]] = found
            if "failed" in found:
                continue
            self._tell(f"candidate {len(self.tried) + 1}", share + 0.1 * len(done) / len(texts), self.begun)
            for _, _, candidate in asked:
                if candidate.text == job[1] and candidate.text not in self.tried:
                    planner.learn(candidate, found)
                    self.tried[candidate.text] = candidate
        self._clock({text: found for text, found in done.items() if "failed" not in found})
        return done

    def _clock(self, made: dict[str, dict]) -> None:
        """Measure the times of candidates, where that is asked for."""
        if self.budget.time is None:
            return
        new = [text for text in made if self._timing(text) not in self.state]
        for text, took in zip(new, self._times([made[text] for text in new]) if new else [], strict=True):
            self.state.put(self._timing(text), took)
        for text, found in made.items():
            found["time"] = self.state[self._timing(text)]

    def _timing(self, text: str) -> Job:
        return ("time", text, *self.boards)

    def _times(self, results: list[dict], until: float = math.inf) -> list[float]:
        """Times by that of the model as given: in ONNX Runtime, or of the libraries on boards where there are some."""
        if not self.boards:
            return self.local.time([onnx.ModelProto.FromString(base64.b64decode(r["model"])) for r in results], until)
        if ("library",) not in self.state:
            self.state.put(("library",), self.local.do(("library",)))
        given = self.state[("library",)]
        if "library" not in given:
            raise BadOption("--remote: the model as given has no library to compare with", found=given["refused"])
        return times(self.boards, given, results, self.local.one, self._said.append)

    def _lost(self) -> dict[str, float]:
        """What each candidate may lose of the metric, by those that choose, smoothed over all."""
        return {text: of["drop"] for text, of in figures(self.given, self._made(), self.metric, self.higher).items()}

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
        return is_higher_better(self.metric, self.local.task)

    @property
    def _now(self) -> float:
        return time.monotonic()

    @property
    def is_late(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._until is not None and self._now >= self._until

    def _tell(self, what: str, share: float, since: float, from_: float = 0.0) -> None:
        """Show what is done, and the time left: as all of it goes on as the part from `from_` to `share` went since `since`."""
        spent = self._now - since
        left = spent / max(share - from_, 1e-6) * (1 - share) if from_ < share < 1 else math.inf
        end = math.inf if self._until is None else max(self._until - self._now, 0)
        most = "at most" if math.isinf(left) else "about"
        left = min(left, end)
        self.progress(what if math.isinf(left) else f"{what}; {most} {_minutes(left)} left", min(share, 1.0))

    def _made(self) -> list[Point]:
        """The candidates that were made, with their times where these were measured."""
        made = [Point(c.text, c.passes, c.format, self.state["recipe", text]) for text, c in self.tried.items()]
        for point in made:
            if self._timing(point.text) in self.state:
                point.result["time"] = self.state[self._timing(point.text)]
        return made

    def partial(self) -> Found:
        """What has been found by now, without timing anything."""
        found = points(self.given, self._made(), self.budget, self.metric, self.higher)
        found.notes += self.remarks
        for name in self.local.stored:
            noises = [(b, self.state["bits", name, b]) for b in BITS if ("bits", name, b) in self.state]
            found.curves[name] = [(b, -10 * math.log10(max(noise, 1e-12))) for b, noise in noises]
        return found


WHAT = {
    "int8": "8-bit layers",
    "channels": "cuts of channels",
    "bits": "shared weights",
    "rank": "low ranks",
    "branch": "branches left out",
    "resolution": "smaller images",
    "peak": "memory of channels",
    "candidate": "candidates",
}
"""Measurements in words."""


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


def trained(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats, with those that are trained ahead."""
    return (*(f + TRAINED for f in formats[:1]), *formats)
