"""What a metric is: one number from predictions and labels that come batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnxc.ir.errors import BadData
from onnxc.runtime.batches import LABELS, join_labels
from onnxc.runtime.code import failed

Outputs = Mapping[str, np.ndarray]


class Metric:
    """One number from predictions and labels that come batch by batch; nan where there were none.

    share: a share of 1, which people read in percent. higher: whether more is better.
    """

    share: ClassVar[bool] = False
    higher: bool = True

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


def refuse_wild(labels: np.ndarray, classes: int) -> None:
    """Raise BadData for a label that stands for none of the classes: it would count as a mistake of the model."""
    wild = labels[(labels < 0) | (labels >= classes)]
    if wild.size:
        raise BadData(
            "a label stands for no class", tensor=LABELS, expected=f"0 to {classes - 1}", found=wild.flat[0],
            remedy="clean the data, or give --task",
        )  # fmt: skip


class OfFunction(Metric):
    """`function(predicted, labels) -> number` on all samples together: outputs by name, or what a task makes of them, first
    axes joined. Less is better where the function has an attribute `higher` that is False."""

    def __init__(self, name: str, function: Callable[[Any, np.ndarray], float]) -> None:
        self._name, self._function = name, function
        self.higher = bool(getattr(function, "higher", True))
        self._seen: list[Any] = []
        self._labels: list[np.ndarray] = []

    def add(self, predicted: Any, labels: np.ndarray) -> None:
        self._seen.append(predicted)
        self._labels.append(labels)

    def value(self) -> float:
        if not self._seen:
            return float("nan")
        try:
            found = self._function(_joined(self._seen), join_labels(self._labels))
        except (Exception, SystemExit) as error:
            raise failed(self._name, error) from error
        try:
            return float(found)
        except (TypeError, ValueError):
            raise BadData(f"metric {self._name} gave no number", found=type(found).__name__) from None


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    return [one for part in parts for one in part] if isinstance(first, list) else np.concatenate(parts)


def floats(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output with an axis of samples; with labels the first of their shape, but for axes of extent 1."""
    found = (y for y in outputs.values() if y.dtype.kind == "f" and y.ndim)
    if labels is None:
        return next(found, None)
    if labels.dtype.kind not in "fiu" or not labels.ndim:
        return None
    wanted = len(labels), np.squeeze(labels[:1]).shape
    fits = (y.reshape(labels.shape) for y in found if (len(y), np.squeeze(y[:1]).shape) == wanted)
    return next(fits, None)
