"""What a long command tells of its way, on a terminal and in a pipe."""

from __future__ import annotations

import numpy as np

from onnxc.cli import options
from onnxc.passes.base import Context
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline


def test_the_share_and_the_time_that_is_left(monkeypatch):
    told, now = [], [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    steps = options.Steps(2, lambda text, share: told.append((text, share)))
    steps("quant")
    now[0] = 6.0
    steps.within("layer 2 of 4", 0.25)
    steps("pack")
    steps.within("layer 1 of 4", 0.0)
    assert told == [
        ("quant", 0.0), ("quant: layer 2 of 4, about 18.0 s left", 0.125), ("pack", 0.5), ("pack: layer 1 of 4", 0.5),
    ]  # fmt: skip


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


def test_only_the_outermost_count_is_told():
    told = []
    ctx = Context(verified=None, progress=lambda text, share: told.append(text))
    for _ in ctx.each([1, 2]):
        list(ctx.each("abc", "part"))
        ctx.seen(1, 2)
    ctx.seen(1, 2)
    assert told == ["layer 1 of 2", "layer 2 of 2", "sample 1 of 2"]
