"""Sequences: scores for each step, read by connectionist temporal classification (Graves 2006), beside texts or symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.runtime.tasks.metric import Metric, Outputs

BLANK = 0
"""The class that stands for no symbol; other places need `--decode`."""


class ErrorRate(Metric):
    """Insertions, deletions and replacements (Levenshtein 1966) by the labels' symbols, over all samples; words: of words, which
    white space parts, instead. A label of integers is one word."""

    share, higher = True, False

    def __init__(self, words: bool = False) -> None:
        self._words, self._errors, self._symbols = words, 0, 0

    def add(self, predicted: Any, labels: np.ndarray) -> None:
        for guess, label in zip(predicted, labels, strict=True):
            a, b = (self._split(symbols(one)) for one in (guess, label))
            self._errors += edit_distance(a, b)
            self._symbols += len(b)

    def _split(self, one: str | tuple) -> Sequence:
        if not self._words:
            return one
        return one.split() if isinstance(one, str) else [one]

    def value(self) -> float:
        return self._errors / self._symbols if self._symbols else float("nan")


def symbols(label: Any) -> str | tuple[int, ...]:
    """A text, or integers without the negative ones that fill a row."""
    if isinstance(label, (str, bytes, np.str_)):
        return label.decode() if isinstance(label, bytes) else str(label)
    return tuple(int(s) for s in np.asarray(label).ravel() if s >= 0)


def edit_distance(a: Sequence, b: Sequence) -> int:
    """The least number of insertions, deletions and replacements that make `b` of `a`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def greedy(outputs: Outputs, labels: np.ndarray | None) -> list[tuple[int, ...]] | None:
    """The best class of each step, runs as one and class 0 left out, from the first floating output [samples, steps, classes]
    (or [steps, samples, classes], where only that has as many samples as labels)."""
    for y in outputs.values():
        if y.dtype.kind != "f" or y.ndim != 3:
            continue
        if labels is not None and len(labels) != y.shape[0]:
            if len(labels) != y.shape[1]:
                continue
            y = y.swapaxes(0, 1)
        best = y.argmax(2)
        first = np.ones(best.shape, bool)
        first[:, 1:] = best[:, 1:] != best[:, :-1]
        return [tuple(row[keep & (row != BLANK)].tolist()) for row, keep in zip(best, first)]
    return None


def as_labels(predicted: list) -> np.ndarray:
    """Predictions as an array of objects, one for each sample."""
    made = np.empty(len(predicted), object)
    made[:] = [one if isinstance(one, str) else np.asarray(one, np.int64) for one in predicted]
    return made
