"""What to say of data that tell little: too few samples, and a model that is no better by them than a guess."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..ir.escape import line
from ..ir.table import key_of
from ..runtime.tasks import classification

if TYPE_CHECKING:
    from ..ir.model import Model
    from ..runtime.evaluate import Judge

OF_ONE = ("accuracy", "r2", "cosine", "auc")
"""Metrics that look at the first output that fits."""


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
    floats = [name for name, y in judge.outputs[0].items() if y.dtype.kind == "f"]
    if metric in OF_ONE and len(floats) > 1:
        said.append(
            f"{metric} looks at one of the outputs {', '.join(map(line, floats))}; what the others lose stands under SNR dB, "
            "which is that of the worst"
        )
    return said


def unstored(model: Model) -> str:
    """What to say of a model none of whose weights can be stored otherwise."""
    known = Counter(key_of(node) for node in model.nodes)
    there = ", ".join(f"{name} ({n})" for name, n in known.most_common(5)) or "none"
    return (
        "no weights can be stored anew: that takes floats, or DequantizeLinear of integers, in Conv, ConvTranspose, Gemm, MatMul, "
        f"LSTM, GRU or RNN; the model has {there}"
    )


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
    found = None if labels is None else classification.classes(labels, (*scores.shape, classification.MOST)[1])
    return classification.named(scores) if found is None else found
