"""Anomalies: one score a sample, more for what is odd; labels 1 for odd samples, 0 for others."""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Metric, Outputs


class AreaUnderCurve(Metric):
    """The area under the receiver's operating curve: the share of pairs (odd, not odd) whose scores stand in that order, ties
    half (Mann and Whitney 1947). nan where one of both is missing."""

    share = True

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._odd: list[np.ndarray] = []

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        self._scores.append(np.asarray(predicted, np.float64))
        self._odd.append(np.asarray(labels).reshape(-1) > 0)

    def value(self) -> float:
        odd = np.concatenate(self._odd) if self._odd else np.zeros(0, bool)
        pairs = int(odd.sum()) * int((~odd).sum())
        if not pairs:
            return float("nan")
        from scipy.stats import rankdata

        ranks = rankdata(np.concatenate(self._scores))
        least = odd.sum() * (odd.sum() + 1) / 2
        return float((ranks[odd].sum() - least) / pairs)


def scores(outputs: Outputs, labels: np.ndarray | None) -> np.ndarray | None:
    """The first floating output with one number a sample, where labels are one number a sample."""
    if labels is not None and (labels.dtype.kind not in "biuf" or not labels.ndim or labels.size != len(labels)):
        return None
    fits = (y for y in outputs.values() if y.dtype.kind == "f" and y.ndim and y.size == len(y))
    return next((y.ravel() for y in fits if labels is None or len(y) == len(labels)), None)


def upper_half(predicted: np.ndarray) -> np.ndarray:
    """What a reference's scores stand for as labels: the samples above the median of their batch are odd."""
    return predicted > np.median(predicted)
