"""Classification: one integer a sample, scores [samples, classes]."""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Mean, Outputs, refuse_wild


class TopK(Mean):
    """Share of samples whose label is among the `k` largest of their scores [samples, classes]; ties go to lower classes."""

    share = True

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        refuse_wild(labels, predicted.shape[1])
        super().add(predicted, labels)

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.k == 1:
            return predicted.argmax(1) == labels
        best = np.argsort(-predicted, 1, kind="stable")[:, : self.k]
        return (best == np.asarray(labels)[:, None]).any(1)


def scores(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output [samples, classes], where labels are one integer a sample."""
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        return None
    fits = (y for y in outputs.values() if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1)
    return next((y for y in fits if labels is None or len(y) == len(labels)), None)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `scores` [samples, classes] whose largest entry is the label."""
    metric = TopK()
    metric.add(scores, labels)
    return metric.value()
