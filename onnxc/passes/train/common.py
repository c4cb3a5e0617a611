"""What training passes share: the options of a schedule, and the run that hands an objective to the Trainer.

Where the form that is trained is one that a model can hold (a codebook, factors, quantised inputs), another pass gives the
model that form first (`before`), and its numbers are trained as all weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from ...ir.errors import BadOption
from ...ir.files import load
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Claim, Context, Pass, Report
from ..options import Range
from ..quant.binary import from_input, to_output
from .objective import Arithmetic, Form, History, Objective, Schedule, Teacher
from .weights import products, untied

Maker = Callable[..., Pass]
"""A registered pass, made of its options."""
AUGMENT = ("flip", "shift", "mix")


@dataclass(kw_only=True, repr=False, eq=False)
class Train(Pass):
    """Base of the training passes: a subclass says what is learnt by `objective`.

    Weights move, the graph stays: every initialiser keeps its name, shape and type. The weights of the epoch with the
    least loss on held samples are kept; where none was better than the model as it came, nothing changes.

    epochs: how often all samples are seen. batch: samples a step. rate: the largest learning rate of one cycle; none: the
    best of six in short trials. held: share of samples on which the best epoch is chosen. patience: epochs without
    progress before it ends; 0: never. augment: some of flip, shift, mix, for images, and
    module:function, which takes a batch as arrays by name and a NumPy generator, and returns such a batch. checkpoint: a file that a killed
    run goes on from. threads: part of the result, as sums depend on how they are split. topk_gradient: the share of the
    entries of each product's output gradient that go further. topk_over: the largest of each sample (meProp), or of the
    whole batch, or whole units, the largest over the batch, whose gradients alone are computed (meProp's unified form).
    ternary_gradient: gradients of weights become -s, 0 or s at random (TernGrad). shared_exponent: train in whole numbers of
    so many bits that share an exponent by tensor (Flexpoint). fixed_point: train in 16-bit numbers of so
    many bits behind the point, rounded at random (Gupta). precision: bfloat16 computes products and what they make in that
    format, forwards and backwards, which takes less time where the processor multiplies it; weights and losses stay float32, and
    epochs are judged in float32. average: the weights that are judged and left are moving averages over the steps, which keep this
    share of themselves at each (Polyak and Juditsky 1992), as of shared values; 0: no averages.
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
    topk_gradient: Annotated[float | None, Range(above=0, high=1)] = None
    topk_over: Literal["sample", "batch", "units"] = "sample"
    ternary_gradient: bool = False
    shared_exponent: Annotated[int | None, Range(2, 24)] = None
    fixed_point: Annotated[int | None, Range(0, 15)] = None
    precision: Literal["float32", "bfloat16"] = "float32"
    average: Annotated[float, Range(0, below=1)] = 0.0

    always = False
    """Whether the last weights are kept whatever the held loss says, as where the form of weights changes."""

    def __post_init__(self) -> None:
        known = all(a in AUGMENT or ":" in a for a in self.augment)
        self.within("augment", known, f"some of {', '.join(AUGMENT)} and module:function")
        if self.topk_over != "sample" and self.topk_gradient is None:
            raise BadOption("option topk_over needs topk_gradient", pass_name=self.name, found=self.topk_over)
        if self.shared_exponent is not None and self.fixed_point is not None:
            raise BadOption("weights have one format", pass_name=self.name, expected="shared_exponent or fixed_point",
                            found="both")  # fmt: skip
        emulated = (self.topk_gradient, self.shared_exponent, self.fixed_point)
        if self.precision != "float32" and any(e is not None for e in emulated):
            raise BadOption("what is emulated is emulated in float32", pass_name=self.name, found=f"precision={self.precision}",
                            remedy="leave out precision, or topk_gradient, shared_exponent and fixed_point")  # fmt: skip
        if self.average and (self.shared_exponent is not None or self.fixed_point is not None):
            raise BadOption("averages of weights are none of their format", pass_name=self.name,
                            remedy="leave out average, or shared_exponent and fixed_point")  # fmt: skip

    def before(self) -> list[Pass]:
        """Passes that give the model the form which is trained."""
        return []

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        raise NotImplementedError

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for p in self.before():
            self.prepared(p, model, ctx, report)
        tie = untied(model)
        objective = self.objective(model, ctx, report)
        if not self.fit(model, objective, self.schedule(), ctx, report, self.always):
            tie()
        return report

    def prepared(self, p: Pass, model: Model, ctx: Context, report: Report) -> None:
        """Run another pass on the model; its edits and notes join the report."""
        report.add_part(p.run(model, replace(ctx, verified=verify(model))))
        report.parts.clear()

    def fit(
        self, model: Model, objective: Objective, schedule: Schedule, ctx: Context, report: Report, always: bool
    ) -> bool:
        """One training, told in the report; whether it changed anything."""
        if ctx.trainer is None:
            raise BadOption("this pass trains, and was given no trainer", pass_name=self.name)
        history = ctx.trainer.fit(model, objective, schedule, ctx, keep_last=always)
        told(history, report)
        return bool(history.changed)

    def schedule(self) -> Schedule:
        arithmetic = Arithmetic(
            self.topk_gradient, self.topk_over, self.ternary_gradient, self.shared_exponent, self.fixed_point, self.precision,
        )  # fmt: skip
        return Schedule(
            self.epochs, self.batch, self.rate, self.held, self.patience, tuple(self.augment), self.checkpoint,
            self.threads, arithmetic, self.average,
        )  # fmt: skip

    def formed(self, model: Model, form: Form, skip: Sequence[str] = (), ends: bool = True) -> dict[str, Form]:
        """The form for the weight of every product, by name; where `ends`, those keep their floats that no product stands ahead of, or
        behind: the first of each input, the last of each output, as `quant.binary` has it."""
        found = {
            w.name: replace(form, axis=out) for node, w, out in products(model, skip)
            if not (ends and (from_input(model, node) or to_output(model, node)))
        }  # fmt: skip
        if not found:
            raise BadOption("no product is left to train", pass_name=self.name, remedy="ends=false, or a shorter skip")
        return found


@dataclass(kw_only=True, repr=False, eq=False)
class Taught(Train):
    """Base of passes that may learn from a teacher.

    teacher: the file of a model of the same inputs and outputs that teaches in the place of the model as given, as a larger one may.
    """

    teacher: str | None = None

    def taught(self, model: Model, ctx: Context, temperature: float = 2.0, features: float = 0.0) -> Teacher:
        """The model of the file, or else the model as the user gave it, as a teacher of `model`."""
        if self.teacher is not None:
            return Teacher(self._read(model, self.teacher), temperature, features)
        if ctx.original is None:
            raise BadOption("distillation needs the model as it was given", pass_name=self.name)
        return Teacher(ctx.original, temperature, features)

    def _read(self, model: Model, file: str) -> Model:
        made = load(file)
        inputs = {t.name for t in model.inputs}
        for t in made.inputs:
            if t.name not in inputs:
                raise BadOption("the teacher has an input that the model has not", pass_name=self.name,
                                expected=", ".join(sorted(inputs)), found=t.name, remedy="name it alike")  # fmt: skip
        outputs = {t.name: t for t in made.outputs}
        for t in model.outputs:
            other = outputs.get(t.name)
            if other is None or not _fits(t.shape, other.shape):
                raise BadOption("the teacher must have the model's outputs", pass_name=self.name,
                                expected=f"{t.name} {t.shape}",
                                found=f"{t.name} {other.shape}" if other is not None else ", ".join(outputs),
                                remedy="name it alike, or take a teacher of this task")  # fmt: skip
        return made


def _fits(one: Sequence | None, other: Sequence | None) -> bool:
    """Whether two shapes may be the same; None and names are extents that are not known."""
    if one is None or other is None:
        return True
    pairs = zip(one, other)
    return len(one) == len(other) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


@dataclass(kw_only=True, repr=False, eq=False)
class Learnt(Taught):
    """Base of passes that learn from labels where the data have them, else from the teacher.

    distil: from labels and the teacher's softened outputs together (Hinton 2015), as where a teacher is named.
    """

    distil: bool = False

    def learnt_from(self, model: Model, ctx: Context) -> dict[str, Any]:
        """Labels, the teacher or both: parts of an Objective."""
        labels = bool(getattr(ctx.data, "labelled", False))
        both = self.distil or self.teacher is not None
        return {"labels": labels, "teacher": self.taught(model, ctx) if both or not labels else None}


def told(history: History, report: Report) -> None:
    """The report of a training: weights changed, and how the held loss went."""
    for name in history.changed:
        report.edit(name, "trained")
    report.trainings.append(asdict(history))
    for note in history.notes:
        report.note(note)
    if history.sent:
        report.note(f"this process sent {history.sent:,} bytes of gradients")
    ran = f"{len(history.losses)} epochs, {history.steps} steps, largest rate {history.rate:.2g}"
    if history.best:
        report.note(f"{ran}: held loss {history.start:.4g} -> {history.loss:.4g} (epoch {history.best})")
    else:
        report.note(f"{ran}: no epoch had a smaller held loss than {history.start:.4g}; weights are left as they were")
