"""Classification: a class a sample, scores [samples, classes] or classes [samples] already (behind an ArgMax).

Labels are integers [samples] or [samples, 1], floats that are whole numbers too; or [samples, classes] with a single 1 in each row.
"""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Mean, Outputs, refuse_wild

MOST = 1 << 31
"""Classes that integers may name."""


class TopK(Mean):
    """Share of samples whose label is among the `k` largest of their scores [samples, classes]; ties go to lower classes."""

    share = True

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        count = predicted.shape[1] if predicted.ndim > 1 else MOST
        named = classes(labels, count)
        if named is None:
            raise ValueError("labels name no classes")
        refuse_wild(named, count)
        super().add(predicted, named)

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if predicted.ndim == 1:
            return predicted == labels
        if self.k == 1:
            return predicted.argmax(1) == labels
        best = np.argsort(-predicted, 1, kind="stable")[:, : self.k]
        return (best == np.asarray(labels)[:, None]).any(1)


def scores(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output [samples, classes] that labels name classes of; else the first of integers, one a sample."""
    fits = [y for y in outputs.values() if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1]
    fits += [y.reshape(-1) for y in outputs.values() if y.dtype.kind in "iu" and y.ndim and y.size == len(y)]
    if labels is None:
        return next(iter(fits), None)
    return next((y for y in fits if len(y) == len(labels) and classes(labels, (*y.shape, MOST)[1]) is not None), None)


def named(scores: np.ndarray) -> np.ndarray:
    """The class of each sample [samples] that scores, or classes, stand for."""
    return scores.argmax(1) if scores.ndim > 1 else scores


def classes(labels: np.ndarray, count: int) -> np.ndarray | None:
    """The class of each sample [samples], of `count`; None where labels have another form."""
    if labels.dtype.kind not in "biuf" or not labels.ndim:
        return None
    if labels.size == len(labels):
        flat = labels.reshape(-1)
        whole = labels.dtype.kind in "iu" or bool(np.all(np.isfinite(flat) & (flat == np.rint(flat))))
        return flat.astype(np.int64, copy=False) if whole else None
    single = labels.shape == (len(labels), count) and bool(np.all((labels == 0) | (labels == 1)))
    return labels.argmax(1) if single and bool(np.all(labels.sum(1) == 1)) else None


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `scores` [samples, classes] whose largest entry is the label."""
    metric = TopK()
    metric.add(scores, labels)
    return metric.value()
