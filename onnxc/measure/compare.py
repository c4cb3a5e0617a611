"""Compare two models on the same data: how far their outputs are apart, and how accurate each is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxc.ir.errors import BadModel, VerificationError

if TYPE_CHECKING:
    from onnxc.ir.difference import Difference
    from onnxc.runtime.evaluate import Task
    from onnxc.runtime.feeding import Wishes


@dataclass(frozen=True)
class ComparisonReport:
    """What `compare` found: a `Difference` per output of the first model, the data's name and number of samples.

    `metrics` holds those of the first and of the second model on the data's labels, by name (accuracy, ...); both are
    empty without labels, or where no output has the form that they are for. `task` says which metric people are shown;
    `remarks` of which outputs the lengths differ, where data decide them, and of labels that tell no task;
    `fed` what was chosen of the inputs.
    """

    outputs: dict[str, Difference]
    data: str
    samples: int
    synthetic: bool
    metrics: tuple[dict[str, float], dict[str, float]]
    task: Task | None = None
    remarks: tuple[str, ...] = ()
    fed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As a table: a row for each output."""
        head = ("output", "max abs error", "max rel", "SNR dB", "top-1")
        rows = [
            (name, f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", f"{d.snr_db:.1f}", "" if d.top1 is None else f"{d.top1:.1%}")
            for name, d in self.outputs.items()
        ]
        used = [k for k in range(len(head)) if any(row[k] for row in rows)]
        wide = [max(len(head[k]), *(len(row[k]) for row in rows)) for k in used]
        lines = [
            "  ".join(row[k].rjust(n) if k else row[k].ljust(n) for k, n in zip(used, wide)) for row in (head, *rows)
        ]
        if self.task is not None:
            name = self.task.metric
            lines.append(f"{name}: {' and '.join(f'{m[name]:.4g}' for m in self.metrics)}")
        on = f"on {self.samples} sample{'s' * (self.samples != 1)} of {self.data}"
        return "\n".join([*lines, *self.remarks, "; ".join([on, *self.fed])])

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """The accuracies of both, where the labels are classes."""
        before, after = self.metrics
        return (before["accuracy"], after["accuracy"]) if "accuracy" in before else None

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
            "metrics": list(self.metrics),
            "remarks": list(self.remarks),
            "fed": list(self.fed),
        }


def compare(
    a, b, data=None, *, task=None, seed: int = 0, batch: int = 32, threads: int = 1, wishes: Wishes | None = None
) -> ComparisonReport:
    """Run models `a` (the reference) and `b` on the same batches.

    Both are whatever `onnxc.load` takes; `data` is whatever `open_data` takes, by default eight seeded random samples,
    for which `wishes` may say shapes and more (see `runtime.feeding`);
    `task` is whatever `find_task` takes, by default what the labels' form says.
    Raises `VerificationError` where inputs or outputs differ in name or form, `BadData` where the data do not fit.
    """
    from onnxc.ir.files import load
    from onnxc.runtime.evaluate import Comparison, find_task
    from onnxc.runtime.feeding import feed
    from onnxc.runtime.lengths import free_axes
    from onnxc.runtime.reference import Session
    from onnxc.runtime.scores import score_outputs
    from onnxc.runtime.tasks import untold

    protos = [load(model).to_proto() for model in (a, b)]
    try:
        first, second = (Session(proto, threads=threads) for proto in protos)
    except VerificationError as e:
        e.exit_status = BadModel.exit_status  # models as they were given
        raise
    _check_interface(first, second)
    source = feed(protos[0], data, wishes, seed=seed, runner=lambda proto, feeds: first.run(feeds))
    scores = score_outputs(protos[0].graph)
    both, samples = Comparison(task=find_task(task), free=free_axes(protos[0]), scores=scores), 0
    for feeds in source.batches(batch):
        labels = feeds.get("labels") if "labels" not in first.inputs else None
        outputs = first.run(feeds)
        both.add(outputs, second.run(feeds), labels)
        samples += feeds.samples
    told = () if labels is None or both.metrics else (untold(outputs, labels),)
    return ComparisonReport(
        both.outputs, source.name, samples, source.synthetic, (both.before, both.metrics), both.judged,
        (*both.lengths.values(), *told), tuple(source.remarks),
    )  # fmt: skip


def _check_interface(first, second) -> None:
    for what, mine, other in (
        ("inputs", list(first.inputs), list(second.inputs)),
        ("outputs", list(first.outputs), list(second.outputs)),
    ):
        if sorted(mine) != sorted(other):
            raise VerificationError(f"the models' {what} differ", expected=", ".join(mine), found=", ".join(other))
