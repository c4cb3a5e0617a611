"""Embeddings: vectors, judged by their direction and by the order of distances between samples."""

from __future__ import annotations

import numpy as np

from onnxc.runtime.tasks.metric import Mean, Metric

MOST = 1024
"""Samples between which similarities are ranked: their number grows with the square."""


class Cosine(Mean):
    """The mean cosine between a sample's output and its label, each taken as one vector; 0 where either is zero."""

    def each(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        a, b = (_unit(x) for x in (predicted, labels))
        return (a * b).sum(1)


class RankCorrelation(Metric):
    """Spearman's rank correlation between the cosines of all pairs of outputs and those of the same pairs of labels, on the
    first 1,024 samples; nan for fewer than three."""

    def __init__(self) -> None:
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        self._seen.append((_unit(predicted), _unit(labels)))

    def value(self) -> float:
        if sum(len(a) for a, _ in self._seen) < 3:
            return float("nan")
        from scipy.stats import rankdata

        cosines = []
        for part in zip(*self._seen, strict=True):
            vectors = np.concatenate(part)[:MOST]
            # below the last digits that sums of products in float64 can differ in, pairs are equally alike
            cosines.append(np.round((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)], 12))
        ranks = [rankdata(c) for c in cosines]
        if min(np.ptp(r) for r in ranks) == 0:
            return 1.0 if np.array_equal(*ranks) else 0.0
        return float(np.corrcoef(*ranks)[0, 1])


def _unit(x: np.ndarray) -> np.ndarray:
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
