"""The transactional manager: passes run on a copy that is verified, checked against its claim, then kept or dropped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .ir import foreign
from .ir.bodies import unread
from .ir.cost import cost, has_bodies, uncounted
from .ir.declared import correct_as_run, correct_outputs, freeze_inputs
from .ir.errors import BadModel, BadOption, DimensionError, InferenceObjects, OnnxcError, VerificationError
from .ir.files import load
from .ir.garbage import patient
from .ir.live import peak_bytes
from .ir.model import Model
from .ir.product import Predict
from .ir.verify import Verified, verify
from .passes.base import Claim, Context, Pass, Report, interface
from .passes.blas import one_thread
from .passes.inside import run_inside
from .passes.layers.capture import room
from .passes.registry import make
from .recipe import resolve
from .report import PipelineReport
from .require import Requirements
from .trial import Clock, Trial, as_input, is_taken

if TYPE_CHECKING:
    from .runtime.feeding import Wishes
    from .runtime.tasks import Task


@dataclass
class Result:
    """A transformed model and the report on how it came about."""

    model: Model
    report: PipelineReport

    def _repr_html_(self) -> str:
        from .cli.html import transform_page
        from .ir.escape import framed

        return framed(transform_page(self.report))


class Pipeline(Pass):
    """A list of passes with settings, ready to run on models; a pass itself, so that lists stand in lists.

    check: "data" runs the model before and after each pass in ONNX Runtime, on `data` or on seeded random inputs, and
    tests the pass's claim. "shapes" keeps the dimension check, strict inference and the interface check only. task: what
    labels mean (see `runtime.tasks.find_task`, for metric and decode too); by default what their form says. wishes:
    shapes of inputs, which axis counts samples, arrays of single inputs (see `runtime.feeding`). freeze: shapes that are wished
    for are written into the model. In another list, that list's settings hold.
    """

    name = "list"

    def __init__(
        self,
        passes: str | Sequence[str | Pass | type[Pass]],
        *,
        data: object = None,
        check: str = "data",
        seed: int = 0,
        task: str | Task | None = None,
        metric: str | None = None,
        decode: str | None = None,
        require: str = "",
        time: bool = False,
        wishes: Wishes | None = None,
        freeze: bool = False,
        progress: Callable[[str], None] | None = None,
    ):
        if check not in ("data", "shapes"):
            raise BadOption("there is no such check", expected="data or shapes", found=check)
        if not isinstance(seed, int) or seed < 0:
            raise BadOption("a seed does not fit", expected="an integer, at least 0", found=seed)
        self.passes = with_requirements(resolve(passes))
        self.data, self.check, self.seed, self.wishes = data, check, seed, wishes
        if freeze and (wishes is None or not wishes.shapes):
            raise BadOption("there is nothing to freeze", remedy="give --shape NAME=1x3x224x224 or SYMBOL=N")
        self.freeze = freeze
        self.task = task
        if task is not None or metric is not None or decode is not None:
            from .runtime.tasks import find_task

            self.task = find_task(task, metric, decode)
        self.require = require
        self.time = time or (bool(require) and Requirements(require).timed)
        self.progress = progress or (lambda text: None)
        self.detail: Callable[[str, float], None] = lambda text, share: None
        self.claim = Claim.of_all(p.claim for p in self.passes)
        self.needs_data = any(p.needs_data for p in self.passes)
        self.changes_inputs = any(p.changes_inputs for p in self.passes)

    def members(self) -> set[str]:
        return {self.name}.union(*(p.members() for p in self.passes))

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.passes))}]"

    @np.errstate(all="ignore")  # weights may hold what they like: what is not finite is told of results
    def transform(self, model) -> Result:
        """Transform a model (path, bytes, ModelProto, gs.Graph or Model), which is never changed. Raises OnnxcError."""
        work = load(model).copy()
        with patient():
            return self._transformed(work)

    def _transformed(self, work: Model) -> Result:
        frozen, wishes = self._frozen(work) if self.freeze else ([], self.wishes)
        ctx = Context(
            sound(work, runs=self.check == "data"),
            seed=self.seed,
            original=work.copy(),
            trainer=_Trainer(),
            predictor=_predictor,
        )
        report = PipelineReport(
            check=self.check, seed=self.seed, remarks=frozen + ctx.verified.remarks + foreign.remarks(work)
        )
        tested = self.check == "data"
        if tested or self.data is not None or self.needs_data:
            _fits(cost(work, ctx.verified, sizes={}).peak_bytes)  # at the least
            self.detail("runs on the data", 0.0)
            ctx.trial = Trial.of(work, self.data, self.seed, self.task, wishes)
            if work.lax:
                _as_it_runs(work, ctx.verified, ctx.trial)
            report.data, report.fed = ctx.trial.data.name, list(ctx.trial.data.remarks)
        if ctx.trial is None:
            ctx.verified = at_usual_shapes(work, wishes, verify)
            report.remarks = [*report.remarks, *ctx.verified.remarks]
        else:
            work.shapes = ctx.trial.data.shapes()
            ctx.verified = verify(work)  # read at these sizes
        if ctx.trial is not None and tested:
            ctx.trial.room = room(peak_bytes(work, ctx.verified))
            ctx.trial.begin(work)
            report.samples = ctx.trial.judge.samples
            report.take(ctx.trial.judge, ctx.trial.last)
            report.synthetic = ctx.trial.data.synthetic
            wrong = correct_as_run(work, {name: a.shape for name, a in ctx.trial.last[0].items()})
            if wrong:
                ctx.verified = verify(work)
                report.remarks = [*report.remarks, *wrong]
        if self.time:
            if ctx.trial is None:
                raise BadOption("time is measured with --check data")
            ctx.trial.clock = Clock(work, ctx.trial.data)
        require = Requirements(self.require) if self.require else None
        if require is not None:
            require.take(report.metrics, report.metric, tested=tested, higher=report.higher)
            if ctx.trial is not None:
                ctx.trial.require = require
        report.sizes = open_sizes(work)
        report.remarks = [*report.remarks, *uncounted_said(work, ctx.verified)]
        report.rows = self.run(work, ctx).parts
        if require is not None and report.rows:
            require.costs(report.rows[-1], report.rows[0])
        return Result(work, report)

    def _frozen(self, model: Model) -> tuple[list[str], Wishes]:
        """Write the wished shapes into `model`: remarks, and the wishes that are left."""
        from .runtime.feeding import Wishes, wished_sizes
        from .runtime.specs import input_specs

        wishes = self.wishes or Wishes()
        sizes = wished_sizes(input_specs(model.to_proto(weights=False), wishes.samples, values=False), wishes)
        return freeze_inputs(model, sizes, wishes.shapes), replace(wishes, shapes={})

    def run(self, model: Model, ctx: Context) -> Report:
        """Run the passes in turn, each on a copy that is kept or dropped; the model becomes what the last one leaves."""
        current, verified, whole = model, ctx.verified, Report()
        trial = None if ctx.trial is None else replace(ctx.trial)
        before = cost(current, verified)
        source: Model | None = None
        for p in self.passes:
            self.progress(str(p))
            start = time.perf_counter()
            here = _context(verified, ctx, trial)
            here.room, here.progress, here.source = room(before.peak_bytes), self.detail, source
            source = (source or current.copy()) if p.keeps_tensors else None
            current, verified, row = _step(p, current, here)
            row.name, row.claim, row.before = str(p), p.claim, before
            row.after = before = cost(current, verified)
            row.seconds = time.perf_counter() - start
            if trial is not None and trial.clock is not None:
                row.error["time"] = trial.clock.ratio(current, trial.data)
            whole.add_part(row)
        model.adopt(current)
        return whole


def _required(trial: Trial, row: Report) -> None:
    if trial.require is not None:
        trial.require.qualities(row)


def open_sizes(model: Model) -> list[str]:
    """At which extents the costs of a model with open axes are counted: `H = 64`, in words; one sample goes without saying where
    the axis is called so."""
    from .runtime.samples import is_batch

    found: dict[str, int] = {}
    for t in model.inputs:
        for axis, (dim, extent) in enumerate(zip(t.shape or (), model.shapes.get(t.name, ()))):
            if not isinstance(dim, int) and (extent != 1 or not is_batch(dim)):
                found.setdefault(dim or f"{t.name}[{axis}]", extent)
    return [f"{name} = {extent}" for name, extent in found.items()]


def at_usual_shapes(model: Model, wishes: Wishes | None, check: Callable[[Model], Verified]) -> Verified:
    """`check(model)`, with the costs counted at the shapes that are wished for or usual, or, where the model does not take
    those, at others that it runs with; its remarks say where there are none. Raises OnnxcError."""
    from .runtime.feeding import feed, usual_shapes

    usual = model.shapes = usual_shapes(model.to_proto(weights=False), wishes)
    found = check(model)
    left = _uncounted(model, found)
    if not left:
        return found
    with suppress(OnnxcError):
        model.shapes = feed(model.to_proto(), None, wishes, samples=1).shapes()
        again = verify(model)
        if _uncounted(model, again) < left:
            return replace(again, remarks=found.remarks)
    model.shapes = usual if left < math.inf else {}
    if model.shapes:
        return found
    why = f"extents that are no numbers count as 1 in costs: {found.analysis.unfit}; give --shape"
    return replace(verify(model), remarks=[*found.remarks, why])


def _uncounted(model: Model, verified: Verified) -> float:
    """How many products count an extent as 1 that only a run tells; infinitely many where the model does not take its shapes."""
    found = uncounted(model, verified) if model.shapes else []
    return math.inf if verified.analysis.unfit else len(found)


def uncounted_said(model: Model, verified: Verified) -> list[str]:
    """What is to be said of products whose extents only a run tells."""
    lost = unread(model, verified) if has_bodies(model) else []
    said = (
        [f"the body of {_few(lost)} cannot be read by itself: nothing in it is counted, or worked on"] if lost else []
    )
    names = uncounted(model, verified) if model.shapes else []
    if not names:
        return said
    what = f"{len(names)} products have extents or turns" if len(names) > 1 else "1 product has extents or turns"
    their = "their" if len(names) > 1 else "its"
    return [*said, f"{what} that only a run tells; {their} MACs are counted too low ({_few(names)})"]


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest}"


def _context(verified: Verified, outer: Context, trial: Trial | None) -> Context:
    ctx = replace(outer, verified=verified, trial=trial)
    if trial is not None:
        ctx.runner, ctx.data, ctx.synthetic = trial.runner, trial.data, trial.data.synthetic
        ctx.evaluator = trial.evaluator()
    return ctx


def _step(p: Pass, model: Model, ctx: Context) -> tuple[Model, Verified, Report]:
    """Run one pass on a copy: the model as it leaves it, verified, and what it did; the same model where that is nothing."""
    work, trial = model.copy(), ctx.trial
    try:
        with one_thread():
            row = p.run(work, ctx)
            if not isinstance(row, Report):
                raise VerificationError("a pass must return a Report", found=type(row).__name__)
            run_inside(p, model, work, ctx, row)
        if p.needs_data and ctx.synthetic and (row.edits or row.refusals):
            row.note("no data given: seeded random inputs stood in")
        if not row.edits and _untouched(work, model):
            if not p.implied and not row.refusals and not row.notes and (what := p.summary()):
                row.note(f"found nothing to do of this: {what.rstrip('.')}")
            if trial is not None:
                row.error = trial.errors(trial.last)
                _required(trial, row)
            return model, ctx.verified, row
        checked = verify(work, like=interface(p, model, work))
        if trial is not None:
            ctx.progress("its outputs are compared", 1.0)
            if p.changes_inputs:
                trial.fit(work)
            row.error = trial.test(p, work, _rounding(ctx.verified), row)
            _required(trial, row)
    except Exception as e:
        # any error, another person's bug included, bears the name of the pass in which it arose
        if getattr(e, "pass_name", None) is None:
            setattr(e, "pass_name", p.name)  # noqa: B010  Exceptions have no such attribute, ours do
        if isinstance(e, DimensionError) and p.claim.kind != "lossy" and any(e.tensor == t.name for t in model.outputs):
            # what shapes are computed from has been folded; a run of the model as given would have shown it
            as_input(e, "the model as given declares an output that it does not have: correct it, or use --check data")
        elif isinstance(e, DimensionError | VerificationError) and p.claim.kind != "lossy" and not is_taken(model):
            as_input(e, "ONNX Runtime does not take the model as given either: export it again")
        raise
    return work, checked, row


def _predictor(target: str) -> Predict:
    """Predicted times on a target, of the compiler's kernels, which are imported when a pass asks for them."""
    from .codegen.predict import predict

    return predict(target)


class _Trainer:
    """The trainer of `onnxc.torch`, imported when a pass trains: torch takes seconds to load, and may not be there."""

    def fit(self, *args, **kwargs):
        try:
            from .torch.trainer import Trainer
        except ImportError as e:
            raise BadOption("training needs torch", remedy="pip install 'onnxc[train]'") from e
        return Trainer().fit(*args, **kwargs)


def _fits(activations: int) -> None:
    """Raise BadModel where the activations of one sample are more than the memory of this machine: no run is begun."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if activations > memory:
        raise BadModel(
            "the model's activations are more than this machine's memory", expected=f"at most {memory} bytes",
            found=f"{activations} bytes", remedy="use --check shapes",
        )  # fmt: skip


def sound(model: Model, *, runs: bool = True) -> Verified:
    """Verify a model as the user gave it: what is wrong with it is bad input, not a failure of ours. Outputs that are declared
    with another shape than they have, which runtimes overlook, are corrected in `model`, and `Verified.remarks` says so.

    runs: it will be run, and what it gives compared; where ONNX's inference alone objects, that is a remark then."""
    remarks = list(model.remarks)
    try:
        try:
            return replace(verify(model), remarks=remarks)
        except InferenceObjects as e:
            corrected = correct_outputs(model) if any(e.tensor == t.name for t in model.outputs) else []
            if not corrected and not runs:
                raise
            if not corrected:
                model.lax = True
                corrected = [f"ONNX's shape inference objects, and is overruled by running the model: {e}"]
        except DimensionError as e:
            corrected = correct_outputs(model) if any(e.tensor == t.name for t in model.outputs) else []
            if not corrected:
                raise
        return replace(verify(model), remarks=remarks + corrected)
    except OnnxcError as e:
        as_input(e, "the model as given is not sound: export it again")
        raise


def _as_it_runs(model: Model, verified: Verified, trial: Trial) -> None:
    """Raise BadModel where a tensor of a `lax` model has another shape, when it runs, than the operator table says."""
    names = [t.name for node in model.nodes for t in node.outputs if verified.analysis.shape(t.name) is not None]
    found = trial.runner(model.to_proto(), next(trial.data.batches(1)), names)
    for name, array in found.items():
        want = verified.analysis.shape(name) or ()
        known = zip(want, array.shape, strict=False)
        if len(want) != array.ndim or any(isinstance(n, int) and n != m for n, m in known):
            raise BadModel(
                "the operator table has another shape than the model when it runs", tensor=name,
                expected=list(array.shape), found=list(want), remedy="report it with the model",
            )  # fmt: skip


def _rounding(verified: Verified) -> float:
    """The unit roundoff of the shortest float type that the model computes in."""
    import onnx

    units: dict[int, float] = {onnx.TensorProto.FLOAT16: 2.0**-11, onnx.TensorProto.BFLOAT16: 2.0**-8}
    return max((units.get(kind, 0.0) for kind in set(verified.types.values())), default=0.0)


def _untouched(work: Model, model: Model) -> bool:
    if len(work.nodes) != len(model.nodes) or work.opsets != model.opsets or work.functions != model.functions:
        return False
    if _names(work.inputs) != _names(model.inputs) or _names(work.outputs) != _names(model.outputs):
        return False
    for a, b in zip(work.nodes, model.nodes, strict=True):
        if (a.op, a.domain, a.attrs) != (b.op, b.domain, b.attrs):
            return False
        if _names(a.inputs) != _names(b.inputs) or _names(a.outputs) != _names(b.outputs):
            return False
    ours, theirs = work.constants(), model.constants()
    return list(ours) == list(theirs) and all(ours[k].values is theirs[k].values for k in ours)


def _names(tensors) -> list[str]:
    return [t.name for t in tensors]


def with_requirements(passes: Iterable[Pass]) -> list[Pass]:
    """The list with every pass that another one requires put ahead of it, unless it already stands there."""
    done: set[str] = set()
    out: list[Pass] = []

    def add(p: Pass, trail: tuple[str, ...]) -> None:
        for name in p.requires:
            if name in trail:
                raise BadOption("passes require each other", pass_name=p.name, found=" -> ".join((*trail, name)))
            if name not in done:
                needed = make(name)
                needed.implied = True
                add(needed, (*trail, name))
        done.update(p.members())
        out.append(p)

    for p in passes:
        add(p, (p.name,))
    return out


def run_passes(
    model,
    passes,
    *,
    data=None,
    check: str = "data",
    seed: int = 0,
    task=None,
    metric: str | None = None,
    decode: str | None = None,
    require: str = "",
    time: bool = False,
    wishes: Wishes | None = None,
    freeze: bool = False,
    progress=None,
) -> Result:
    """Transform `model` by a pass list ("fuse, prune(ratio=0.3), quant"), Pass objects or names. See Pipeline."""
    settings = {"data": data, "check": check, "seed": seed, "task": task, "require": require, "time": time}
    settings |= {"metric": metric, "decode": decode, "freeze": freeze}
    return Pipeline(passes, **settings, wishes=wishes, progress=progress).transform(model)
