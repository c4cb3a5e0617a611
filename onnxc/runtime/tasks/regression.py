"""Regression: numbers of an output's shape."""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Mean, Metric


class MeanAbsoluteError(Mean):
    """The mean of |y - label| over all elements."""

    higher = False

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.abs(predicted.astype(np.float64) - labels)


class R2(Metric):
    """The coefficient of determination: 1 - sum (label - y)² / sum (label - mean label)², over all elements."""

    share = True

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
