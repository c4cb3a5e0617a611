"""`compile --tune`: the few best kernels of the cost model for each layer, measured within the network, and kept where they are faster.

All layers take their first other kernel at once, then all their second: each such library is timed call by call (`--profile`) in turns
with the predicted one, with the weights, the operands and the state of the caches that the network has. What is clearly faster
is picked; the library of all picks has to be faster as a whole, or nothing is.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..ir import temporary
from ..ir.errors import Unsupported
from ..runtime import laps, library
from .learnt import Learnt

if TYPE_CHECKING:
    from ..ir.model import Model

MOST = 5
"""Kernels that are tried beside the predicted one."""
LEAST_ROUNDS, ROUND_SECONDS = 7, 1.5
RUNS = 3
Build = Callable[[Path, Mapping[str, str], bool], object]
"""(folder, picks, timed): compiles the model there."""


@dataclass(frozen=True)
class Tuned:
    """`picks` for `compile_model`. `rows`: (nodes, predicted kernel, picked kernel, times the predicted one's time) of layers that changed.
    `ratio`: of the whole library's time, None where it was not measured now. `measured`: kernels timed now, `left`: those that there was
    no time for. `paid`: whether the picks are used."""

    picks: dict[str, str]
    rows: tuple[tuple[str, str, str, float], ...]
    ratio: float | None
    measured: int
    left: int
    paid: bool = True


class Layer(TypedDict):
    """Calls that are one kernel: `others` are what it might have, the predicted one first."""

    nodes: list[str]
    others: list[str]


def tuned(
    model: Model,
    seconds: float,
    learnt: Learnt,
    options: Mapping[str, Any],
    *,
    data: object = None,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> Tuned:
    """`tune` for a model that `compile_model` compiles with these options, and is not compared with ONNX Runtime each time."""
    from ..codegen import compile_model
    from ..codegen.door import Source

    def build(folder: Path, picks: Mapping[str, str], timed: bool) -> None:
        compile_model(model, folder, name="net", check="shapes", data=data, timed=timed, picks=picks, **options)

    told = {name: value for name, value in options.items() if name != "optimise"}
    digest = hashlib.sha256(f"{Source.of(model, None).digest()} {told!r}".encode()).hexdigest()[:24]
    return tune(build, seconds, learnt, digest, threads=options["threads"], progress=progress)


def tune(
    build: Build,
    seconds: float,
    learnt: Learnt,
    model: str,
    *,
    threads: int = 1,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> Tuned:
    """Measures for at most `seconds`, less what is in `learnt`, where each measurement is saved at once; 0 measures nothing.

    `build` compiles the model, which `model` is a digest of, with all options. Raises Unsupported where no layer has another kernel that
    might be tried.
    """
    end = time.monotonic() + seconds
    with temporary.folder(Path(tempfile.gettempdir()), "tune") as folder:
        bench = _Bench(build, folder, threads)
        known = learnt.models.get(model) or learnt.models.setdefault(model, {"layers": bench.layers()})
        layers: dict[str, Layer] = known["layers"]
        if not layers:
            raise Unsupported("no layer has another kernel to try", remedy="leave out --tune")
        measured = 0
        while seconds and (trial := _trial(layers, learnt)):
            bench.predicted()
            if time.monotonic() + 1.5 * bench.took > end:
                break
            progress(f"{len(trial)} kernels", min(1.0, 1 - (end - time.monotonic()) / seconds))
            found = bench.ratios(trial, end)
            for key, ratio in found.items():
                learnt.add(key, trial[key], ratio)
            measured += len(found)
            learnt.save()
        best = learnt.picks().items()
        picks = {key: kernel for key, kernel in best if key in layers and kernel in layers[key]["others"]}
        whole = None
        if seconds and picks and known.get("picks") != picks:
            whole = bench.whole(picks)
            known |= {"picks": picks, "paid": whole < 1}
        learnt.save()
    paid = bool(picks) and (known.get("picks") != picks or known["paid"])
    left = sum(len(_untried(layer, learnt.layers.get(key, {}))) for key, layer in layers.items())
    rows = tuple(
        (", ".join(layers[key]["nodes"]), layers[key]["others"][0], kernel, learnt.layers[key][kernel])
        for key, kernel in picks.items()
    )
    return Tuned(picks if paid else {}, rows, whole, measured, left, paid)


def _untried(layer: Layer, tried: Mapping[str, float]) -> list[str]:
    return [kernel for kernel in layer["others"][1:] if kernel not in tried]


def _trial(layers: Mapping[str, Layer], learnt: Learnt) -> dict[str, str]:
    """For each layer the next kernel that was never measured."""
    next_ones = {key: _untried(layer, learnt.layers.get(key, {})) for key, layer in layers.items()}
    return {key: kernels[0] for key, kernels in next_ones.items() if kernels}


class _Bench:
    """Libraries of a model in a folder, built when they are needed. `took`: seconds of the first."""

    def __init__(self, build: Build, folder: Path, threads: int):
        self.build, self.folder, self.threads = build, folder, threads
        self.took = 0.0
        self._first: laps.TimedLibrary | None = None
        self._trials = 0

    def predicted(self) -> laps.TimedLibrary:
        """The library of the predicted kernels."""
        if self._first is None:
            start = time.monotonic()
            self.build(self.folder / "predicted", {}, True)
            self.took = time.monotonic() - start
            self._first = laps.TimedLibrary(self.folder / "predicted", self.threads)
        return self._first

    def layers(self) -> dict[str, Layer]:
        """The layers that have other kernels, by their keys."""
        found: dict[str, Layer] = {}
        for row in (row for program in self.predicted().calls for row in program):
            if row["key"] and len(row["others"]) > 1:
                layer = found.setdefault(row["key"], Layer(nodes=[], others=list(row["others"][: MOST + 1])))
                layer["nodes"] += [name for name in row["nodes"][:1] if name not in layer["nodes"]]
        return found

    def ratios(self, trial: Mapping[str, str], end: float) -> dict[str, float]:
        """Key -> the time of its kernel in `trial` by that of the predicted one: the median over rounds, or where that is below 1 the upper
        quartile, so that luck is no gain. What is too short for the clock counts as 1."""
        self._trials += 1
        place = self.folder / f"trial{self._trials}"
        self.build(place, trial, True)
        first, other = self.predicted(), laps.TimedLibrary(place, self.threads)
        feeds, end = _feeds(first), min(end, time.monotonic() + ROUND_SECONDS)
        times: dict[str, list[float]] = {key: [] for key in trial}
        rounds = 0
        while rounds < LEAST_ROUNDS or time.monotonic() < end:
            rounds += 1
            one: dict[str, float] = {}
            two: dict[str, float] = {}
            for timed, found in ((first, one), (other, two))[:: 1 if rounds % 2 else -1]:
                found.update(_by_key(timed, feeds))
            for key, ratios in times.items():
                if one.get(key) and key in two:
                    ratios.append(two[key] / one[key])
        made = {}
        for key, ratios in times.items():
            _, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) >= LEAST_ROUNDS else (1.0, 1.0, 1.0)
            made[key] = high if middle < 1 else middle
        return made

    def whole(self, picks: Mapping[str, str]) -> float:
        """The time of the library of all picks by that of the predicted one: on one thread processor time, which other work on the machine
        cannot take from one of the two alone."""
        from .bench import measure

        self.predicted()
        self.build(self.folder / "picked", picks, False)
        names = ("predicted", "picked")
        libraries = {name: library.Library(self.folder / name, self.threads) for name in names}
        feeds = _feeds(libraries["predicted"])

        def run(one: library.Library) -> Callable[[], object]:
            return lambda: [one.run(inputs) for inputs in feeds]

        calls = {name: run(one) for name, one in libraries.items()}
        return measure(calls, rounds=31, clock="cpu" if self.threads == 1 else "wall")[1].ratio


def _feeds(one: library.Library) -> list[dict[str, np.ndarray]]:
    """Inputs for each shape of a library."""
    from ..runtime.draw import random_feeds
    from ..runtime.specs import TensorSpec

    return [random_feeds({n: TensorSpec(*f) for n, f in inputs.items()}, seed=0) for inputs, _ in one.shapes]


def _by_key(timed: laps.TimedLibrary, feeds: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Seconds of a run in all calls of each key, the least of a few runs, for all shapes."""
    total: dict[str, float] = {}
    for inputs in feeds:
        rows = timed.rows(inputs)
        each = np.min([_lap(timed, inputs, len(rows)) for _ in range(RUNS)], axis=0)
        for row, seconds in zip(rows, each, strict=True):
            if row["key"]:
                total[row["key"]] = total.get(row["key"], 0.0) + float(seconds)
    return total


def _lap(timed: laps.TimedLibrary, inputs: dict[str, np.ndarray], calls: int) -> np.ndarray:
    timed.run(inputs)
    return timed.laps(calls)
