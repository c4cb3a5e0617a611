"""What a pass is: options, a claim, a run that edits a model and reports; and its entry in the table of passes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import onnx

from ..ir.analysis import analyse
from ..ir.cost import Cost
from ..ir.difference import Difference
from ..ir.errors import BadOption
from ..ir.lean import Lean
from ..ir.model import Model
from ..ir.product import Predict
from ..ir.verify import Verified, verify
from .layers.capture import MAX_BATCH, Probe, Stream
from .options import ranges

T = TypeVar("T")

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Claim:
    """What a pass promises of the outputs.

    kind: "exact" (the same numbers but for the rounding of constants folded ahead of time), "tolerance" or "lossy".
    The error allowed is atol + rtol * max|reference| for each output; integer and boolean outputs must be equal.
    """

    kind: str
    atol: float = 0.0
    rtol: float = 0.0

    EXACT: ClassVar[Claim]
    LOSSY: ClassVar[Claim]

    @staticmethod
    def TOLERANCE(atol: float, rtol: float) -> Claim:
        return Claim("tolerance", atol, rtol)

    def at(self, unit: float) -> Claim:
        """The claim for a model that computes with this unit roundoff: four of them may add up in any case."""
        return self if self.kind == "lossy" or 4 * unit <= self.rtol else dataclasses.replace(self, rtol=4 * unit)

    @staticmethod
    def of_all(claims: Iterable[Claim]) -> Claim:
        """What several passes in turn promise: errors of outputs add up at most, by the triangle inequality."""
        found = list(claims)
        if any(c.kind == "lossy" for c in found):
            return Claim.LOSSY
        kind = "tolerance" if any(c.kind == "tolerance" for c in found) else "exact"
        return Claim(kind, sum(c.atol for c in found), sum(c.rtol for c in found))

    def __str__(self) -> str:
        return f"±{self.rtol:g}" if self.kind == "tolerance" else self.kind


Claim.EXACT = Claim("exact", 0.0, 1e-6)
Claim.LOSSY = Claim("lossy")


@dataclass(frozen=True)
class Edit:
    """One thing that a pass did: the node that it names and what became of it."""

    node: str
    what: str


@dataclass(frozen=True)
class Refusal:
    """One thing that a pass left alone, and why."""

    node: str
    reason: str


class Idle(str):
    """A note that there was nothing to do; it is dropped where there was within bodies."""


@dataclass
class Report:
    """What one pass did. The manager fills in claim, cost, errors and seconds.

    error: metrics of the outputs against the original model's (max_abs, max_rel, snr_db, top1) and, with labels, of the
    task (accuracy, ...). parts: of a list within a list, what each of its passes did. trainings: of passes that train, how the
    losses and the batch-norm scales went (`passes.train.objective.History`).
    """

    edits: list[Edit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    name: str = ""
    claim: Claim = Claim.LOSSY
    before: Cost | None = None
    after: Cost | None = None
    error: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    parts: list[Report] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)

    def edit(self, node: str, what: str) -> None:
        self.edits.append(Edit(node, what))

    def refuse(self, node: str, reason: str) -> None:
        self.refusals.append(Refusal(node, reason))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def add_part(self, part: Report) -> None:
        """Take in what one pass of a list did."""
        self.parts.append(part)
        self.take(part)

    def take(self, other: Report) -> None:
        """Take in what another says was done, refused and noted."""
        self.edits += other.edits
        self.refusals += other.refusals
        self.notes += other.notes

    def to_dict(self) -> dict:
        row = {
            "pass": self.name,
            "claim": str(self.claim),
            "edits": [dataclasses.asdict(e) for e in self.edits],
            "refusals": [dataclasses.asdict(r) for r in self.refusals],
            "notes": list(self.notes),
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
            "error": dict(self.error),
            "seconds": self.seconds,
        }
        row |= {"trainings": self.trainings} if self.trainings else {}
        return row | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})


class Runner(Protocol):
    """Runs models for passes that need activations; ONNX Runtime behind it. A `Model.lean()` is run without a copy of its
    weights."""

    def __call__(
        self, model: onnx.ModelProto | Lean, feeds: Feeds, outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The named tensors (graph outputs by default, intermediates too) for one batch."""

    def prepare(
        self, model: onnx.ModelProto | Lean, outputs: Sequence[str] | None = None
    ) -> Callable[[Feeds], dict[str, np.ndarray]]:
        """The same, made ready once for many batches."""


class Judgement(Protocol):
    """A model's outputs beside a reference's and beside labels. See `onnxc.runtime.evaluate.Comparison`.

    noise: power of the error by power of the reference, of the worst output. metrics: of the task, by name; empty
    without labels.
    """

    @property
    def outputs(self) -> Mapping[str, Difference]: ...

    @property
    def noise(self) -> float: ...

    @property
    def metrics(self) -> dict[str, float]: ...


class Judge(Protocol):
    """Measures models beside the reference that it was made with, on `samples` samples."""

    samples: int

    def __call__(self, model: onnx.ModelProto | Lean) -> Judgement: ...


class Evaluator(Protocol):
    """Makes judges; ONNX Runtime, the data and the task behind it."""

    def __call__(self, reference: onnx.ModelProto | Lean, samples: int = ...) -> Judge: ...


class Data(Protocol):
    """Samples for passes that need activations. See `onnxc.runtime.data.Data`."""

    name: str
    samples: int | None

    def batches(self, size: int = ..., limit: int | None = ...) -> Iterator[Any]:
        """Batches of at most `size` samples: arrays by name."""


class Trainer(Protocol):
    """Trains models for training passes; torch behind it."""

    def fit(self, model: Model, objective, schedule, ctx: Context, keep_last: bool = False):
        """Train the weights of `model` in place; returns a History (`passes.train.objective`)."""


@dataclass
class Context:
    """What a pass may use beside the model.

    verified: the analysis of the model as it came in. runner and data: see `tensors`. synthetic: the data are
    random inputs. evaluator: see `evaluate`. trial: the manager's own. original: the model as the user gave it. source: the
    model ahead of the passes just before that keep tensors (`Pass.keeps_tensors`), if any did. trainer: what training
    passes train with. predictor: see `predict`. room: how many samples run at once, at the most. progress: told
    what a pass is at, and the share of it that is behind; see `each`.
    """

    verified: Verified
    seed: int = 0
    runner: Runner | None = None
    data: Data | None = None
    synthetic: bool = True
    evaluator: Evaluator | None = None
    trial: Any = None
    original: Model | None = None
    source: Model | None = None
    trainer: Trainer | None = None
    predictor: Callable[[str], Predict] | None = None
    room: int = MAX_BATCH
    progress: Callable[[str, float], None] = lambda text, share: None
    counting = False  # whether `each` tells of the way: samples within it do not

    def each(self, items: Sequence[T], what: str = "layer") -> Iterator[T]:
        """The items, with word of each: `layer 3 of 20`."""
        outermost, self.counting = not self.counting, True
        try:
            for k, item in enumerate(items):
                if outermost:
                    self.progress(f"{what} {k + 1} of {len(items)}", k / len(items))
                yield item
        finally:  # a zip leaves it behind without an end
            self.counting = self.counting and not outermost

    def seen(self, samples: int, whole: int | None) -> None:
        """So many samples of the `whole` have been looked at."""
        if whole and not self.counting:
            self.progress(f"sample {min(samples, whole)} of {whole}", min(samples / whole, 1.0))

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def batches(self, size: int = 32) -> Iterator[Feeds]:
        """Calibration batches in order (`labels` may be among the arrays). Each call starts again."""
        if self.data is None:
            raise BadOption("this pass needs data", remedy="give --data")
        return self.data.batches(size)

    def tensors(self, model: Model, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """The named tensors of `model` on each calibration batch, one batch at a time; what they take is bounded."""
        if self.runner is None or self.data is None:
            raise BadOption("this pass looks at activations, and was given no runner or no data")
        return map(Probe(self, model, names), Stream(self, analyse(model), names))

    def predict(self, target: str) -> Predict:
        """What predicts the times of products as they are compiled for a target."""
        if self.predictor is None:
            raise BadOption("this pass weighs predicted times, and was given no predictor")
        return self.predictor(target)

    def evaluate(self, reference: Model, samples: int) -> Callable[[Model], Judgement]:
        """What measures a model beside `reference`, which is run once, on at most so many calibration samples."""
        if self.evaluator is None:
            raise BadOption("this pass measures outputs, and was given no evaluator")
        judge = self.evaluator(reference.lean(), samples)
        return lambda model: judge(model.lean())


class Pass:
    """Base of all passes. A subclass states its options as annotated fields, its claim, and `run`.

    `run` edits `model`, a copy that is thrown away should anything fail, and never writes shapes.
    requires: names of passes that must have run before, in this list or by the manager.
    needs_data: whether it looks at activations (random inputs, and a note, where the user gave none).
    changes_inputs: whether it may change extents of the model's inputs; data are then resampled for what follows.
    bodies: whether it works in bodies of If, Loop and Scan too, each as a model of its own without data. reaches: whether it
    does so by itself. keeps_tensors: whether a tensor that keeps its name and shape stands for what it stood for, so that a
    later pass may repair it after the model as it was before.
    """

    name: ClassVar[str] = ""
    claim: Claim = Claim.LOSSY
    requires: ClassVar[tuple[str, ...]] = ()
    needs_data: bool = False
    changes_inputs: bool = False
    bodies: ClassVar[bool] = False
    reaches: ClassVar[bool] = False
    keeps_tensors: ClassVar[bool] = False
    implied = False  # whether another pass asked for it, not the user

    def run(self, model: Model, ctx: Context) -> Report:
        raise NotImplementedError

    def members(self) -> set[str]:
        """The names of the passes that it runs: its own, but for lists of passes."""
        return {self.name}

    @classmethod
    def summary(cls) -> str:
        """The first sentence of its docstring."""
        first = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
        # an abbreviation ("eq. 3") ends no sentence
        end = re.search(r"(?<!\beq)(?<!\bno)(?<!\bsec)\. (?=[A-Z`\"])", first)
        return (first[: end.start() + 1] if end else first).rstrip(":")

    def within(self, option: str, fits: bool, expected: str) -> None:
        """Raise BadOption unless the value of `option` fits; `expected` says what would."""
        if not fits:
            found = getattr(self, option)
            raise BadOption(f"option {option} does not fit", pass_name=self.name, expected=expected, found=found)

    def options(self) -> dict[str, object]:
        """The options that differ from their defaults."""
        return {
            f.name: getattr(self, f.name) for f in option_fields(type(self)) if getattr(self, f.name) != default_of(f)
        }

    def __str__(self) -> str:
        options = ", ".join(f"{k}={show(v)}" for k, v in self.options().items())
        return f"{self.name}({options})" if options else self.name


def option_fields(cls: type[Pass]) -> tuple[dataclasses.Field, ...]:
    """The options of a registered pass, as fields of the dataclass that `register` has made of it."""
    fields: Callable[[Any], tuple[dataclasses.Field, ...]] = dataclasses.fields
    return fields(cls)


_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
"""Texts that need no quotes: they begin with a letter, so that they cannot be numbers."""


def default_of(f: dataclasses.Field) -> object:
    """What an option is where it is not given; `dataclasses.MISSING` where it must be."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def show(value: object) -> str:
    """An option's value as pass lists write it: `true`, `none`, `0.3`, `word`, `"two words"`, `[1, 2]`, `{key: 1}`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    text = str(value)
    if isinstance(value, str) and (
        not _PLAIN.fullmatch(text) or text.lower() in ("true", "false", "none", "inf", "nan", "infinity")
    ):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def interface(p: Pass, before: Model, after: Model) -> Model:
    """What `after` must be like: `before`, with the extents that inputs have now where `p` may change them."""
    if not p.changes_inputs:
        return before
    like = before.copy()
    for old, new in zip(like.inputs, after.inputs):
        if (
            old.name == new.name
            and old.shape is not None
            and new.shape is not None
            and len(old.shape) == len(new.shape)
        ):
            old.shape = new.shape
    return like


def apply(p: Pass, model: Model, **context) -> tuple[Model, Report]:
    """Run one pass on a copy of `model`, verified before and after, without claims or data: for tests and scripts."""
    work = model.copy()
    report = p.run(work, Context(verify(work), **context))
    verify(work, like=interface(p, model, work))
    return work, report


def _within_ranges(cls: type[Pass]) -> Callable[[Any], None]:
    """A `__post_init__` that refuses what is outside of a declared range ahead of what the class itself checks."""
    own = getattr(cls, "__post_init__", None)

    def check(self: Pass) -> None:
        for option, allowed in ranges(cls).items():
            self.within(option, allowed.holds(getattr(self, option)), str(allowed))
        if own is not None:
            own(self)

    return check


PASSES: dict[str, type[Pass]] = {}
ALIASES: dict[str, str] = {}


def register(name: str, *, alias: str | None = None) -> Callable[[type[Pass]], type[Pass]]:
    """Enter a Pass class under `family.method` (and a bare family name); its annotated fields become options."""

    def enter(cls: type[Pass]) -> type[Pass]:
        if not isinstance(cls, type) or not issubclass(cls, Pass):
            raise BadOption("only a subclass of Pass can be registered", found=cls)
        other = PASSES.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BadOption(
                "two passes have this name", pass_name=name, found=f"{other.__module__} and {cls.__module__}"
            )
        setattr(cls, "__post_init__", _within_ranges(cls))  # noqa: B010  no attribute of Pass: dataclasses call it
        cls = dataclass(kw_only=True, repr=False, eq=False)(cls)
        cls.name = name
        PASSES[name] = cls
        if alias:
            ALIASES[alias] = name
        return cls

    return enter
