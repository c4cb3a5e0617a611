"""What a long command tells of its way, on a terminal and in a pipe."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from onnxc.cli import options
from onnxc.passes.base import Context
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline
from tests.passes.quant_helpers import model_of


def clocked(total: int, monkeypatch) -> tuple[options.Steps, list, list[float]]:
    """Steps, what they tell, and the time that they read, which is changed in place."""
    told, now = [], [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    return options.Steps(total, lambda text, share: told.append((text, share))), told, now


def test_the_share_and_the_time_that_is_left(monkeypatch):
    steps, told, now = clocked(2, monkeypatch)
    steps("quant")
    now[0] = 6.0
    steps.within("layer 2 of 4", 0.25)
    steps("pack")
    steps.within("layer 1 of 4", 0.0)
    assert told == [
        ("quant", 0.0), ("quant: layer 2 of 4, about 18.0 s left", 0.125), ("pack", 0.5), ("pack: layer 1 of 4", 0.5),
    ]  # fmt: skip


def test_the_time_that_is_left_of_the_whole(monkeypatch):
    steps, told, now = clocked(1, monkeypatch)
    steps("choosing kernels", 0.0)
    now[0] = 2.0
    steps("linking", 0.8)
    assert told == [("choosing kernels", 0.0), ("linking, about 500 ms left", 0.8)]


def test_another_loop_over_a_step_is_timed_by_itself(monkeypatch):
    steps, told, now = clocked(1, monkeypatch)
    steps("quant")
    now[0] = 60.0
    steps.within("sample 8 of 8", 1.0)
    steps.within("layer 1 of 4", 0.0)
    now[0] = 66.0
    steps.within("layer 3 of 4", 0.5)
    assert [text for text, _ in told][2:] == ["quant: layer 1 of 4", "quant: layer 3 of 4, about 6.00 s left"]


def test_what_tells_nothing_new_is_told_of_again(monkeypatch, capsys):
    monkeypatch.setattr(options, "EVERY", 0.04)
    with options.bar(1, lines=True) as step:
        step("prune.blocks")
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3 and re.fullmatch(r"  0%  prune.blocks, for [\d.]+ ms", said[-1])


def test_a_pipe_gets_a_line_every_ten_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    for lines in (False, True):
        with options.bar(1, lines=lines) as step:
            step("prune")
            for k in range(30):
                now[0] += 1
                step.within(f"layer {k} of 30", k / 30)
        said = capsys.readouterr().err.splitlines()
        assert [line.split(",")[0] for line in said] == (
            [" 30%  prune: layer 9 of 30", " 63%  prune: layer 19 of 30", " 97%  prune: layer 29 of 30"] if lines else []
        )  # fmt: skip


def test_passes_tell_of_layers_and_samples(resnet20_path):
    told: list[tuple[str, float]] = []
    for name in ("quant.int8", "quant.cluster"):
        pipeline = Pipeline([make(name)], data={"image": np.zeros((6, 1, 28, 28), np.float32)})
        pipeline.detail = lambda text, share: told.append((text, share))
        pipeline.transform(resnet20_path)
    assert ("sample 6 of 6", 1.0) in told and any(text.startswith("layer 1 of") for text, _ in told)
    shares = [share for text, share in told if text.startswith("layer")]
    assert shares == sorted(shares) and all(0 <= s <= 1 for _, s in told)


NETWORK = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
    a = Conv <pads = [1,1,1,1]> (x, u) b = Relu(a) c = Conv <pads = [1,1,1,1]> (b, v) d = Add(x, c)
    e = Conv <pads = [1,1,1,1]> (d, u) f = Relu(e) h = Conv <pads = [1,1,1,1]> (f, w) y = Add(d, h) }"""


@pytest.mark.parametrize(
    "text, word", [("prune.obs(rounds=3)", "round 3 of 3"), ("prune.blocks(drop=1)", "branch 2 of 2"),
                   ("prune(ratio=auto, macs=0.9)", "group 1 of 1, a")]
)  # fmt: skip
def test_searches_and_solvers_tell_of_their_way(text, word):
    rng = np.random.default_rng(0)
    model = model_of(NETWORK, **{n: rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for n in "uvw"})
    told: list[str] = []
    pipeline = Pipeline(text, data={"x": rng.normal(size=(5, 4, 6, 6)).astype(np.float32)})
    pipeline.detail = lambda text, share: told.append(text)
    pipeline.transform(model)
    assert word in told and told[0] == "runs on the data" and told[-1] == "its outputs are compared"


def test_only_the_outermost_count_is_told():
    told = []
    ctx = Context(verified=None, progress=lambda text, share: told.append(text))
    for _ in ctx.each([1, 2]):
        list(ctx.each("abc", "part"))
        ctx.seen(1, 2)
    ctx.seen(1, 2)
    assert told == ["layer 1 of 2", "layer 2 of 2", "sample 1 of 2"]
    list(zip([1, 2], ctx.each([3, 4])))
    ctx.seen(2, 2)
    assert told[3:] == ["layer 1 of 2", "layer 2 of 2", "sample 2 of 2"]
