"""Where the time of a network goes: each call of its library beside what this machine can do, and beside ONNX Runtime's kernels.

The model is compiled twice over, as it is shipped and with a clock between its calls. Both run in turns with ONNX Runtime, with and
without its own profile, on the same inputs; times are medians over all runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import temporary
from ..ir.errors import BadOption, OnnxcError, Unsupported, VerificationError
from ..ir.lean import Lean
from ..ir.model import Model
from ..runtime import library
from ..runtime.feeding import Wishes
from ..runtime.laps import TimedLibrary
from ..runtime.ort_profile import OrtNode, OrtProfile
from ..runtime.reference import Session
from .ceiling import Ceiling, ceiling
from .match_ort import beside

if TYPE_CHECKING:
    from ..codegen.door import Optimise

    Arrays = dict[str, np.ndarray]

GENERAL = "general schedule"
ROUNDS, LEAST_SECONDS, MOST_SECONDS = 9, 1.0, 20.0
MADE = {"float32.winograd.f2": 16 / 36, "float32.winograd.f4": 36 / 144}
"""Products that a kernel makes for one of the sum that it stands for."""
RUNS = 3
"""Runs of each candidate in a round: the first after another one finds its caches cold."""


@dataclass(frozen=True)
class LayerTime:
    """One call. `seconds` of a run, `share` of all calls, `rate` multiply-adds in a second (0 where none are counted), `ceiling` the
    share of what the machine can do at most (Winograd by the products that it makes), by `bound` ("multiply-adds" or "bytes").
    `ort_seconds`: ONNX Runtime's kernels for the same nodes, None with a `note` where none can be told. The other fields are those
    of `codegen.layers.CallRow`."""

    number: int
    function: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    family: str
    schedule: str
    spec: str
    macs: int
    bits: tuple[int, int]
    channels: tuple[int, int, int]
    bytes: int
    weight_bytes: int
    seconds: float
    share: float
    rate: float
    ceiling: float
    bound: str
    refused: tuple[str, ...] = ()
    ort_seconds: float | None = None
    ort: tuple[str, ...] = ()
    note: str = ""

    @property
    def general(self) -> bool:
        """Whether no kernel of ours runs it."""
        return self.family == GENERAL

    @property
    def turns(self) -> bool:
        """Whether it changes a layout, for the nodes that it is called by."""
        return self.general and self.function.startswith("transpose") and "Transpose" not in self.ops

    @property
    def label(self) -> str:
        """What it does, in a word or two."""
        ops = " ".join(self.ops) or self.function
        return f"layout for {ops}" if self.turns else ops


@dataclass(frozen=True)
class Profile:
    """`layers` in the order in which they run. `seconds`: of a run of the library as it is shipped, `timed` of the one with clocks;
    `ort_seconds` of ONNX Runtime without its profile. `unmatched`: kernels of ONNX Runtime that stand for no layer. `refused`: why
    the model was not compiled, if it was not; then `unmatched` has all."""

    model: str
    threads: int
    rounds: int
    ceiling: Ceiling
    layers: tuple[LayerTime, ...] = ()
    seconds: float = 0.0
    timed: float = 0.0
    ort_seconds: float | None = None
    unmatched: tuple[OrtNode, ...] = ()
    refused: str = ""

    @property
    def total(self) -> float:
        """Seconds of all layers."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def general(self) -> float:
        """The share of the time that the general schedule takes."""
        return sum(layer.share for layer in self.layers if layer.general)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the sum of all layers and the share of the general schedule."""
        return asdict(self) | {"layer_seconds": self.total, "general_share": self.general}


def profile(
    *paths: str,
    optimise: Optimise | None = None,
    threads: int = 1,
    wishes: Wishes | None = None,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> Profile:
    """The profile of a model file, which is compiled for this machine in a temporary folder, or of a library that was compiled
    with `timed=True` (`--profile`), beside its model where both are given. `optimise`: as for `compile_model`, the same for both.

    Where `compile` refuses the model, that of ONNX Runtime alone. Raises OnnxcError for what is no model, or runs nowhere.
    """
    from ..codegen import compile_model
    from ..pipeline import load, sound
    from .shapes import fixed, settled

    wishes = wishes or Wishes()
    libraries = [path for path in paths if Path(path).is_dir() or Path(path).suffix in (".so", ".a")]
    models = [path for path in paths if path not in libraries]
    if len(libraries) > 1 or len(models) > 1:
        raise BadOption("a profile is of one model, or of a library and its model", found=", ".join(paths))
    if not models:
        return measured(libraries[0], Path(libraries[0]), None, threads=threads, wishes=wishes, optimise=optimise)
    given = load(models[0])
    sound(given)
    model = fixed(given, replace(wishes, shapes={}))
    if libraries:
        return measured(libraries[0], Path(libraries[0]), model, threads=threads, wishes=wishes, optimise=optimise)
    with temporary.folder(Path(tempfile.gettempdir()), "profile") as folder:
        try:
            chosen = settled(model, [dict(wishes.shapes)])
            compile_model(
                model, folder, name="net", shapes=chosen, threads=threads, check="shapes", timed=True,
                optimise=optimise, progress=lambda stage, share: progress(stage, share / 2),
            )  # fmt: skip
        except Unsupported as error:
            return _refused(models[0], model, wishes, threads, str(error))
        progress("timing", 0.5)
        return measured(models[0], folder, model, threads=threads, wishes=wishes, optimise=optimise)


def measured(
    name: str,
    folder: Path,
    model: Model | None,
    *,
    optimise: Optimise | None = None,
    threads: int = 1,
    wishes: Wishes | None = None,
) -> Profile:
    """The profile of a library in `folder` that was compiled with `timed=True`, beside the model that it was compiled of, if there
    is one, by the same `optimise`. Of several shapes that which `wishes` says, else the first."""
    from ..codegen.door import Source
    from ..runtime.draw import random_feeds
    from ..runtime.specs import TensorSpec

    timed, wishes = TimedLibrary(folder, threads), wishes or Wishes()
    plain = library.Library(folder, threads)
    inputs = next((one for one, _ in plain.shapes if _agrees(one, wishes)), plain.inputs)
    shapes = {name: tuple(extents) for name, (extents, _) in inputs.items()}
    lean = None if model is None else Source.of(model, optimise).lean(shapes)
    given = {name: np.asarray(a) for name, a in wishes.arrays.items() if name in inputs}
    drawn = random_feeds({n: TensorSpec(*f) for n, f in inputs.items()}, seed=0)
    accepted = (_feeds(lean, shapes) or drawn) | given
    # with --io int8 the library takes other numbers than the model
    feeds = {n: accepted[n] if accepted[n].dtype == d.dtype else d for n, d in drawn.items()}
    rows = timed.rows(feeds)
    _same(plain.run(feeds), timed.run(feeds))
    laps: list[np.ndarray] = []

    def lap() -> None:
        timed.run(feeds)
        laps.append(timed.laps(len(rows)))

    with temporary.folder(Path(tempfile.gettempdir()), "session") as place:
        candidates: dict[str, Callable[[], object]] = {"plain": lambda: plain.run(feeds), "timed": lap}
        ort = None if lean is None else _sessions(lean, place, threads)
        if ort is not None:
            candidates |= {"ort": lambda: ort[0].run(accepted), "profiled": lambda: ort[1].run(accepted)}
        times, rounds = _in_turns(candidates, threads)
        kernels = ort[1].finish(skip=RUNS) if ort is not None else []
    each = [float(s) for s in np.median(np.array(laps[RUNS:]), axis=0)]
    roof = ceiling()
    ops = {} if lean is None else {node.name: node.op_type for node in lean.proto.graph.node}
    layers = [
        _layer(i, row, s, sum(each), ops, roof, threads) for i, (row, s) in enumerate(zip(rows, each, strict=True))
    ]
    found, unmatched = beside([(layer.nodes, layer.general) for layer in layers], kernels)
    both = tuple(
        replace(layer, ort_seconds=match.seconds, ort=match.kernels, note=match.note if ort is not None else "")
        for layer, match in zip(layers, found)
    )
    return Profile(
        name, threads, rounds, roof, both, times["plain"], times["timed"], times.get("ort"), tuple(unmatched)
    )


def _agrees(inputs: Mapping[str, tuple], wishes: Wishes) -> bool:
    return all(tuple(inputs[name][0]) == shape for name, shape in wishes.shapes.items() if name in inputs)


def _sessions(lean: Lean, place: Path, threads: int) -> tuple[Session, OrtProfile] | None:
    try:
        return Session(lean, threads=threads), OrtProfile(lean, place, threads)
    except VerificationError:
        return None


def _feeds(lean: Lean | None, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    """Inputs that the model accepts in these shapes, if it is there and takes any."""
    from ..runtime.feeding import feed

    if lean is None:
        return None
    try:
        return next(iter(feed(lean.whole(), None, Wishes(shapes, samples="none"), samples=1).batches(1)))
    except OnnxcError:
        return None


def _same(a: Arrays, b: Arrays) -> None:
    for name, array in a.items():
        if array.tobytes() != b[name].tobytes():
            raise VerificationError(
                "the timed library computes something else", tensor=name, remedy="report it with the model"
            )


def _in_turns(candidates: Mapping[str, Callable[[], object]], threads: int) -> tuple[dict[str, float], int]:
    """Median seconds of a call of each, and rounds: some runs of each in turn, for a second at least. On one thread they are processor
    time: what else runs on the machine interrupts long runs, where layers are too short for that."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start, rounds = time.perf_counter(), 0
    while True:
        for name, call in candidates.items():
            for _ in range(RUNS):
                begun = clock()
                call()
                times[name].append(clock() - begun)
        rounds += 1
        spent = time.perf_counter() - start
        if (rounds > ROUNDS and spent > LEAST_SECONDS) or (spent > MOST_SECONDS and rounds > 3):
            return {name: statistics.median(found[RUNS:]) for name, found in times.items()}, rounds - 1


def _layer(
    number: int,
    row: Mapping[str, Any],
    seconds: float,
    whole: float,
    ops: Mapping[str, str],
    roof: Ceiling,
    threads: int,
) -> LayerTime:
    kept: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in row.items()
        if key not in ("cycles", "key", "others")
    }
    peak = roof.macs(kept["bits"]) if row["macs"] else None
    moved = row["bytes"] / roof.read(row["bytes"]) + row["weight_bytes"] / roof.read(row["weight_bytes"])
    counted = row["macs"] * MADE.get(row["family"], 1.0) / peak if peak else 0.0
    least = max(moved, counted) / threads
    return LayerTime(
        number=number + 1, ops=tuple(dict.fromkeys(ops[name] for name in row["nodes"] if name in ops)), seconds=seconds,
        share=seconds / whole if whole else 0.0, rate=row["macs"] / seconds if seconds else 0.0,
        ceiling=least / seconds if seconds else 0.0, bound="multiply-adds" if counted > moved else "bytes", **kept,
    )  # fmt: skip


def _refused(path: str, model: Model, wishes: Wishes, threads: int, why: str) -> Profile:
    """ONNX Runtime's times alone."""
    from ..runtime.feeding import feed

    proto = model.to_proto()
    feeds = next(iter(feed(proto, None, wishes, samples=1).batches(1)))
    with temporary.folder(Path(tempfile.gettempdir()), "session") as place:
        ort, session = OrtProfile(Lean(proto, {}), place, threads), Session(proto, threads=threads)
        times, rounds = _in_turns({"ort": lambda: session.run(feeds), "profiled": lambda: ort.run(feeds)}, threads)
        kernels = ort.finish(skip=RUNS)
    return Profile(path, threads, rounds, ceiling(), ort_seconds=times["ort"], unmatched=tuple(kernels), refused=why)


def longest(found: Profile, most: int = 5) -> Sequence[LayerTime]:
    """The layers that take longest."""
    return sorted(found.layers, key=lambda layer: -layer.seconds)[:most]
