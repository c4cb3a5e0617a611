"""Every criterion by name, and what comes of rating a model's groups by one: one score a channel, higher is kept longer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.axes import Atom
from ...ir.errors import BadOption
from . import criteria_data, criteria_weights, redundancy  # noqa: F401  they enter their criteria
from .score import CRITERIA, Criterion, ScoringContext


def _mean(x: np.ndarray) -> float:
    return float(x.mean())


def _max(x: np.ndarray) -> float:
    return float(x.max())


NORMALISE: dict[str, Callable[[np.ndarray], float]] = {"mean": _mean, "max": _max, "none": lambda x: 1.0}
REDUCE: dict[str, Callable] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


def scores(scene: ScoringContext, name: str, reduce: str = "mean", normalise: str = "auto") -> dict[Atom, np.ndarray]:
    """One score per channel, float64 [size], of each group that criterion `name` can rate."""
    criterion = lookup(name)
    scale = NORMALISE[criterion.normalise if normalise == "auto" else normalise]
    result = {}
    for atom, ratings in criterion.rate(scene).items():
        levels = [scale(r) for r in ratings]
        scaled = [r / level if level > 0 else r for r, level in zip(ratings, levels)]
        if scaled:
            result[atom] = REDUCE[reduce](np.stack(scaled), axis=0)
    return result


def lookup(name: str) -> Criterion:
    """The criterion `name`. Raises BadOption."""
    if name not in CRITERIA:
        raise BadOption(f"there is no criterion {name}", expected=", ".join(sorted(CRITERIA)), found=name)
    return CRITERIA[name]
