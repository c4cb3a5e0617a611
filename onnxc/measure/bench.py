"""Interleaved timing: on a shared machine only ratios within one run mean anything.

Every round times each candidate once, in an order that turns from round to round, so that drift hits all of them alike.
The ratio is the median over rounds of the candidate's time by the base's time in the same round.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from onnxc.ir.errors import BadOption

CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
# One timing lasts at least this long, so that the clock's grain does not count.
MIN_NANOSECONDS = 2_000_000


@dataclass(frozen=True)
class Row:
    """One candidate's times, in seconds per call.

    `ratio` is time by the first candidate's time (below 1: faster), `low` and `high` its quartiles over rounds;
    `threads` is the number the candidate was made for.
    """

    name: str
    threads: int
    median: float
    best: float
    ratio: float
    low: float
    high: float
    rounds: int
    calls: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    warmup: int = 2,
    clock: str = "wall",
    threads: int = 1,
    progress: Callable[[str, float], None] = lambda text, share: None,
) -> list[Row]:
    """Time the callables against each other; the first is the base of the ratios.

    A candidate with a method `seconds_per_call(calls)` times itself, as one in an emulator must: its start is no part of
    a call. `clock` "cpu" counts the time of all threads of this process.
    `progress` is told of each round. Raises `BadOption` for fewer than 3 `rounds`.
    """
    if not candidates:
        raise BadOption("nothing to measure")
    if rounds < 3 or warmup < 1:
        raise BadOption("too few rounds", expected="3 rounds and 1 for warming up", found=f"{rounds} and {warmup}")
    if clock not in CLOCKS:
        raise BadOption("unknown clock", expected=" or ".join(CLOCKS), found=clock)
    now = CLOCKS[clock]
    names = list(candidates)
    calls = {name: _warm_up(candidates[name], warmup) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}", turn / rounds)
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                times[name].append(_time(candidates[name], calls[name], now))
    finally:
        if collecting:
            gc.enable()
    return [_row(name, threads, times[name], times[names[0]], calls[name]) for name in names]


def _warm_up(call: Callable[[], object], warmup: int) -> int:
    """Run it, and return how many calls make one timing long enough."""
    fastest = min(_time(call, 1, time.perf_counter_ns) for _ in range(warmup)) * 1e9
    return max(1, round(MIN_NANOSECONDS / max(fastest, 1.0)))


def _time(call: Callable[[], object], calls: int, now: Callable[[], int]) -> float:
    own = getattr(call, "seconds_per_call", None)
    if own is not None:
        return own(calls)
    start = now()
    for _ in range(calls):
        call()
    return (now() - start) / calls / 1e9


def _row(name: str, threads: int, times: list[float], base: list[float], calls: int) -> Row:
    # A clock too coarse for the base yields 0: then there is no ratio to speak of, and 1e-9 keeps it finite.
    ratios = [max(mine, 1e-9) / max(other, 1e-9) for mine, other in zip(times, base)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return Row(name, threads, statistics.median(times), min(times), ratio, low, high, len(times), calls)
