"""Mean and variance of tensors by channel, summed over batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """mean and variance, float64 [channels], and how many values of a channel they are taken over (`values`)."""

    mean: np.ndarray
    variance: np.ndarray
    values: int


def spreads(batches: Iterable[Mapping[str, np.ndarray]], tensors: Mapping[str, int]) -> dict[str, Spread]:
    """The statistics of each of `tensors` (name -> channel axis) over samples and positions.

    As for `moments`, sums run around a channel's mean in the first batch, so that an offset costs no digits.
    """
    pivots: dict[str, np.ndarray] = {}
    sums: dict[str, list[Any]] = {t: [0.0, 0.0, 0] for t in tensors}
    for got in batches:
        for t, s in sums.items():
            x = np.moveaxis(got[t], tensors[t], 0)
            x = x.reshape(len(x), -1).astype(np.float64)
            pivot = pivots.setdefault(t, x.mean(1, keepdims=True))
            x -= pivot
            s[0] = s[0] + x.sum(1)
            s[1] = s[1] + np.einsum("ci,ci->c", x, x)
            s[2] += x.shape[1]
    found = {}
    for t, (first, second, n) in sums.items():
        mean = np.asarray(first) / n
        found[t] = Spread(pivots[t][:, 0] + mean, np.maximum(np.asarray(second) / n - mean**2, 0.0), n)
    return found
