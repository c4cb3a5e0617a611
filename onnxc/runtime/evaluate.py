"""How good a model's outputs are: tasks and their metrics, beside labels or beside the outputs of a reference.

A task says what of the outputs is judged (`decode`), by which metrics, and what labels a reference's own outputs stand
for. A further task is one entry of TASKS; a metric is a class with `add` and `value`. Labels come one for each sample:
an array whose first axis counts samples, or an array of objects (boxes, texts) of different extents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxc.ir.difference import Difference
from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.batches import LABELS, join_labels
from onnxc.runtime.code import import_function
from onnxc.runtime.data import Data

if TYPE_CHECKING:
    import onnx

    from onnxc.runtime.reference import Runner

SAMPLES = 256
BATCH = 32
HELD_BYTES = 256 * 2**20
"""Bound on the outputs of a reference that are held for comparison; fewer samples are used where outputs are large."""

Outputs = Mapping[str, np.ndarray]


class Metric:
    """One number from predictions and labels that come batch by batch; nan where there were none.

    share: a share of 1, which people read in percent. higher: whether more is better.
    """

    share: ClassVar[bool] = False
    higher: ClassVar[bool] = True

    def add(self, predicted: Any, labels: np.ndarray) -> None:
        raise NotImplementedError

    def value(self) -> float:
        raise NotImplementedError


class Mean(Metric):
    """The mean of a number that each sample has (`each`)."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def each(self, predicted: Any, labels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def add(self, predicted: Any, labels: np.ndarray) -> None:
        found = np.asarray(self.each(predicted, labels), np.float64)
        self._sum, self._count = self._sum + float(found.sum()), self._count + found.size

    def value(self) -> float:
        return self._sum / self._count if self._count else float("nan")


class TopK(Mean):
    """Share of samples whose label is among the `k` largest of their scores [samples, classes]; ties go to lower classes."""

    share = True

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.k == 1:
            return predicted.argmax(1) == labels
        best = np.argsort(-predicted, 1, kind="stable")[:, : self.k]
        return (best == np.asarray(labels)[:, None]).any(1)


class MeanAbsoluteError(Mean):
    """The mean of |y - label| over all elements."""

    higher = False

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.abs(predicted.astype(np.float64) - labels)


class R2(Metric):
    """The coefficient of determination: 1 - sum (label - y)² / sum (label - mean label)², over all elements."""

    def __init__(self) -> None:
        self._count, self._mean, self._spread, self._error = 0, 0.0, 0.0, 0.0

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        wide = np.asarray(labels, np.float64)
        count, mean = wide.size, float(wide.mean())
        total, step = self._count + count, mean - self._mean
        # the parts' sums of squares about their own means, and what their distance adds (Chan et al. 1979)
        self._spread += float(np.square(wide - mean).sum()) + step**2 * self._count * count / total
        self._mean += step * count / total
        self._count = total
        self._error += float(np.square(wide - predicted).sum())

    def value(self) -> float:
        if not self._spread:
            return float("nan") if self._error or not self._count else 1.0
        return 1 - self._error / self._spread


class Cosine(Mean):
    """The mean cosine between a sample's output and its label, each taken as one vector; 0 where either is zero."""

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (predicted, labels))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.divide((a * b).sum(1), lengths, out=np.zeros(len(a)), where=lengths > 0)


class OfFunction(Metric):
    """`function(outputs, labels) -> number` on all samples together: outputs by name, first axes joined."""

    def __init__(self, name: str, function: Callable[[dict[str, np.ndarray], np.ndarray], float]) -> None:
        self._name, self._function = name, function
        self._outputs: list[Outputs] = []
        self._labels: list[np.ndarray] = []

    def add(self, predicted: Outputs, labels: np.ndarray) -> None:
        self._outputs.append(predicted)
        self._labels.append(labels)

    def value(self) -> float:
        whole = {name: np.concatenate([out[name] for out in self._outputs]) for name in self._outputs[0]}
        found = self._function(whole, join_labels(self._labels))
        try:
            return float(found)
        except (TypeError, ValueError):
            raise BadData(f"metric {self._name} gave no number", found=type(found).__name__) from None


@dataclass(frozen=True)
class Task:
    """What a model is for.

    metrics: name -> what makes a fresh Metric; the first is the one that people are shown. decode(outputs, labels): what
    the metrics take, or None where no output has the form; labels are None where there are none. targets: what labels
    such predictions stand for, so that another model can be held to them; None where it can be held to labels only.
    """

    name: str
    metrics: Mapping[str, Callable[[], Metric]]
    decode: Callable[[Outputs, np.ndarray | None], Any]
    targets: Callable[[Any], np.ndarray] | None = None

    @property
    def metric(self) -> str:
        """The name of the metric that people are shown."""
        return next(iter(self.metrics))


def _scores(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output [samples, classes], where labels are one integer a sample."""
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        return None
    fits = (y for y in outputs.values() if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1)
    return next((y for y in fits if labels is None or len(y) == len(labels)), None)


def _numbers(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output, with labels the first of their shape."""
    if labels is not None and labels.dtype.kind not in "fiu":
        return None
    floats = (y for y in outputs.values() if y.dtype.kind == "f" and y.ndim)
    return next((y for y in floats if labels is None or y.shape == labels.shape), None)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "classification", {"accuracy": TopK, "top5": lambda: TopK(5)}, _scores, lambda scores: scores.argmax(1)
        ),
        Task("regression", {"mae": MeanAbsoluteError, "r2": R2}, _numbers, lambda y: y),
        Task("embeddings", {"cosine": Cosine}, _numbers, lambda y: y),
    )
}  # fmt: skip
RECOGNISED = ("classification", "regression")
"""Tasks that labels alone give away, in this order: one integer a sample, or floats of an output's shape."""


def find_task(name: str | Task | None) -> Task | None:
    """The task of that name, or one that judges by `module:function(outputs, labels) -> number`. Raises BadOption."""
    if name is None or isinstance(name, Task):
        return name
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise BadOption("there is no such task", expected=f"{', '.join(TASKS)} or module:function", found=name)
    function, metric = import_function(name), name.rpartition(":")[2]
    return Task(name, {metric: lambda: OfFunction(name, function)}, lambda outputs, labels: outputs)


def is_share(metric: str) -> bool:
    """Whether the metric of that name, of any task, is a share of 1."""
    makers = [make for task in TASKS.values() for name, make in task.metrics.items() if name == metric]
    return bool(makers) and makers[0]().share


def is_higher_better(metric: str) -> bool:
    """Whether more is better of the metric of that name; True for one of a function of the user's own."""
    makers = [make for task in TASKS.values() for name, make in task.metrics.items() if name == metric]
    return not makers or makers[0]().higher


def recognise(outputs: Outputs, labels: np.ndarray) -> Task | None:
    """The task that these labels are for, or None."""
    fitting = (TASKS[name] for name in RECOGNISED)
    if labels.dtype.kind in "iu" and labels.ndim != 1:
        return None
    return next((task for task in fitting if task.decode(outputs, labels) is not None), None)


class Score:
    """The metrics of a task over batches of outputs and labels; without a task, of the one that the labels are for."""

    def __init__(self, task: Task | None = None):
        self.task = task
        self._given = task is not None
        self._metrics: dict[str, Metric] = {}
        self._fits = True

    def add(self, outputs: Outputs, labels: np.ndarray | None) -> None:
        """Take in one more batch. Raises BadData where a task that was given has no output, or no labels, of its form."""
        if not self._fits:
            return
        if self.task is None and labels is not None:
            self.task = recognise(outputs, labels)
        predicted = None if self.task is None or labels is None else self.task.decode(outputs, labels)
        self._fits = predicted is not None
        if not self._fits:
            self._metrics = {}
            if self._given and labels is not None:
                raise misfit(self.task, outputs, labels)
            return
        self._metrics = self._metrics or {name: make() for name, make in self.task.metrics.items()}
        for metric in self._metrics.values():
            metric.add(predicted, labels)

    def values(self) -> dict[str, float]:
        """name -> number; empty where some samples had no labels, or none that fit an output."""
        return {name: metric.value() for name, metric in self._metrics.items()}


def misfit(task: Task, outputs: Outputs, labels: np.ndarray | None) -> BadData:
    """The error for outputs, or labels, that a task cannot judge."""
    forms = [f"{name} {y.dtype}{list(y.shape)}" for name, y in outputs.items()]
    forms += [] if labels is None else [f"labels {labels.dtype}{list(labels.shape)}"]
    remedy = "give --task" if labels is None else "give --task, or data whose labels have another form, or none"
    return BadData(f"the task {task.name} cannot judge these outputs", found=", ".join(forms), remedy=remedy)


@dataclass
class Comparison:
    """A model's outputs beside a reference's, and beside labels: differences by output, and both models' metrics."""

    outputs: dict[str, Difference] = field(default_factory=dict)
    task: Task | None = None

    def __post_init__(self) -> None:
        self._scores = Score(self.task), Score(self.task)

    def add(self, reference: Outputs, other: Outputs, labels: np.ndarray | None = None) -> None:
        """Take in one more batch. Raises VerificationError where outputs differ in form."""
        for name, a in reference.items():
            if a.dtype.kind not in "OUS":  # texts have no distance
                self.outputs.setdefault(name, Difference()).add(a, other[name], name)
        if labels is None and self.task is not None and self.task.targets is not None:
            predicted = self.task.decode(reference, None)
            if predicted is None:
                raise misfit(self.task, reference, None)
            labels = self.task.targets(predicted)
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


class Judge:
    """The outputs of a reference model on samples of the data, and what other models' are beside them.

    outputs and labels: one for each batch, labels None where there are none; samples: how many were run.
    """

    def __init__(
        self, runner: Runner, data: Data, reference: onnx.ModelProto, samples: int = SAMPLES, task: Task | None = None
    ):
        self.runner, self.data, self.task = runner, data, task
        self.outputs: list[dict[str, np.ndarray]] = []
        self.labels: list[np.ndarray | None] = []
        self.samples = held = 0
        self._limit = samples
        run = runner.prepare(reference)
        for batch in data.batches(BATCH, samples):
            self.outputs.append(run(batch))
            self.labels.append(batch.get(LABELS))
            self.samples += batch.samples
            held += sum(a.nbytes for a in self.outputs[-1].values())
            if held > HELD_BYTES:
                break

    def run(self, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
        """The outputs of another model on the same samples."""
        run, batches = self.runner.prepare(model), self.data.batches(BATCH, self._limit)
        return [run(batch) for _, batch in zip(self.outputs, batches, strict=False)]

    def score(self, outputs: list[dict[str, np.ndarray]]) -> Score:
        """What such outputs are worth by the labels."""
        score = Score(self.task)
        for out, labels in zip(outputs, self.labels, strict=True):
            score.add(out, labels)
        return score

    def compare(self, outputs: list[dict[str, np.ndarray]]) -> Comparison:
        """Such outputs beside the reference's."""
        comparison = Comparison(task=self.task)
        for ours, theirs, labels in zip(self.outputs, outputs, self.labels, strict=True):
            comparison.add(ours, theirs, labels)
        return comparison

    def __call__(self, model: onnx.ModelProto) -> Comparison:
        return self.compare(self.run(model))


@dataclass(frozen=True)
class Evaluator:
    """What passes get to judge models with: `evaluator(reference, samples)` is the Judge of a model's copies."""

    runner: Runner
    data: Data
    task: Task | None = None

    def __call__(self, reference: onnx.ModelProto, samples: int = SAMPLES) -> Judge:
        return Judge(self.runner, self.data, reference, samples, self.task)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `scores` [samples, classes] whose largest entry is the label."""
    metric = TopK()
    metric.add(scores, labels)
    return metric.value()
