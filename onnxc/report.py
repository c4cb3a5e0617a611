"""What a pass list did, as data: one Report for each pass, and what the numbers were measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .passes.base import Report

if TYPE_CHECKING:
    from .runtime.evaluate import Score


@dataclass
class PipelineReport:
    """What a whole list did: one Report per pass, and what the numbers were measured on.

    metrics: of the model as it was given, by labels. metric: the one of them that people are shown.
    """

    rows: list[Report] = field(default_factory=list)
    data: str = ""
    samples: int = 0
    check: str = "data"
    seed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    metric: str = "accuracy"

    @property
    def accuracy(self) -> float | None:
        """The share of labels that the model named as it was given; None without labels."""
        return self.metrics.get("accuracy")

    def take(self, score: Score) -> None:
        """The metrics of the model as it was given."""
        self.metrics = score.values()
        if score.task is not None:
            self.metric = score.task.metric

    def to_dict(self) -> dict:
        """Plain numbers, strings, lists and dicts; ready for JSON but for infinities, which stand as None."""
        return _finite(
            {
                "passes": [r.to_dict() for r in self.rows],
                "data": self.data,
                "samples": self.samples,
                "check": self.check,
                "seed": self.seed,
                "accuracy": self.accuracy,
                "metrics": self.metrics,
            }
        )

    def __str__(self) -> str:
        from .cli.report import render

        return render(self)


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
