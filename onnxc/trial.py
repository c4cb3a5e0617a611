"""What the manager tests passes on: the data, the outputs before a pass and after it, and the claim between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx

from .ir import qonnx
from .ir.errors import BadModel, ClaimError, NotTaken, OnnxcError, Unsupported, VerificationError
from .ir.model import Model, Tensor
from .ir.values import value_info
from .passes.base import Claim, Pass, Report
from .passes.layers.capture import MAX_BATCH
from .runtime.lengths import differs, fitted, sentence

if TYPE_CHECKING:
    from .require import Requirements
    from .runtime.data import Data
    from .runtime.evaluate import Evaluator, Judge, Task
    from .runtime.feeding import Wishes
    from .runtime.reference import Runner

SYNTHETIC_SAMPLES = 4
TIMED_ROUNDS = 21

Outputs = list[dict[str, np.ndarray]]

NO_KERNEL = "Could not find an implementation"
"""What ONNX Runtime says where it knows an operator, but has no kernel for this opset or these types."""


@dataclass
class Trial:
    """ONNX Runtime and the data. judge: holds the outputs of the model as it was given, which errors are measured
    against; None where claims are not tested. last: the outputs before the pass whose turn it is. require: what each pass
    must leave. clock: measures time where that was asked for. room: how many samples run at once, at the most."""

    runner: Runner
    data: Data
    task: Task | None = None
    judge: Judge | None = None
    last: Outputs = field(default_factory=list)
    require: Requirements | None = None
    clock: Clock | None = None
    room: int = MAX_BATCH

    @classmethod
    def of(
        cls, model: Model, source: object, seed: int, task: str | Task | None, wishes: Wishes | None = None
    ) -> Trial:
        """On the data that `source` names, or random inputs that the model takes (see `runtime.feeding.feed`).

        Raises OnnxcError."""
        from .runtime.feeding import feed
        from .runtime.reference import Runner
        from .runtime.tasks import find_task

        runner, lean = Runner(optimise=False), model.lean()
        with _as_given():
            try:
                data = feed(
                    lean.proto, source, wishes, seed=seed, samples=SYNTHETIC_SAMPLES,
                    runner=lambda _, feeds: runner(lean, feeds),
                )  # fmt: skip
            except VerificationError:
                without = qonnx.without_body(model)
                if without is not None:
                    raise without from None
                raise
        return cls(runner, data, find_task(task))

    def begin(self, model: Model) -> None:
        """Run the model as it was given: claims are tested from here on."""
        from .runtime.evaluate import SAMPLES

        limit = SYNTHETIC_SAMPLES if self.data.synthetic else SAMPLES
        with _as_given():
            self.judge = self.evaluator()(model.lean(), limit)
        self.last = self.judge.outputs

    def evaluator(self) -> Evaluator:
        """What passes judge models with."""
        from .runtime.evaluate import Evaluator

        return Evaluator(self.runner, self.data, self.task, self.room)

    def fit(self, model: Model) -> None:
        """From here on the data are resampled to the inputs of `model`."""
        from .runtime.resample import Resampled
        from .runtime.specs import input_specs

        self.data = cast("Data", Resampled(self.data, input_specs(_interface(model))))
        if self.judge is not None:
            self.judge.data = self.data

    def test(self, p: Pass, model: Model, unit: float, row: Report) -> dict[str, float]:
        """Hold `p` to its claim, for a model that computes with this unit roundoff, and measure what it left: see `errors`.
        `row` is told of outputs whose lengths have changed, where data decide them.

        Raises ClaimError.
        """
        if self.judge is None:
            return {}
        with _as_left(model.opset):
            outputs = self.judge.run(model.lean())
        claim = p.claim.at(unit)
        for t in model.outputs:
            free, told = self.judge.free.get(t.name, frozenset()), False
            for before, after in zip(self.last, outputs, strict=True):
                a, b = before[t.name], after[t.name]
                if claim.kind == "lossy" and a.dtype == b.dtype and differs(a, b, free):
                    if not told:
                        row.note(sentence(t.name, a, b))
                    b, told = fitted(a, b), True
                _hold(p, claim, t, a, b)
        self.last = outputs
        return self.errors(outputs)

    def errors(self, outputs: Outputs) -> dict[str, float]:
        """Metrics of `outputs` against the original model's, and by labels; see `runtime.evaluate.Comparison.to_dict`."""
        if self.judge is None:
            return {}
        found = self.judge.compare(outputs).to_dict()
        if self.data.synthetic:
            found.pop("top1", None)  # on a few random inputs that says nothing
        return found


class Clock:
    """Time of a model by that of the model as it was given: in ONNX Runtime with its optimisations, one sample, one thread,
    in turns with each other."""

    def __init__(self, model: Model, data: Data) -> None:
        self._base = _call(model, data)

    def ratio(self, model: Model, data: Data) -> float:
        """Time by time, the best of many rounds of both."""
        from .measure.bench import measure

        base, other = measure({"base": self._base, "other": _call(model, data)}, rounds=TIMED_ROUNDS)
        return other.best / base.best


def _call(model: Model, data: Data) -> Callable[[], object]:
    from .runtime.data import LABELS
    from .runtime.reference import Session

    session = Session(model.to_proto(), redraw=False)
    feeds = {name: a for name, a in next(iter(data.batches(1))).items() if name != LABELS}
    return lambda: session.run(feeds)


def _hold(p: Pass, claim: Claim, t: Tensor, a: np.ndarray, b: np.ndarray) -> None:
    """Raise ClaimError where the output `t` was `a` before the pass and is `b`, further off than the claim allows."""
    from .runtime.elements import is_float, step

    if a.shape != b.shape or a.dtype != b.dtype:
        raise ClaimError(
            "an output changed its form",
            tensor=t.name,
            expected=f"{a.dtype}{list(a.shape)}",
            found=f"{b.dtype}{list(b.shape)}",
            remedy=_remedy(p),
        )
    if claim.kind == "lossy":
        if a.dtype.kind == "f" and np.isfinite(a).all() and not np.isfinite(b).all():
            raise ClaimError(
                "the pass made outputs that are not finite",
                node=t.inputs[0].name if t.inputs else None, tensor=t.name, axis=max(a.ndim - 1, 0),
                expected="numbers", found="inf or NaN",
            )  # fmt: skip
        return
    if a.dtype.kind not in "fc" and not is_float(a.dtype):
        bad = a != b
        allowed, worst = 0.0, float(np.count_nonzero(bad))
    else:
        x, y = a.astype(np.float64), b.astype(np.float64)
        level = np.abs(x[np.isfinite(x)]).max(initial=0.0)
        allowed = claim.atol + claim.rtol * float(level)
        with np.errstate(invalid="ignore"):
            gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        gap = np.where(np.isnan(gap), np.inf, gap)
        # next to a tie the shorter type rounds to either side, whatever the sum was before
        bad, worst = gap > allowed + (step(a) if is_float(a.dtype) else 0.0), float(gap.max(initial=0.0))
    if bad.any():
        where = np.argwhere(bad)[0]
        raise ClaimError(
            f"the claim {claim} does not hold at index {where.tolist()}",
            node=t.inputs[0].name if t.inputs else None, tensor=t.name, axis=max(a.ndim - 1, 0),
            expected=f"a change of at most {allowed:.3g}", found=f"{worst:.3g}",
            remedy=_remedy(p),
        )  # fmt: skip


def _remedy(p: Pass) -> str:
    """What to do about a claim that fails: a pass of ours is at fault, one of somebody else's is theirs to correct."""
    home = type(p).__module__
    if home.split(".")[0] == __package__:
        return "report it with the model; nothing was written"
    return f"the pass comes from {home}: correct it there, or give it a claim that holds; nothing was written"


@contextmanager
def _as_given() -> Iterator[None]:
    try:
        yield
    except VerificationError as e:
        as_input(e, "the model as given does not run: repair it, or use --check shapes")
        raise


@contextmanager
def _as_left(opset: int) -> Iterator[None]:
    """Operators that a pass has put in may be newer than what ONNX Runtime has kernels for, though all others are not."""
    try:
        yield
    except NotTaken as e:
        if NO_KERNEL not in e.what:
            raise
        raise Unsupported(
            f"{e.what}, as this pass needs it", node=e.node, found=f"a model of opset {opset}",
            remedy="export it with an older opset, leave the pass out, or use --check shapes",
        ) from e  # fmt: skip


def is_taken(model: Model) -> bool:
    """Whether ONNX Runtime opens a session on the model."""
    from .runtime.reference import Session

    try:
        Session(model.lean(), redraw=False)
    except (NotTaken, Unsupported):
        return False
    return True


def as_input(e: OnnxcError, remedy: str) -> None:
    """Let an error say that the input is at fault, and what to do unless it says that itself."""
    e.exit_status = BadModel.exit_status
    e.remedy = e.remedy or remedy


def _interface(model: Model) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.graph.input.extend(value_info(t) for t in model.inputs)
    return proto
