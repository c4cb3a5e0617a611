"""How good a model's outputs are: the metrics of a task, beside labels or beside the outputs of a reference.

Tasks and metrics stand in `runtime.tasks`. Labels come one for each sample: an array whose first axis counts samples, or an
array of objects (boxes, texts) of different extents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir.difference import Difference
from onnxc.ir.lean import Lean
from onnxc.runtime.batches import LABELS
from onnxc.runtime.data import Data
from onnxc.runtime.lengths import Free, differs, fitted, free_axes, sentence
from onnxc.runtime.scores import score_outputs
from onnxc.runtime.tasks import TASKS, Task, find_task, is_higher_better, is_share, misfit, recognise
from onnxc.runtime.tasks.classification import accuracy
from onnxc.runtime.tasks.metric import Metric, Outputs

if TYPE_CHECKING:
    import onnx

    from onnxc.runtime.reference import Runner

__all__ = [
    "TASKS", "Comparison", "Evaluator", "Judge", "Score", "Task", "accuracy", "find_task", "is_higher_better", "is_share",
    "recognise",
]  # fmt: skip

SAMPLES = 256
BATCH = 32
HELD_BYTES = 64 * 2**20
"""Bound on the outputs of a reference that are held for comparison; fewer samples are used where outputs are large."""


class Score:
    """The metrics of a task over batches of outputs and labels; without a task, of the one that the labels are for.

    folds: into how many parts batches are dealt in turn, for `without`."""

    def __init__(self, task: Task | None = None, folds: int = 0):
        self.task = task
        self._given = task is not None
        self._metrics: dict[str, Metric] = {}
        self._fits = True
        self._folds, self._batches = folds, 0
        self._without: list[Metric] = []

    def add(self, outputs: Outputs, labels: np.ndarray | None) -> None:
        """Take in one more batch. Raises BadData where a task that was given has no output, or no labels, of its form."""
        if not self._fits:
            return
        if self.task is None and labels is not None:
            self.task = recognise(outputs, labels)
        predicted = None if self.task is None or labels is None else self.task.decode(outputs, labels)
        self._fits = predicted is not None
        if self.task is None or labels is None or not self._fits:
            self._metrics = {}
            if self._given and labels is not None:
                raise misfit(self.task, outputs, labels)
            return
        if not self._metrics:
            self._metrics = {name: make() for name, make in self.task.metrics.items()}
            self._without = [self.task.metrics[self.task.metric]() for _ in range(self._folds)]
        others = [m for k, m in enumerate(self._without) if k != self._batches % self._folds]
        self._batches += 1
        for metric in [*self._metrics.values(), *others]:
            try:
                metric.add(predicted, labels)
            except (TypeError, ValueError, OverflowError) as e:  # labels of objects may hold anything
                raise misfit(self.task, outputs, labels) from e

    def values(self) -> dict[str, float]:
        """name -> number; empty where some samples had no labels, or none that fit an output."""
        return {name: metric.value() for name, metric in self._metrics.items()}

    def without(self) -> list[float]:
        """The first metric with each fold left out, of those that hold a batch; empty where there is none to compare with."""
        filled = min(self._folds, self._batches)
        return [m.value() for m in self._without[:filled]] if filled > 1 and self._metrics else []


@dataclass
class Comparison:
    """A model's outputs beside a reference's, and beside labels: differences by output, and both models' metrics.

    free: the axes of outputs whose lengths follow from data (`runtime.lengths`); lengths: what to tell of those that differ.
    scores: the outputs that may be scores of classes (`runtime.scores`). folds: of samples that `without` leaves out.
    """

    outputs: dict[str, Difference] = field(default_factory=dict)
    task: Task | None = None
    free: Free = field(default_factory=dict)
    lengths: dict[str, str] = field(default_factory=dict)
    scores: frozenset[str] = frozenset()
    folds: int = 0

    def __post_init__(self) -> None:
        self._scores = Score(self.task), Score(self.task, self.folds)

    def add(self, reference: Outputs, other: Outputs, labels: np.ndarray | None = None) -> None:
        """Take in one more batch. Raises VerificationError where outputs differ in form."""
        for name, a in reference.items():
            b = other[name]
            if differs(a, b, self.free.get(name, frozenset())):
                self.lengths.setdefault(name, sentence(name, a, b))
                b = fitted(a, b)
            if a.dtype.kind not in "OUS":  # texts have no distance
                self.outputs.setdefault(name, Difference(name in self.scores)).add(a, b, name)
        labels = _held_to(self.task, reference, labels)
        for score, outputs in zip(self._scores, (reference, other), strict=True):
            score.add(outputs, labels)

    @property
    def judged(self) -> Task | None:
        """The task that the metrics are of; None where there are none."""
        return self._scores[1].task if self.metrics else None

    @property
    def before(self) -> dict[str, float]:
        """The metrics of the reference."""
        return self._scores[0].values()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the other model."""
        return self._scores[1].values()

    @property
    def without(self) -> list[float]:
        """The first metric of the other model with each fold of the samples left out."""
        return self._scores[1].without()

    @property
    def noise(self) -> float:
        """Power of the error by power of the reference, of the worst output."""
        return max((d.noise for d in self.outputs.values()), default=0.0)

    def to_dict(self) -> dict[str, float]:
        """The largest errors and the smallest SNR over all outputs, top-1 agreement of the first that has classes, and the
        metrics."""
        if not self.outputs:
            return self.metrics
        every = self.outputs.values()
        top1 = next((d.top1 for d in every if d.top1 is not None), None)
        row = {
            "max_abs": max(d.max_abs for d in every),
            "max_rel": max(d.max_rel for d in every),
            "snr_db": min(d.snr_db for d in every),
        }
        return row | ({} if top1 is None else {"top1": top1}) | self.metrics


def _held_to(task: Task | None, reference: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The labels; where there are none, what the outputs of a reference stand for in the terms of `task`."""
    if labels is not None or task is None or task.targets is None:
        return labels
    predicted = task.decode(reference, None)
    if predicted is None:
        raise misfit(task, reference, None)
    return task.targets(predicted)


class Judge:
    """The outputs of a reference model on samples of the data, and what other models' are beside them.

    outputs and labels: one for each batch, labels None where there are none; samples: how many were run. room: how many
    samples run at once, at the most. folds: see Comparison.
    """

    def __init__(
        self,
        runner: Runner,
        data: Data,
        reference: onnx.ModelProto | Lean,
        samples: int = SAMPLES,
        task: Task | None = None,
        room: int = BATCH,
        folds: int = 0,
    ):
        self.runner, self.data, self.task, self.size = runner, data, task, min(room, BATCH)
        self.folds = folds
        self.outputs: list[dict[str, np.ndarray]] = []
        self.labels: list[np.ndarray | None] = []
        self.samples = held = 0
        self._limit = samples
        proto = reference.proto if isinstance(reference, Lean) else reference
        self.free, self.scores = free_axes(proto), score_outputs(proto.graph)
        run = runner.prepare(reference)
        for batch in data.batches(self.size, samples):
            self.outputs.append(run(batch))
            self.labels.append(batch.get(LABELS))
            self.samples += batch.samples
            held += sum(a.nbytes for a in self.outputs[-1].values())
            if held > HELD_BYTES:
                break

    def run(self, model: onnx.ModelProto | Lean) -> list[dict[str, np.ndarray]]:
        """The outputs of another model on the same samples."""
        run, batches = self.runner.prepare(model), self.data.batches(self.size, self._limit)
        return [run(batch) for _, batch in zip(self.outputs, batches, strict=False)]

    def score(self, outputs: list[dict[str, np.ndarray]]) -> Score:
        """What such outputs are worth by the labels, or, for a task that was given, by what the reference says."""
        score = Score(self.task)
        for ours, out, labels in zip(self.outputs, outputs, self.labels, strict=True):
            score.add(out, _held_to(self.task, ours, labels))
        return score

    def compare(self, outputs: list[dict[str, np.ndarray]]) -> Comparison:
        """Such outputs beside the reference's."""
        comparison = Comparison(task=self.task, free=self.free, scores=self.scores, folds=self.folds)
        for ours, theirs, labels in zip(self.outputs, outputs, self.labels, strict=True):
            comparison.add(ours, theirs, labels)
        return comparison

    def agreement(self, outputs: list[dict[str, np.ndarray]]) -> float | None:
        """The task's metric of such outputs where what the reference says stands for labels; None without a task, or where it can be
        held to labels only."""
        task, targets = self._said
        if task is None or not targets:
            return None
        score = Score(task)
        for out, labels in zip(outputs, targets, strict=True):
            score.add(out, labels)
        return score.values().get(task.metric)

    @cached_property
    def _said(self) -> tuple[Task | None, list[np.ndarray | None]]:
        """The task, and what the reference says of each batch in place of labels; none of a task that can be held to labels only."""
        found = (recognise(o, y) for o, y in zip(self.outputs, self.labels, strict=True) if y is not None)
        task = self.task or next(found, None)
        if task is None or task.targets is None:
            return task, []
        return task, [_held_to(task, ours, None) for ours in self.outputs]

    def __call__(self, model: onnx.ModelProto | Lean) -> Comparison:
        return self.compare(self.run(model))


@dataclass(frozen=True)
class Evaluator:
    """What passes get to judge models with: `evaluator(reference, samples)` is the Judge of a model's copies."""

    runner: Runner
    data: Data
    task: Task | None = None
    room: int = BATCH

    def __call__(self, reference: onnx.ModelProto | Lean, samples: int = SAMPLES) -> Judge:
        return Judge(self.runner, self.data, reference, samples, self.task, self.room)
