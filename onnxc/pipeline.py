"""The transactional manager: passes run on a copy that is verified, checked against its claim, then kept or dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .ir.cost import cost
from .ir.errors import BadModel, BadOption, ClaimError, OnnxcError, VerificationError
from .ir.files import load
from .ir.model import Model
from .ir.verify import Verified, verify
from .passes.base import Claim, Context, Pass, Report, interface
from .passes.registry import make
from .recipe import resolve
from .report import PipelineReport

CHECK_SAMPLES = 256
"""Samples of a user's data on which every claim is tested, and errors and accuracy are measured."""
SYNTHETIC_SAMPLES = 4
CHECK_BYTES = 256 * 2**20
"""Bound on the outputs that are kept for comparison; fewer samples are used where outputs are large."""

Outputs = list[dict[str, np.ndarray]]


@dataclass
class Result:
    """A transformed model and the report on how it came about."""

    model: Model
    report: PipelineReport


class Pipeline:
    """A list of passes with settings, ready to run on models.

    check: "data" runs the model before and after each pass in ONNX Runtime, on `data` or on seeded random inputs, and
    tests the pass's claim. "shapes" keeps the dimension check, strict inference and the interface check only.
    """

    def __init__(
        self,
        passes: str | Sequence[str | Pass | type[Pass]],
        *,
        data: object = None,
        check: str = "data",
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
    ):
        if check not in ("data", "shapes"):
            raise BadOption("there is no such check", expected="data or shapes", found=check)
        if not isinstance(seed, int) or seed < 0:
            raise BadOption("a seed does not fit", expected="an integer, at least 0", found=seed)
        self.passes = with_requirements(resolve(passes))
        self.data, self.check, self.seed = data, check, seed
        self.progress = progress or (lambda text: None)

    def run(self, model) -> Result:
        """Transform a model (path, bytes, ModelProto, gs.Graph or Model), which is never changed. Raises OnnxcError."""
        current = load(model)
        verified = sound(current)
        report = PipelineReport(check=self.check, seed=self.seed)
        bench = (
            _Bench(current, self)
            if self.check == "data" or self.data is not None or any(p.needs_data for p in self.passes)
            else None
        )
        if bench is not None:
            report.data = bench.data.name
            if self.check == "data":
                bench.start(current)
                report.samples, report.accuracy = bench.samples, bench.accuracy(bench.original)
        before = cost(current, verified)
        for p in self.passes:
            self.progress(str(p))
            start = time.perf_counter()
            current, verified, row = self._step(p, current, verified, bench)
            row.name, row.claim, row.before = str(p), p.claim, before
            row.after = before = cost(current, verified)
            row.seconds = time.perf_counter() - start
            report.rows.append(row)
        return Result(current, report)

    def _step(self, p: Pass, model: Model, verified: Verified, bench: _Bench | None):
        work = model.copy()
        context = Context(verified, seed=self.seed)
        if bench is not None:
            context.runner, context.data, context.synthetic = bench.runner, bench.data, bench.data.synthetic
        try:
            row = p.run(work, context)
            if not isinstance(row, Report):
                raise VerificationError("a pass must return a Report", found=type(row).__name__)
            if p.needs_data and context.synthetic:
                row.note("no data given: seeded random inputs stood in")
            if not row.edits and _untouched(work, model):
                if bench is not None and self.check == "data":
                    row.error = bench.errors(bench.last)
                return model, verified, row
            checked = verify(work, like=interface(p, model, work))
            if bench is not None and p.changes_inputs:
                bench.fit(work)
            if bench is not None and self.check == "data":
                outputs = bench.outputs(work)
                bench.hold(p.claim.at(_rounding(verified)), outputs, work)
                row.error = bench.errors(outputs)
                bench.last = outputs
        except Exception as e:
            # any error, another person's bug included, bears the name of the pass in which it arose
            e.pass_name = getattr(e, "pass_name", None) or p.name
            raise
        return work, checked, row


def sound(model: Model) -> Verified:
    """Verify a model as the user gave it: what is wrong with it is bad input, not a failure of ours."""
    try:
        return verify(model)
    except OnnxcError as e:
        _as_input(e, "the model as given is not sound: export it again")
        raise


def _rounding(verified: Verified) -> float:
    """The unit roundoff of the shortest float type that the model computes in."""
    import onnx

    units = {onnx.TensorProto.FLOAT16: 2.0**-11, onnx.TensorProto.BFLOAT16: 2.0**-8}
    return max((units.get(kind, 0.0) for kind in set(verified.types.values())), default=0.0)


def _as_input(e: OnnxcError, remedy: str) -> None:
    e.exit_status = BadModel.exit_status
    e.remedy = e.remedy or remedy


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
                add(make(name), (*trail, name))
        done.add(p.name)
        out.append(p)

    for p in passes:
        add(p, (p.name,))
    return out


class _Bench:
    """ONNX Runtime, the data, and the outputs that claims and errors are measured with."""

    def __init__(self, model: Model, pipeline: Pipeline):
        from .runtime.data import open_data
        from .runtime.reference import Runner
        from .runtime.specs import input_specs

        self.runner = Runner(optimise=False)
        specs = input_specs(_interface(model))
        self.data = open_data(pipeline.data, specs, seed=pipeline.seed, samples=SYNTHETIC_SAMPLES)
        self.limit = SYNTHETIC_SAMPLES if self.data.synthetic else CHECK_SAMPLES
        self.samples = 0
        self.labels: list[np.ndarray] = []
        self.original: Outputs = []
        self.last: Outputs = []

    def start(self, model: Model) -> None:
        """Run the model as it came in; its outputs are what errors are measured against."""
        held, proto = 0, model.to_proto()
        try:
            for batch in self.data.batches(32, self.limit):
                out = self.runner(proto, batch)
                held += sum(a.nbytes for a in out.values())
                self.original.append(out)
                self.samples += max((len(a) for a in batch.values() if a.ndim), default=1)
                if "labels" in batch:
                    self.labels.append(batch["labels"])
                if held > CHECK_BYTES:
                    break
        except VerificationError as e:
            _as_input(e, "the model as given does not run: repair it, or use --check shapes")
            raise
        self.last = self.original

    def fit(self, model: Model) -> None:
        """From here on the data are resampled to the inputs of `model`."""
        from .runtime.resample import Resampled
        from .runtime.specs import input_specs

        self.data = Resampled(self.data, input_specs(_interface(model)))

    def outputs(self, model: Model) -> Outputs:
        proto = model.to_proto()
        batches = self.data.batches(32, self.limit)
        return [self.runner(proto, batch) for _, batch in zip(self.original, batches, strict=False)]

    def hold(self, claim: Claim, outputs: Outputs, model: Model) -> None:
        """Raise ClaimError where the outputs differ from those before the pass by more than the claim allows."""
        for t in model.outputs:
            for before, after in zip(self.last, outputs, strict=True):
                a, b = before[t.name], after[t.name]
                if a.shape != b.shape or a.dtype != b.dtype:
                    raise ClaimError(
                        "an output changed its form",
                        tensor=t.name,
                        expected=f"{a.dtype}{list(a.shape)}",
                        found=f"{b.dtype}{list(b.shape)}",
                    )
                if claim.kind == "lossy":
                    self._finite(t, a, b)
                else:
                    self._close(claim, t, a, b)

    def _close(self, claim: Claim, t, a: np.ndarray, b: np.ndarray) -> None:
        if a.dtype.kind not in "fc":
            bad = a != b
            allowed, worst = 0.0, float(np.count_nonzero(bad))
        else:
            x, y = a.astype(np.float64), b.astype(np.float64)
            level = np.abs(x[np.isfinite(x)]).max(initial=0.0)
            allowed = claim.atol + claim.rtol * float(level)
            with np.errstate(invalid="ignore"):
                gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
            gap = np.where(np.isnan(gap), np.inf, gap)
            bad, worst = gap > allowed, float(gap.max(initial=0.0))
        if bad.any():
            where = np.argwhere(bad)[0]
            raise ClaimError(
                f"the claim {claim} does not hold at index {where.tolist()}",
                node=t.inputs[0].name if t.inputs else None, tensor=t.name, axis=max(a.ndim - 1, 0),
                expected=f"a change of at most {allowed:.3g}", found=f"{worst:.3g}",
                remedy="report it with the model; nothing was written",
            )  # fmt: skip

    @staticmethod
    def _finite(t, a: np.ndarray, b: np.ndarray) -> None:
        if a.dtype.kind == "f" and np.isfinite(a).all() and not np.isfinite(b).all():
            raise ClaimError(
                "the pass made outputs that are not finite",
                node=t.inputs[0].name if t.inputs else None, tensor=t.name, axis=max(a.ndim - 1, 0),
                expected="numbers", found="inf or NaN",
            )  # fmt: skip

    def errors(self, outputs: Outputs) -> dict[str, float]:
        """Metrics of `outputs` against the original model's, over all outputs; top1 and accuracy if there are any."""
        found = _worst(self.original, outputs)
        accuracy = self.accuracy(outputs)
        if accuracy is not None:
            found["accuracy"] = accuracy
        return found

    def accuracy(self, outputs: Outputs) -> float | None:
        """Share of labels that the first two-dimensional floating output names, or None without labels."""
        if not self.labels or len(self.labels) != len(outputs):
            return None
        for name, first in outputs[0].items():
            if first.dtype.kind == "f" and first.ndim == 2 and len(first) == len(self.labels[0]):
                right = sum(int((o[name].argmax(1) == y).sum()) for o, y in zip(outputs, self.labels, strict=True))
                return right / sum(map(len, self.labels))
        return None


def _worst(reference: Outputs, other: Outputs) -> dict[str, float]:
    """The largest errors and the smallest SNR over all outputs; top-1 agreement of the first that has classes."""
    from .runtime.metrics import Difference

    found: list[Difference] = []
    for name, first in reference[0].items():
        if first.dtype.kind in "OUSV":
            continue
        difference = Difference()
        for a, b in zip(reference, other, strict=True):
            difference.add(a[name], b[name], name)
        found.append(difference)
    if not found:
        return {}
    row = {
        "max_abs": max(d.max_abs for d in found),
        "max_rel": max(d.max_rel for d in found),
        "snr_db": min(d.snr_db for d in found),
    }
    top1 = next((d.top1 for d in found if d.top1 is not None), None)
    return row if top1 is None else row | {"top1": top1}


def _interface(model: Model):
    import onnx

    from .ir.values import value_info

    proto = onnx.ModelProto()
    proto.graph.input.extend(value_info(t) for t in model.inputs)
    return proto


def run_passes(model, passes, *, data=None, check: str = "data", seed: int = 0, progress=None) -> Result:
    """Transform `model` by a pass list ("fuse, prune(ratio=0.3), quant"), Pass objects or names. See Pipeline."""
    return Pipeline(passes, data=data, check=check, seed=seed, progress=progress).run(model)
