"""Interleaved timing: order, ratios, clocks. Times come from a clock that the test turns itself."""

import gc
import json

import pytest

from onnxc.ir.errors import BadOption
from onnxc.measure import bench
from onnxc.measure.bench import measure


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a candidate turns it."""

    class Clock:
        now = 0

    monkeypatch.setattr(bench.time, "perf_counter_ns", lambda: Clock.now)
    monkeypatch.setitem(bench.CLOCKS, "wall", lambda: Clock.now)
    return Clock


def taking(clock, nanoseconds):
    def call():
        clock.now += nanoseconds

    return call


def test_ratios_are_to_the_first(clock):
    base, double, half = measure(
        {"base": taking(clock, 4_000_000), "double": taking(clock, 8_000_000), "half": taking(clock, 2_000_000)}
    )
    assert (base.ratio, double.ratio, half.ratio) == pytest.approx((1, 2, 0.5))
    assert base.median == base.best == pytest.approx(0.004)
    assert (double.low, double.high) == pytest.approx((2, 2))
    assert json.loads(json.dumps(double.to_dict()))["name"] == "double"


def test_drift_does_not_move_the_ratio(clock):
    """The machine slows down to a tenth on the way: medians lie, ratios within a round do not."""
    speed = {"now": 1.0}

    def candidate(nanoseconds):
        def call():
            speed["now"] *= 1.02
            clock.now += int(nanoseconds * speed["now"])

        return call

    _, other = measure({"base": candidate(4e6), "other": candidate(8e6)}, rounds=40)
    assert other.ratio == pytest.approx(2, rel=0.03)


def test_short_calls_are_repeated_and_long_ones_are_not(clock):
    short, long = measure({"short": taking(clock, 1000), "long": taking(clock, 50_000_000)}, rounds=3)
    assert short.calls == 2000 and long.calls == 1
    assert short.median == pytest.approx(1e-6)


def test_each_candidate_goes_first_in_turn(clock):
    order = []

    def candidate(name):
        def call():
            order.append(name)
            clock.now += 3_000_000

        return call

    measure({"a": candidate("a"), "b": candidate("b")}, rounds=4, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"


def test_real_clocks_and_the_collector():
    (row,) = measure({"loop": lambda: sum(range(20_000))}, rounds=3, clock="cpu")
    assert 0 < row.best <= row.median < 1
    assert gc.isenabled()

    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure({"fail": fail}, rounds=3)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "candidates, options, said",
    [
        ({}, {}, "nothing to measure"),
        ({"a": int}, {"rounds": 2}, "too few rounds"),
        ({"a": int}, {"clock": "sun"}, "unknown clock, expected wall or cpu, found sun"),
    ],
)
def test_nonsense_is_refused(candidates, options, said):
    with pytest.raises(BadOption, match=said):
        measure(candidates, **options)
