"""What the bodies of a model are fed on its data: branches what they capture, loops round after round what they made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from ..ir.bodies import Body
from ..ir.graph import STANDARD
from ..ir.model import CAPTURED, Model
from .base import Context, Feeds
from .layers.capture import Probe

SAMPLES = 32
ROUNDS = 256
"""Rounds of a loop that are looked at for each sample."""
BYTES = 256 * 2**20


@dataclass
class Within:
    """Feeds of one body; `batches` gives each as it came, whatever size is asked for."""

    feeds: list[Feeds]
    name: str = "the model's own data"
    samples: int | None = field(init=False)

    def __post_init__(self):
        self.samples = len(self.feeds)

    def batches(self, size: int = 1, limit: int | None = None) -> Iterator[Feeds]:
        yield from self.feeds


def data_within(model: Model, body: Body, ctx: Context) -> Within:
    """What `body` is fed by `model` on the data of `ctx`: at most SAMPLES samples and BYTES bytes."""
    node = body.node
    given = node.inputs[: len(node.inputs) - len(node.attrs[CAPTURED])]
    passed = {name: t for name, t in body.passed.items() if isinstance(t, gs.Variable)}
    outer = {t.name for t in (*given, *passed.values()) if isinstance(t, gs.Variable) and t.name}
    found: list[Feeds] = []
    held = 0
    for k, batch in enumerate(_tensors(model, ctx, sorted(outer))):
        values = [t.values if isinstance(t, gs.Constant) else batch.get(t.name) for t in given]
        captured = {name: batch[t.name] for name, t in passed.items()}
        for feeds in _rounds(body, values, captured, ctx):
            found.append(feeds)
            held += sum(a.nbytes for a in feeds.values())
        if k + 1 >= SAMPLES or held > BYTES:
            break
    return Within(found)


def _tensors(model: Model, ctx: Context, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """The named tensors, inputs among them, for one sample after the other."""
    return map(Probe(ctx, model, names), ctx.batches(1))


def _rounds(body: Body, given: list, captured: Feeds, ctx: Context) -> Iterator[Feeds]:
    node = body.node
    if node.op == "If" and node.domain in STANDARD:
        if bool(np.reshape(given[0], -1)[0]) == (body.key == "then_branch"):
            yield dict(captured)
        return
    names = [t.name for t in body.model.inputs][: len(body.model.inputs) - len(captured)]
    if ctx.runner is None or node.op not in ("Loop", "Scan") or node.domain not in STANDARD:
        return  # how others run their bodies is not known here
    run = ctx.runner.prepare(body.model.lean())
    outputs = [t.name for t in body.model.outputs]
    if node.op == "Loop":
        state = given[2:]
        trips = ROUNDS if given[0] is None else min(ROUNDS, int(np.reshape(given[0], -1)[0]))
        go_on = True if given[1] is None else bool(np.reshape(given[1], -1)[0])
        for trip in range(trips):
            if not go_on:
                return
            feeds = dict(zip(names, [np.array(trip, np.int64), np.array(True), *state])) | dict(captured)
            yield feeds
            made = run(feeds)
            go_on = bool(np.reshape(made[outputs[0]], -1)[0])
            state = [made[n] for n in outputs[1 : 1 + len(state)]]
        return
    count = int(node.attrs.get("num_scan_inputs", 0))
    axes = node.attrs.get("scan_input_axes") or [0] * count
    back = node.attrs.get("scan_input_directions") or node.attrs.get("directions") or [0] * count
    if body.model.opset < 9:  # a batch axis ahead of everything, lengths in front of the states
        if given[0] is not None:
            return
        for items in zip(*given[1:], strict=True):
            yield from _scanned(list(items), names, captured, axes, back, run, outputs)
        return
    yield from _scanned(given, names, captured, axes, back, run, outputs)


def _scanned(given: list, names, captured: Feeds, axes, back, run, outputs) -> Iterator[Feeds]:
    """What a Scan feeds its body, element after element."""
    state, scanned = given[: len(given) - len(axes)], given[len(given) - len(axes) :]
    length = scanned[0].shape[axes[0]]
    for trip in range(min(ROUNDS, length)):
        items = [
            np.take(a, length - 1 - trip if b else trip, axis) for a, axis, b in zip(scanned, axes, back, strict=True)
        ]
        feeds = dict(zip(names, [*state, *items])) | dict(captured)
        yield feeds
        made = run(feeds)
        state = [made[n] for n in outputs[: len(state)]]
