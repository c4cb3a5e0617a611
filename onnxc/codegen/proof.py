"""The proof of a library: it is run beside ONNX Runtime before it is put to its place, for every shape that it takes.

A library of this machine runs in a process of its own, with the kernels for each of its instruction sets that the machine
has; one of another machine in its emulator. Where there is no emulator, or a
network takes too long in one, the same lowering built for this machine stands for it. Where outputs differ, the first node
whose tensor does is searched by halves: the model up to a node is compiled and compared like the whole, as long as that takes
no more than SEARCH_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxc.codegen.agreement import MOST_DRIFT, Arrays, Mismatch, Reference, make_feeds, others
from onnxc.codegen.prefix import kinds_of, needed, until
from onnxc.codegen.target import Target, runs_here
from onnxc.ir import temporary
from onnxc.ir.errors import MissingTool, OnnxcError, Unsupported, VerificationError
from onnxc.ir.lean import Lean
from onnxc.runtime.apart import run_apart
from onnxc.runtime.emulate import Emulated
from onnxc.runtime.library import read_manifest, shapes_of

EMULATED_MACS = 3e8  # more take minutes in an emulator
SEARCH_SECONDS = 60.0
HERE = "this machine"
ENOUGH = 3
"""Drawn inputs whose results must agree, of a model whose roundings decide those of others."""
Build = Callable[[onnx.ModelProto, Sequence[Mapping[str, tuple[int, ...]]], str | None, Path], None]
"""(model, shapes, target or None for that of the library, folder): compiles into the folder, without a proof."""


@dataclass(frozen=True)
class Proof:
    """What has been compared. `error` is the largest difference of a float output as a share of its largest value, `steps` that
    of an integer output, `differing` the share of integers that differ; `where` is the machine, `samples` runs of it, `aside` the
    drawn inputs that could tell nothing, as ONNX Runtime's own result hangs on a rounding of them."""

    where: str = ""
    samples: int = 0
    error: float = 0.0
    steps: int = 0
    differing: float = 0.0
    synthetic: bool = True
    aside: int = 0

    def to_dict(self) -> dict:
        """The proof as JSON types."""
        return dict(vars(self))


def prove(
    folder: Path, model: onnx.ModelProto | Lean, build: Build, targets: Sequence[Target], data=None, seed: int = 0
) -> Proof:
    """Compares the library in `folder` with ONNX Runtime on `data`, a sample a shape; None: seeded random inputs.

    `targets` are the rows of its instruction sets, in its order.

    Raises VerificationError where it differs or ends its process, naming the first node whose tensor does; Unsupported where
    ONNX Runtime does not run the model; BadData where the data do not fit.
    """
    manifest = read_manifest(folder)
    shapes = [[(name, shape, dtype) for name, (shape, dtype) in inputs.items()] for inputs, _ in shapes_of(manifest)]
    feeds = make_feeds(model.proto if isinstance(model, Lean) else model, shapes, data, seed)
    reference = Reference(model, feeds)
    subject = _Subject(folder, manifest, build, targets)
    made: list[Mismatch] = []
    samples = aside = 0
    for machine in subject.machines:
        subject.machine = machine
        found, senseless = _compare(subject, reference, folder, data is None)
        made, samples, aside = made + found, len(feeds) - len(senseless), len(senseless)
        for number, first in senseless.items():
            other = Reference(model, others(reference.model.proto, feeds[number], seed))
            equal = [other.equal(i, outputs) for i, outputs in enumerate(subject.run(other, folder))]
            told = sum(map(bool, equal))
            if told < ENOUGH:
                raise _unclear(first)
            made += [one for judged in equal for one in judged]
            samples, aside = samples + told, aside + len(equal) - told
    return Proof(
        subject.where, samples, max((one.error for one in made), default=0.0),
        max((one.steps for one in made), default=0), max((one.differing for one in made), default=0.0), data is None, aside,
    )  # fmt: skip


def _compare(
    subject: _Subject, reference: Reference, folder: Path, drawn: bool
) -> tuple[list[Mismatch], dict[int, Mismatch]]:
    """How all outputs of the library in `folder` differ, and by number the `drawn` feeds that tell nothing.

    Raises VerificationError where they differ too much, and where given feeds tell nothing.
    """
    feeds = reference.feeds
    try:
        found = subject.run(reference, folder)
    except VerificationError as error:
        node, where = _first_node(reference.proto, subject, feeds[0], list(reference.outputs[0]))
        raise VerificationError(error.what + where, node=node, tensor=error.tensor, remedy=error.remedy) from error
    made, senseless = [], {}
    for number, outputs in enumerate(found):
        judged = reference.judge(number, outputs)
        wrong = [one for one in judged if not one.excess <= 1]
        if wrong and all(one.senseless for one in wrong):
            if not drawn:
                raise _unclear(wrong[0])
            senseless[number] = wrong[0]
            continue
        if wrong:
            node, where = _first_node(reference.proto, subject, feeds[number], [one.tensor for one in wrong])
            raise VerificationError(
                f"the library differs from ONNX Runtime, nothing was written{where}", node=node, tensor=wrong[0].tensor,
                found=wrong[0].what, remedy="report it with the model; --check shapes writes the library all the same",
            )  # fmt: skip
        made += judged
    return made, senseless


def _unclear(one: Mismatch) -> VerificationError:
    return VerificationError(
        "the library cannot be compared on these inputs: ONNX Runtime's own result hangs on a rounding of them",
        tensor=one.tensor, expected=f"a change of at most {MOST_DRIFT:g} of the largest value",
        found=f"{one.drift:.2g}", remedy="give --data that the model is made for, or use --check shapes",
    )  # fmt: skip


class _Subject:
    """Where libraries of one target are run: `where` says it once something has. Others are built beside `folder`."""

    def __init__(self, folder: Path, manifest: dict, build: Build, targets: Sequence[Target]):
        runs = [runs_here(target) for target in targets]
        self.build, self.scratch, self.here = build, folder.parent, any(runs)
        self.machines = [number for number, it in enumerate(runs) if it] if len(runs) > 1 and self.here else [None]
        self.machine: int | None = None
        self.emulated = not self.here and sum(row["macs"] for row in manifest["kernels"]) <= EMULATED_MACS
        others = ", ".join(target.name for target, it in zip(targets, runs) if not it)
        self.where = f"{HERE}, which cannot run the kernels for {others}" if self.here and others else HERE

    def run(self, reference: Reference, folder: Path) -> list[Arrays]:
        """The outputs, for each of the feeds, of the library of the model in `folder`."""
        feeds = reference.feeds
        if self.here:
            return run_apart(folder, feeds, self.machine)
        if self.emulated:
            try:
                emulated = Emulated(folder)
            except (MissingTool, Unsupported):  # not installed, or the program does not fit the board
                self.emulated = False
            else:
                self.where = f"{emulated.target} in {emulated.where}"
                return [emulated.run(one) for one in feeds]
        self.where = f"{HERE}, by the same lowering"
        with temporary.folder(self.scratch, "proof") as home:
            shapes = [{key: array.shape for key, array in one.items()} for one in feeds]
            self.build(reference.proto, shapes, "native", home)
            return run_apart(home, feeds)

    def differs(self, proto: onnx.ModelProto, feeds: Arrays) -> bool | None:
        """Whether the library of `proto` is wrong; None where that cannot be told, as it cannot be compiled or compared."""
        feeds = {value.name: feeds[value.name] for value in proto.graph.input if value.name in feeds}
        try:
            reference = Reference(proto, [feeds])
            with temporary.folder(self.scratch, "proof") as home:
                shapes = [{key: array.shape for key, array in feeds.items()}]
                self.build(proto, shapes, None, home)
                try:
                    found = self.run(reference, home)
                except VerificationError:
                    return True
            return any(not one.excess <= 1 for one in reference.judge(0, found[0]))
        except OnnxcError:
            return None


def _first_node(proto: onnx.ModelProto, subject: _Subject, feeds: Arrays, outputs: list[str]) -> tuple[str | None, str]:
    """The first node, in the order of the model, up to which its library differs; by halves among those that `outputs` need.

    Where there was no time to find it: one after it, and how far it may be, in words.
    """
    kinds, end = kinds_of(proto), time.monotonic() + SEARCH_SECONDS
    steps = needed(proto, outputs)
    if not steps:
        return None, ""
    good, top = -1, len(steps) - 1
    answer = top
    while top - good > 1 and time.monotonic() < end:
        middle = (good + top) // 2
        verdict, probe = None, middle
        while probe < top and time.monotonic() < end:  # what cannot be compiled alone tells nothing: the next one may
            verdict = subject.differs(until(proto, steps[: probe + 1], outputs, kinds), feeds)
            if verdict is not None:
                break
            probe += 1
        if verdict is None and time.monotonic() >= end:
            break
        if verdict is False:
            good = probe
        else:
            top, answer = middle, probe if verdict else answer
    node = proto.graph.node[steps[answer]]
    where = f", first at this node or one of the {top - good - 1} before it" if top - good > 1 else ""
    return node.name or f"{node.op_type} of {node.output[0]}", where
