"""What a pass list did, as data: one Report for each pass, and what the numbers were measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .passes.base import Report

if TYPE_CHECKING:
    from .runtime.evaluate import Judge


LOST = 10.0
"""Signal to noise of the outputs, in dB, below which a model does no longer what it did."""
RISE, SLOWER = 5e-4, 0.05
"""From what share on a cost, or a time, counts as worse."""


@dataclass
class PipelineReport:
    """What a whole list did: one Report per pass, and what the numbers were measured on.

    metrics: of the model as it was given, by labels. metric: the one of them that people are shown; higher: more of it is better.
    synthetic: the data are random inputs. fed: what was chosen of the inputs.
    """

    rows: list[Report] = field(default_factory=list)
    data: str = ""
    fed: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    samples: int = 0
    check: str = "data"
    seed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    metric: str = "accuracy"
    higher: bool = True
    synthetic: bool = False

    @property
    def accuracy(self) -> float | None:
        """The share of labels that the model named as it was given; None without labels."""
        return self.metrics.get("accuracy")

    def take(self, judge: Judge, outputs: list[dict[str, np.ndarray]]) -> None:
        """The metrics of the model as it was given, by its outputs; a remark where labels tell none."""
        score = judge.score(outputs)
        self.metrics = score.values()
        if (labels := judge.labels[0]) is not None and not self.metrics:
            from .runtime.tasks import untold

            self.remarks.append(untold(outputs[0], labels))
        if score.task is not None:
            self.metric = score.task.metric
            self.higher = score.task.metrics[self.metric]().higher

    def warnings(self) -> list[str]:
        """What got worse by the passes of the list: bytes, parameters, MACs, time, and outputs that are lost."""
        found = []
        snr, time = float("inf"), 1.0
        for r in self.rows:
            for name, unit in (("bytes", "bytes"), ("params", "parameters"), ("macs", "MACs")):
                was, now = (getattr(c, name) if c else 0 for c in (r.before, r.after))
                if now > was * (1 + RISE) and name == "macs" and r.claim.kind == "exact":  # which adds no product
                    found.append(f"{r.name} finds extents that were not known: {now:,} MACs are counted, not {was:,}")
                elif now > was * (1 + RISE):
                    found.append(f"{r.name} raises {unit} from {was:,} to {now:,}")
            slower = r.error.get("time", time)
            if slower > time * (1 + SLOWER):
                found.append(f"{r.name} makes the model slower: {slower:.2f}x the time as given, {time:.2f}x before it")
            left = r.error.get("snr_db", snr)
            if left < LOST and self._is_as_good(r):
                left = snr  # other numbers, that the labels take for no worse
            if left < LOST <= snr:
                found.append(
                    f"{r.name} loses the outputs: {left:.1f} dB of signal to noise are left; retrain, or ask less of it"
                )
            snr, time = left, slower
        return found

    def _is_as_good(self, row: Report) -> bool:
        """Whether a pass leaves the metric no worse than that of the model as given."""
        now, was = row.error.get(self.metric, float("nan")), self.metrics.get(self.metric, float("nan"))
        return now >= was if self.higher else now <= was

    def to_dict(self) -> dict:
        """Plain numbers, strings, lists and dicts; ready for JSON but for infinities, which stand as None."""
        return finite(
            {
                "passes": [r.to_dict() for r in self.rows],
                "data": self.data,
                "fed": self.fed,
                "sizes": self.sizes,
                "remarks": self.remarks,
                "samples": self.samples,
                "check": self.check,
                "seed": self.seed,
                "accuracy": self.accuracy,
                "metrics": self.metrics,
                "warnings": self.warnings(),
            }
        )

    def __str__(self) -> str:
        from .cli.report import render

        return render(self)


def finite(value):
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
