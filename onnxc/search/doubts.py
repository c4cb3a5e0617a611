"""What to say of data that tell little: too few samples, and a model that is no better by them than a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.tasks import classification

if TYPE_CHECKING:
    from ..runtime.evaluate import Judge


def doubts(judge: Judge, given: Mapping[str, float], drop: float | None) -> list[str]:
    """Sentences on the samples by which a search chooses.

    judge: has run the model as given on them; given: its metrics, the first is the one that counts; drop: the bound on its loss.
    """
    metric, value = next(iter(given.items()))
    said, count = [], judge.samples
    if metric == "accuracy" and drop is not None and count * drop < 1:
        fewest = 2 * math.ceil(1 / drop - 1e-9) if drop else "more"
        said.append(
            f"{count} samples choose, each of them {1 / count:.2g} of the accuracy: whether {drop:g} of it is lost they cannot "
            f"tell; give {fewest} samples in all, or more"
        )
    guess = _guess(judge, metric)
    if guess is not None and value <= guess[1]:
        said.append(
            f"{metric} of the model as given is {value:.3g}, {guess[0]} has {guess[1]:.3g}: what candidates lose tells nothing; "
            "are the data prepared as those that it was trained on?"
        )
    return said


def _guess(judge: Judge, metric: str) -> tuple[str, float] | None:
    """What a guess is, and its metric; None where no guess is known."""
    if metric == "auc":
        return "chance", 0.5
    if metric == "r2":
        return "the mean of the labels", 0.0
    if metric != "accuracy":
        return None
    named = [_named(out, labels) for out, labels in zip(judge.outputs, judge.labels, strict=True)]
    counts = np.unique(np.concatenate(named), return_counts=True)[1]
    return "the commonest class", float(counts.max() / counts.sum())


def _named(outputs: Mapping[str, np.ndarray], labels: np.ndarray | None) -> np.ndarray:
    """The classes of a batch: labels, or where there are none what the model says."""
    scores = classification.scores(outputs, labels)
    if scores is None:
        return np.zeros(0, np.int64)
    found = None if labels is None else classification.classes(labels, scores.shape[1])
    return scores.argmax(1) if found is None else found
