"""The work of a search, as jobs that any process can do: a job is plain data, and so is what comes of it.

    ("channels", unit, ratio) -> noise       ("rank", layer, energy) -> noise, what it saves     ("recipe", TOML) -> costs, metrics,
    ("bits", layer, bits) -> noise           ("branch", sum) -> noise, what it saves             the model, the library's files
    ("int8", layer) -> noise                 ("resolution", rho) -> noise                        ("peak", unit) -> share

Noise is the power of the outputs' error by the power of the outputs, of the worst output, when the one thing alone is done.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.cost import cost
from ..ir.errors import BadData, OnnxcError
from ..ir.files import load
from ..ir.live import live_bytes
from ..ir.model import Model
from ..ir.verify import verify
from ..measure.bench import measure
from ..passes.base import Context, Pass, Report
from ..passes.layers.layout import has_few_values
from ..passes.layers.stored import layers
from ..passes.prune.blocks import branches
from ..passes.prune.sensitivity import Sweep
from ..passes.registry import make
from ..pipeline import Pipeline, sound
from ..recipe import resolve
from ..runtime.evaluate import Evaluator, Judge
from ..runtime.reference import Runner, Session
from ..runtime.split import Held
from ..runtime.tasks import Task, find_task
from ..trial import TIMED_ROUNDS
from .compiled import compiled
from .steps import Cut, globbed, structural

SAMPLES = 64
"""Samples on which single options are measured."""
MOST = 1 << 20
WORST = 1e12
"""The noise of outputs that hold no numbers any more."""
SMALL = 0.01
"""Share of all weights below which a layer is not factored: there is nothing to be had."""
SOFT = 8
"""The power mean by which memory over time is one number: near its maximum, yet moved by all that is near it."""
FEWEST_ROUNDS = 3
FOLDS = 16
"""Parts of the samples that are left out in turn, to tell how sure a metric is."""
RUN = 4
"""Inputs of a layer that share a code."""
Job = tuple
NOTHING = {"noise": WORST, "bytes": 0.0, "macs": 0.0}
USELESS: dict[str, Any] = {
    **dict.fromkeys(("channels", "bits", "int8"), WORST),
    **dict.fromkeys(("rank", "branch", "resolution"), NOTHING),
    "peak": 0.0,
}
"""What stands for a measurement of a thing that its pass refuses to do: it is not taken."""


class Stopped(Exception):
    """The search has ended while a job was under way."""


class _Watched(Runner):
    """A runner that ends with the search."""

    def __init__(self, check: Callable[[], None]):
        super().__init__(optimise=False, sessions=8)
        self._check = check

    def prepare(self, model: Any, outputs: Sequence[str] | None = None) -> Callable[..., Any]:
        self._check()
        run = super().prepare(model, outputs)

        def watched(feeds: Any) -> Any:
            self._check()
            return run(feeds)

        return watched


@dataclass(frozen=True)
class Spec:
    """What a worker needs, once. parts: the samples that passes see, those that choose, and those that judge in the end.
    target: the machine for which candidates are compiled; seed: of all random choices."""

    model: bytes
    parts: tuple[Held, Held, Held]
    task: str | None = None
    metric: str | None = None
    decode: str | None = None
    target: str | None = None
    seed: int = 0


@dataclass
class Worker:
    """Does jobs. What several of them need is made once."""

    spec: Spec
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.runner = _Watched(self.check)

    def check(self, *_: object) -> None:
        """Raises Stopped once the search has ended."""
        if self.ended.is_set():
            raise Stopped

    def do(self, job: Job) -> Any:
        """What comes of one job."""
        self.check()
        try:
            return getattr(self, f"_{job[0]}")(*job[1:])
        except OnnxcError as error:
            if job[0] not in USELESS or isinstance(error, BadData):
                raise
            return USELESS[job[0]]

    @cached_property
    def task(self) -> Task | None:
        return find_task(self.spec.task, self.spec.metric, self.spec.decode)

    @cached_property
    def given(self) -> Model:
        return load(self.spec.model)

    @cached_property
    def head(self) -> tuple[Pass, ...]:
        """What every candidate begins with: a model whose weights are quantised is written in floats first."""
        products = ("Conv", "ConvTranspose", "Gemm", "MatMul")
        for node in self.given.nodes:
            makers = node.inputs[1].inputs if self.given.is_standard(node, *products) else []
            if makers and makers[0].op == "DequantizeLinear" and not makers[0].inputs[0].inputs:
                return (make("quant.floats"),)
        return ()

    @cached_property
    def clean(self) -> Model:
        return self._prepared("clean")

    @cached_property
    def fused(self) -> Model:
        """With `joined`, what single options and candidates store."""
        return self._pipeline([*self.head, *self.joined]).transform(self.given).model

    @cached_property
    def joined(self) -> tuple[Pass, ...]:
        """What every candidate has ahead of the weights that it stores: nodes are fused, and what was trained to few bits is packed in
        them, as it is not what more bits or fewer could store better."""
        fuse, pack = make("fuse"), make("quant.recognise")
        model = self._prepared("fuse")
        if not any(has_few_values(layer.matrix()) for layer in layers(model, verify(model).analysis, [], Report())):
            return (fuse,)
        packed = self._pipeline([*self.head, fuse, pack]).transform(self.given).model
        return (fuse, pack) if self._costs(packed)["bytes"] < self._costs(model)["bytes"] else (fuse,)

    def _prepared(self, passes: str) -> Model:
        return self._pipeline([*self.head, *resolve(passes)]).transform(self.given).model

    def _pipeline(self, passes: Any) -> Pipeline:
        made = Pipeline(passes, check="shapes", data=self.spec.parts[0], seed=self.spec.seed, progress=self.check)
        made.detail = self.check
        return made

    @cached_property
    def few(self) -> Held:
        """Of the samples that passes see, those by which single options are measured."""
        return self.spec.parts[0].first(SAMPLES)

    def _context(self, model: Model) -> Context:
        data = self.few
        evaluator = Evaluator(self.runner, data)
        return Context(
            sound(model), self.spec.seed, self.runner, data, False, evaluator, original=self.clean, progress=self.check
        )

    @cached_property
    def sweep(self) -> Sweep:
        """The units of channels, which the samples that passes see rate."""
        context = self._context(self.clean)
        context.evaluator = Evaluator(self.runner, self.spec.parts[1])
        return Sweep(self.clean, context, samples=SAMPLES)

    @cached_property
    def stored(self) -> dict[str, int]:
        """Name -> weights of each layer whose weights may be shared."""
        return self.sizes(self.fused)

    @cached_property
    def runs(self) -> set[str]:
        """Layers whose runs of RUN inputs may share codes: what compiles for a target reads values of single weights better."""
        found = layers(self.fused, verify(self.fused).analysis, [], Report())
        return {x.name for x in found if x.layout.channels % RUN == 0} if self.spec.target is None else set()

    def sizes(self, model: Model) -> dict[str, int]:
        """Name -> weights of each layer of a model."""
        return {layer.name: layer.size for layer in layers(model, verify(model).analysis, [], Report())}

    @cached_property
    def whole(self) -> dict[str, int]:
        """What the model costs that single options are compared with."""
        return self._costs(self.fused)

    @cached_property
    def products(self) -> list[str]:
        """Of `stored` what may be 8-bit integers: not recurrent layers, whose two weights have names of their own."""
        nodes = {node.name for node in self.fused.nodes}
        return [name for name in self.stored if name in nodes]

    @cached_property
    def factored(self) -> list[str]:
        """Of `products` what may be factored, which happens ahead of fusing."""
        nodes = {node.name for node in self.clean.nodes}
        return [name for name in self.products if name in nodes]

    @cached_property
    def sums(self) -> list[str]:
        """The sums whose residual branch can be left out ahead of fusing."""
        return _sums(self.clean)

    @cached_property
    def branches(self) -> list[str]:
        """Of `sums` those that are there after it as well, where they are measured."""
        fused = set(_sums(self.fused))
        return [name for name in self.sums if name in fused]

    def standing(self, cuts: Mapping[Cut, float]) -> dict[Cut, float]:
        """Cuts without the low ranks of layers that leave with their branch."""
        out = {c: v for c, v in cuts.items() if c[0] == "branch"}
        if not out or not any(kind == "rank" for kind, _ in cuts):
            return dict(cuts)
        left = self._pipeline(structural(out, self)).transform(self.clean).model
        names = {node.name for node in left.nodes}
        return {c: v for c, v in cuts.items() if c[0] != "rank" or c[1] in names}

    @cached_property
    def judges(self) -> tuple[Judge, Judge, Judge]:
        """By a few samples that choose, beside the model in floats; by all of them, and by those that judge in the end, beside the
        model as given."""
        _, second, third = self.spec.parts
        given, floats = self.given.to_proto(), self.clean.to_proto()
        few = Judge(self.runner, second, floats, SAMPLES)
        chooses, judges = (
            Judge(self.runner, data, given, MOST, self.task, _room(data), FOLDS) for data in (second, third)
        )
        return few, chooses, judges

    def _noise(self, p: Pass) -> float:
        return self._trial(p)["noise"]

    def _trial(self, p: Pass) -> dict[str, float]:
        """What a pass alone does: the noise it makes, bytes and MACs that it saves. Where it does nothing it is of no use."""
        work = self.fused.copy()
        report = p.run(work, self._context(work))
        if not report.edits:
            return dict(NOTHING)
        before, after = self.whole, self._costs(work)
        noise = min(self.judges[0](work.to_proto()).noise, WORST)
        return {"noise": noise, **{k: float(before[k] - after[k]) for k in ("bytes", "macs")}}

    def _channels(self, unit: int, ratio: float) -> float:
        return self.sweep.point(unit, ratio).error ** 2

    def _bits(self, layer: str, bits: int) -> float:
        others = {globbed(other): 0 for other in self.stored if other != layer}
        if bits < 0:
            how = {"codebook": "layer", "centroids": 1 << -bits, "centroids_by": others or None, "store": "floats"}
            return self._noise(make("quant.product", how))
        return self._noise(make("quant.cluster", {"bits_by": others, "bits": bits, "refit": True, "store": "floats"}))

    def _int8(self, layer: str) -> float:
        others = [globbed(other) for other in self.products if other != layer]
        return self._noise(make("quant.int8", {"calibration": "minmax", "skip": others}))

    def _rank(self, layer: str, energy: float) -> dict[str, float]:
        (p,) = structural({("rank", layer): energy}, self)
        return self._trial(p)

    def _branch(self, add: str) -> dict[str, float]:
        (p,) = structural({("branch", add): 1.0}, self)
        return self._trial(p)

    def _resolution(self, rho: float) -> dict[str, float]:
        return self._trial(make("prune.resolution", {"rho": rho}))

    def _peak(self, unit: int) -> float:
        """The share of the memory over time that half of a unit's channels takes."""
        whole, less = (self._soft(m) for m in (self.clean, self.sweep.cut({unit: 0.5})))
        return 1 - less / whole

    def _soft(self, model: Model) -> float:
        work = model.copy()
        work.shapes = self.spec.parts[0].shapes()
        held = live_bytes(work, sound(work))
        return (sum((n / max(held)) ** SOFT for n in held)) ** (1 / SOFT) * max(held)

    def _given(self) -> dict:
        """The model as given, beside itself."""
        proto = self.given.to_proto()
        return {**self._costs(self.given), **self._qualities(proto), "time": 1.0}

    def _library(self) -> dict:
        """The library of the model as given, for the target."""
        assert self.spec.target is not None
        return compiled(self.given, self.spec.target, self.spec.parts[0].shapes())

    def _recipe(self, text: str) -> dict:
        """What a pass list makes of the model."""
        try:
            made = self._pipeline(resolve(text)).transform(self.given)
        except OnnxcError as error:
            return {"failed": str(error)}
        proto = made.model.to_proto()
        found = {**self._costs(made.model), **self._qualities(proto)}
        if self.spec.target is not None:
            self.check()
            found |= compiled(made.model, self.spec.target, self.spec.parts[0].shapes())
        found["passes"] = [row.to_dict() for row in made.report.rows]
        return found | {"model": base64.b64encode(proto.SerializeToString(deterministic=True)).decode()}

    def _costs(self, model: Model) -> dict[str, int]:
        work = model.copy()
        work.shapes = self.spec.parts[0].shapes()
        return cost(work, sound(work)).to_dict()

    def _qualities(self, proto: Any) -> dict[str, Any]:
        few, second, third = self.judges
        outputs = second.run(proto)
        seen, held = second.compare(outputs), third(proto)
        noise = min((few(proto) if self.head else seen).noise, WORST)
        return {
            "noise": noise,
            "agreement": second.agreement(outputs),
            "metrics": seen.metrics,
            "held": held.metrics,
            "without": {"metrics": seen.without, "held": held.without},
            "snr_db": held.to_dict().get("snr_db"),
        }

    @cached_property
    def one(self) -> dict[str, Any]:
        """The inputs of one sample, by name."""
        return {k: a for k, a in next(iter(self.spec.parts[0].batches(1))).items() if k != "labels"}

    def time(self, protos: Sequence[Any], until: float = math.inf) -> list[float]:
        """Time of each model by that of the one as given: ONNX Runtime, one sample, one thread, in turns; fewer of them where the
        time `until` is near."""
        feeds = self.one
        sessions = [Session(proto) for proto in (self.given.to_proto(), *protos)]
        calls = {str(k): (lambda s=s: s.run(feeds)) for k, s in enumerate(sessions)}
        begun = time.monotonic()
        rows = measure(calls, rounds=FEWEST_ROUNDS, warmup=1)
        spent = max(time.monotonic() - begun, 1e-6)
        rounds = int(min(TIMED_ROUNDS, FEWEST_ROUNDS * (until - time.monotonic()) / spent))
        if rounds > FEWEST_ROUNDS:
            rows = measure(calls, rounds=rounds)
        base, *others = rows
        return [row.best / base.best for row in others]

    def cut(self, cuts: Mapping[Cut, float]) -> tuple[dict[str, int], dict[str, int]]:
        """(weights of each layer, costs) with so much less of each, and nothing repaired."""
        ratios = {int(name): r for (kind, name), r in cuts.items() if kind == "channels"}
        work = self.sweep.cut(ratios) if ratios else self.clean.copy()
        rest = {c: v for c, v in cuts.items() if c[0] != "channels"}
        passes = [*structural(rest, self, fit="weights"), *self.joined]
        made = self._pipeline(passes).transform(work).model
        return self.sizes(made), self._costs(made)


def _sums(model: Model) -> list[str]:
    """The sums of a model whose residual branch can be left out."""
    found = branches(model, verify(model).analysis, [], Report())
    return list(dict.fromkeys(b.add for b in found))


def _room(data: Held) -> int:
    """How many samples run at once, so that there are as many batches as folds."""
    return max(1, (data.samples or 1) // FOLDS)
