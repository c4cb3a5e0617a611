"""What models are for: tasks, each with its metrics; a metric is a class with `add` and `value`, one file for each task.

A task says what of the outputs is judged (`decode`), by which metrics, and what labels a reference's own outputs stand for.
A further task is one entry of TASKS. Labels come one for each sample: an array whose first axis counts samples, or an array of
objects (boxes, texts) of different extents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.code import failed, import_function
from onnxc.runtime.tasks import (
    anomaly,
    classification,
    detection,
    embeddings,
    heads,
    regression,
    segmentation,
    sequences,
)
from onnxc.runtime.tasks.metric import Metric, OfFunction, Outputs, floats


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


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("classification", {"accuracy": classification.TopK, "top5": lambda: classification.TopK(5)},
             classification.scores, classification.named),
        Task("detection", {"map": detection.MeanAveragePrecision, "map50": lambda: detection.MeanAveragePrecision(0.5)},
             heads.detections, detection.confident),
        Task("segmentation", {"miou": segmentation.MeanIoU, "pixel_accuracy": segmentation.PixelAccuracy},
             segmentation.classes, lambda y: y),
        Task("regression", {"r2": regression.R2, "mae": regression.MeanAbsoluteError}, floats, lambda y: y),
        Task("embeddings", {"cosine": embeddings.Cosine, "rank": embeddings.RankCorrelation}, floats, lambda y: y),
        Task("sequences", {"cer": sequences.ErrorRate, "wer": lambda: sequences.ErrorRate(words=True)},
             sequences.greedy, sequences.as_labels),
        Task("anomaly", {"auc": anomaly.AreaUnderCurve}, anomaly.scores, anomaly.upper_half),
    )
}  # fmt: skip
RECOGNISED = ("classification", "segmentation", "regression")
"""Tasks that labels alone give away, in this order: a class a sample, a class a pixel, or numbers of an output's shape."""


def find_task(name: str | Task | None, metric: str | None = None, decode: str | None = None) -> Task | None:
    """The task of that name, or one that judges by `module:function(outputs, labels) -> number`.

    metric: the one of its metrics that people are shown, or a `module:function` more, of what the task decodes (without a task,
    of the outputs by name). decode: the `module:function(outputs)` that makes of them what the task's metrics take.
    Raises BadOption.
    """
    task = name
    if isinstance(name, str):
        if name not in TASKS and ":" not in name:
            raise BadOption("there is no such task", expected=f"{', '.join(TASKS)} or module:function", found=name)
        task = TASKS[name] if name in TASKS else by_function(name)
    if task is None and metric is not None:
        if ":" not in metric:
            raise BadOption("a metric needs its task", expected="--task, or --metric module:function", found=metric)
        task, metric = by_function(metric), None
    if decode is not None:
        if not isinstance(task, Task):
            raise BadOption("--decode needs a task", expected=f"--task {' or '.join(TASKS)}", found=decode)
        task = replace(task, decode=_decoder(decode))
    if metric is None or not isinstance(task, Task):
        return task  # type: ignore[return-value]
    if ":" in metric:
        more = by_function(metric).metrics
    elif metric in task.metrics:
        more = {metric: task.metrics[metric]}
    else:
        raise BadOption(f"the task {task.name} has no such metric", expected=f"{', '.join(task.metrics)} or module:function",
                        found=metric)  # fmt: skip
    return replace(task, metrics={**more, **{k: v for k, v in task.metrics.items() if k not in more}})


def by_function(name: str) -> Task:
    """The task that `module:function(outputs, labels) -> number` alone makes."""
    function, metric = import_function(name), name.rpartition(":")[2]
    return Task(name, {metric: lambda: OfFunction(name, function)}, lambda outputs, labels: outputs)


def _decoder(name: str) -> Callable[[Outputs, np.ndarray | None], Any]:
    function = import_function(name)

    def decode(outputs: Outputs, labels: np.ndarray | None) -> Any:
        try:
            return function(dict(outputs))
        except Exception as error:
            raise failed(name, error) from error

    return decode


def is_share(metric: str) -> bool:
    """Whether the metric of that name, of any task, is a share of 1."""
    makers = [make for task in TASKS.values() for name, make in task.metrics.items() if name == metric]
    return bool(makers) and makers[0]().share


def is_higher_better(metric: str, task: Task | None = None) -> bool:
    """Whether more is better of the metric of that name; True for one that neither `task` nor any other has."""
    of = [*([task] if task is not None else []), *TASKS.values()]
    makers = [make for one in of for name, make in one.metrics.items() if name == metric]
    return not makers or makers[0]().higher


def recognise(outputs: Outputs, labels: np.ndarray) -> Task | None:
    """The task that these labels are for, or None."""
    names = RECOGNISED if labels.dtype.kind not in "iu" or labels.size == len(labels) else RECOGNISED[:-1]
    return next((task for task in map(TASKS.__getitem__, names) if task.decode(outputs, labels) is not None), None)


def untold(outputs: Outputs, labels: np.ndarray) -> str:
    """What to say where labels tell no task, and there are no metrics."""
    return f"no metric: {misfit(None, outputs, labels)}"


def misfit(task: Task | None, outputs: Outputs, labels: np.ndarray | None) -> BadData:
    """The error for outputs, or labels, that a task cannot judge; without a task, for labels that tell none."""
    forms = [f"{name} {y.dtype}{list(y.shape)}" for name, y in outputs.items()]
    forms += [] if labels is None else [f"labels {labels.dtype}{list(labels.shape)}"]
    if task is None:
        what, remedy = (
            "labels do not tell what the outputs are for",
            "give --task or --metric, or labels of another form, or none",
        )
    elif task.name in ("detection", "sequences"):
        what, remedy = f"the task {task.name} cannot judge these outputs", "give --decode module:function"
    else:
        remedy = "give --task" if labels is None else "give --task, or data whose labels have another form, or none"
        what = f"the task {task.name} cannot judge these outputs"
    return BadData(what, found=", ".join(forms), remedy=remedy)
