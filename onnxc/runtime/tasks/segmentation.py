"""Semantic segmentation: a class for each pixel, labels [samples, height, width]; 255 and negative numbers do not count."""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Metric, Outputs, refuse_wild

IGNORED = 255
MOST = 4096
"""Classes that are counted."""


class _Confusion(Metric):
    """Pixels by (label, prediction)."""

    share = True

    def __init__(self) -> None:
        self._pixels = np.zeros((0, 0), np.int64)

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        counts = (labels >= 0) & (labels != IGNORED)
        refuse_wild(labels[counts], MOST)
        true, guess = labels[counts].astype(np.int64), predicted[counts].astype(np.int64)
        classes = max(len(self._pixels), 1 + int(max(true.max(initial=-1), guess.max(initial=-1))))
        grown = np.zeros((classes, classes), np.int64)
        grown[: len(self._pixels), : len(self._pixels)] = self._pixels
        self._pixels = grown + np.bincount(true * classes + guess, minlength=classes**2).reshape(classes, classes)


class MeanIoU(_Confusion):
    """The mean over classes of true pixels by pixels that are, or were taken for, the class; over those seen at all."""

    def value(self) -> float:
        hit = np.diag(self._pixels)
        union = self._pixels.sum(0) + self._pixels.sum(1) - hit
        return float(np.mean(hit[union > 0] / union[union > 0])) if union.any() else float("nan")


class PixelAccuracy(_Confusion):
    """The share of pixels with the right class."""

    def value(self) -> float:
        whole = self._pixels.sum()
        return float(np.diag(self._pixels).sum() / whole) if whole else float("nan")


def classes(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The class of each pixel [samples, height, width], from the first output that has the labels' size.

    Scores stand as [samples, classes, height, width] or with the classes last; with one class only, what is above 0.5
    (of numbers within 0 and 1; else above 0) is it. Integers [samples, height, width] are classes already.
    """
    if labels is not None and (labels.ndim != 3 or labels.dtype.kind not in "iu"):
        return None
    for y in outputs.values():
        if y.dtype.kind in "iu" and y.ndim == 4 and 1 in (y.shape[1], y.shape[3]):
            y = y.squeeze(1 if y.shape[1] == 1 else 3)
        if y.dtype.kind in "iu" and y.ndim == 3 and (labels is None or y.shape == labels.shape):
            return y
        if y.dtype.kind != "f" or y.ndim != 4:
            continue
        axis = _axis(y.shape, labels)
        if axis is None:
            continue
        if y.shape[axis] > 1:
            return y.argmax(axis)
        one = y.squeeze(axis)
        return (one > (0.5 if one.min() >= 0 and one.max() <= 1 else 0.0)).astype(np.int64)
    return None


def _axis(shape: tuple[int, ...], labels: np.ndarray | None) -> int | None:
    """The axis of classes; without labels the first where that is no larger than the image."""
    if labels is None:
        return 1 if shape[1] <= min(shape[2:]) or shape[1] < shape[3] else 3
    if (shape[0], *shape[2:]) == labels.shape:
        return 1
    return 3 if shape[:3] == labels.shape else None
