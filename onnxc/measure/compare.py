"""Compare two models on the same data: how far their outputs are apart, and how accurate each is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxc.ir.errors import VerificationError

if TYPE_CHECKING:
    from onnxc.runtime.metrics import Difference


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: a `Difference` per output of the first model, the data's name and number of samples.

    `accuracy` holds the accuracies of the first and the second model on the data's labels; None without labels, or
    where the first output is no row of scores per sample.
    """

    outputs: dict[str, Difference]
    data: str
    samples: int
    synthetic: bool
    accuracy: tuple[float, float] | None

    @property
    def max_rel(self) -> float:
        """The largest relative error over all outputs."""
        return max((difference.max_rel for difference in self.outputs.values()), default=0.0)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "outputs": {name: difference.to_dict() for name, difference in self.outputs.items()},
            "data": self.data,
            "samples": self.samples,
            "synthetic": self.synthetic,
            "accuracy": list(self.accuracy) if self.accuracy else None,
        }


def compare(a, b, data=None, *, seed: int = 0, batch: int = 32, threads: int = 1) -> Comparison:
    """Run models `a` (the reference) and `b` on the same batches.

    Both are whatever `onnxc.load` takes; `data` is whatever `open_data` takes, by default eight seeded random samples.
    Raises `VerificationError` where inputs or outputs differ in name or form, `BadData` where the data do not fit.
    """
    from onnxc.ir.files import load
    from onnxc.runtime.data import open_data
    from onnxc.runtime.metrics import Difference
    from onnxc.runtime.reference import Session

    first, second = (Session(load(model).to_proto(), threads=threads) for model in (a, b))
    _check_interface(first, second)
    source = open_data(data, first.inputs, seed=seed)
    outputs = {name: Difference() for name in first.outputs}
    samples, hits = 0, [0, 0]
    scored = True
    for feeds in source.batches(batch):
        results = first.run(feeds), second.run(feeds)
        for name, difference in outputs.items():
            difference.add(results[0][name], results[1][name], name)
        labels = feeds.get("labels") if "labels" not in first.inputs else None
        samples += len(labels) if labels is not None else _rows(feeds)
        scores = [result[first.outputs[0]] for result in results] if first.outputs else []
        scored = scored and labels is not None and bool(scores) and scores[0].shape[:1] == labels.shape
        scored = scored and scores[0].ndim == 2
        if scored:
            hits = [hit + int((score.argmax(1) == labels).sum()) for hit, score in zip(hits, scores)]
    accuracy = (hits[0] / samples, hits[1] / samples) if scored and samples else None
    return Comparison(outputs, source.name, samples, source.synthetic, accuracy)


def _check_interface(first, second) -> None:
    for what, mine, other in (
        ("inputs", list(first.inputs), list(second.inputs)),
        ("outputs", list(first.outputs), list(second.outputs)),
    ):
        if sorted(mine) != sorted(other):
            raise VerificationError(f"the models' {what} differ", expected=", ".join(mine), found=", ".join(other))


def _rows(feeds) -> int:
    return next((len(array) for array in feeds.values() if array.ndim), 1)
