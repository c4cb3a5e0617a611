"""What training passes share: the options of a schedule, and the run that hands an objective to the Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report
from ..options import Range
from .objective import History, Objective, Schedule, Teacher
from .weights import untied

AUGMENT = ("flip", "shift", "mix")


@dataclass(kw_only=True, repr=False, eq=False)
class Train(Pass):
    """Base of the training passes: a subclass says what is learnt by `objective`.

    Weights move, the graph stays: every initialiser keeps its name, shape and type. The weights of the epoch with the
    least loss on held samples are kept; where none was better than the model as it came, nothing changes.

    epochs: how often all samples are seen. batch: samples a step. rate: the largest learning rate of one cycle; none: the
    best of six in short trials. held: share of samples on which the best epoch is chosen. patience: epochs without
    progress before it ends; 0: never. augment: some of flip, shift, mix, for images. checkpoint: a file that a killed
    run goes on from. threads: part of the result, as sums depend on how they are split.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    needs_data = True

    epochs: Annotated[int, Range(1)] = 3
    batch: Annotated[int, Range(1)] = 32
    rate: Annotated[float | None, Range(above=0)] = None
    held: Annotated[float, Range(0, below=1)] = 0.1
    patience: Annotated[int, Range(0)] = 0
    augment: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    threads: Annotated[int, Range(1, 1024)] = 1

    always = False
    """Whether the last weights are kept whatever the held loss says, as where the form of weights changes."""

    def __post_init__(self) -> None:
        self.within("augment", all(a in AUGMENT for a in self.augment), f"some of {', '.join(AUGMENT)}")

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        raise NotImplementedError

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        untied(model)
        objective = self.objective(model, ctx, report)
        if ctx.trainer is None:
            raise BadOption("this pass trains, and was given no trainer", pass_name=self.name)
        history = ctx.trainer.fit(model, objective, self.schedule(), ctx, keep_last=self.always)
        told(history, report)
        return report

    def schedule(self) -> Schedule:
        return Schedule(
            self.epochs, self.batch, self.rate, self.held, self.patience, tuple(self.augment), self.checkpoint,
            self.threads,
        )  # fmt: skip

    def learnt_from(self, ctx: Context) -> dict[str, Any]:
        """Labels where the data have them, else the model as it was given: parts of an Objective."""
        if getattr(ctx.data, "labelled", False):
            return {"labels": True}
        return {"teacher": self.teacher(ctx, 2.0, 0.0)}

    def teacher(self, ctx: Context, temperature: float, features: float) -> Teacher:
        """The model as the user gave it, as a teacher."""
        if ctx.original is None:
            raise BadOption("distillation needs the model as it was given", pass_name=self.name)
        return Teacher(ctx.original, temperature, features)


def told(history: History, report: Report) -> None:
    """The report of a training: weights changed, and how the held loss went."""
    for name in history.changed:
        report.edit(name, "trained")
    ran = f"{len(history.losses)} epochs, {history.steps} steps, largest rate {history.rate:.2g}"
    if history.best:
        report.note(f"{ran}: held loss {history.start:.4g} -> {history.loss:.4g} (epoch {history.best})")
    else:
        report.note(f"{ran}: no epoch had a smaller held loss than {history.start:.4g}; weights are left as they were")
