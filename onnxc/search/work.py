"""The work of a search, as jobs that any process can do: a job is plain data, and so is what comes of it.

    ("channels", unit, ratio) -> noise     ("bits", layer, bits) -> noise     ("recipe", TOML) -> costs, metrics, the model

Noise is the power of the outputs' error by the power of the outputs, of the worst output, when the one thing alone is done.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.cost import cost
from ..ir.files import load
from ..ir.model import Model
from ..ir.verify import verify
from ..measure.bench import measure
from ..passes.base import Context, Pass
from ..passes.layers.stored import layers
from ..passes.prune.sensitivity import Sweep
from ..passes.registry import make
from ..pipeline import Pipeline, sound
from ..recipe import resolve
from ..runtime.evaluate import Evaluator, Judge
from ..runtime.reference import Runner, Session
from ..runtime.split import Held
from ..runtime.tasks import Task, find_task
from ..trial import TIMED_ROUNDS

SAMPLES = 64
"""Samples on which single options are measured."""
MOST = 1 << 20
WORST = 1e12
"""The noise of outputs that hold no numbers any more."""
Job = tuple
_COMPILING = threading.Lock()
"""TVM compiles one model at a time in a process."""


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
    runner: Runner = field(default_factory=lambda: Runner(optimise=False))

    def do(self, job: Job) -> Any:
        """What comes of one job."""
        return getattr(self, f"_{job[0]}")(*job[1:])

    @cached_property
    def task(self) -> Task | None:
        return find_task(self.spec.task, self.spec.metric, self.spec.decode)

    @cached_property
    def given(self) -> Model:
        return load(self.spec.model)

    @cached_property
    def clean(self) -> Model:
        return self._prepared("clean")

    @cached_property
    def fused(self) -> Model:
        return self._prepared("fuse")

    def _prepared(self, passes: str) -> Model:
        return (
            Pipeline(passes, check="shapes", data=self.spec.parts[0], seed=self.spec.seed).transform(self.given).model
        )

    def _context(self, model: Model) -> Context:
        data = self.spec.parts[0]
        return Context(sound(model), self.spec.seed, self.runner, data, False, self._evaluator(data))

    def _evaluator(self, data: Held) -> Any:
        return Evaluator(self.runner, data)

    @cached_property
    def sweep(self) -> Sweep:
        """The units of channels, which the samples that passes see rate."""
        context = self._context(self.clean)
        context.evaluator = self._evaluator(self.spec.parts[1])
        return Sweep(self.clean, context, samples=SAMPLES)

    @cached_property
    def stored(self) -> dict[str, int]:
        """Name -> weights of each layer whose weights may be shared."""
        return self.sizes(self.fused)

    def sizes(self, model: Model) -> dict[str, int]:
        """Name -> weights of each layer of a model."""
        from ..passes.base import Report

        return {layer.name: layer.size for layer in layers(model, verify(model).analysis, [], Report())}

    @cached_property
    def judges(self) -> tuple[Judge, Judge, Judge]:
        """By a few samples that choose, by all of them, by those that judge in the end."""
        _, second, third = self.spec.parts
        proto = self.given.to_proto()
        kinds = ((second, SAMPLES, None), (second, MOST, self.task), (third, MOST, self.task))
        return tuple(Judge(self.runner, data, proto, most, task) for data, most, task in kinds)  # type: ignore[return-value]

    def _noise(self, p: Pass) -> float:
        work = self.fused.copy()
        p.run(work, self._context(work))
        return min(self.judges[0](work.to_proto()).noise, WORST)

    def _channels(self, unit: int, ratio: float) -> float:
        return self.sweep.point(unit, ratio).error ** 2

    def _bits(self, layer: str, bits: int) -> float:
        others = {globbed(other): 0 for other in self.stored if other != layer}
        return self._noise(make("quant.cluster", {"bits_by": others, "bits": bits, "refit": True, "store": "floats"}))

    def _int8(self, layer: str) -> float:
        return self._noise(make("quant.int8", {"skip": [globbed(other) for other in self.stored if other != layer]}))

    def _given(self) -> dict:
        """The model as given, beside itself."""
        proto = self.given.to_proto()
        return {**self._costs(self.given), **self._qualities(proto), "time": 1.0}

    def _recipe(self, text: str) -> dict:
        """What a pass list makes of the model."""
        made = Pipeline(resolve(text), check="shapes", data=self.spec.parts[0], seed=self.spec.seed).transform(
            self.given
        )
        proto = made.model.to_proto()
        found = {**self._costs(made.model), **self._qualities(proto)}
        if self.spec.target is not None:
            found |= self._library(made.model, self.spec.target)
        found["passes"] = [row.to_dict() for row in made.report.rows]
        return found | {"model": base64.b64encode(proto.SerializeToString(deterministic=True)).decode()}

    def _costs(self, model: Model) -> dict[str, int]:
        work = model.copy()
        work.shapes = self.spec.parts[0].shapes()
        return cost(work, sound(work)).to_dict()

    def _qualities(self, proto: Any) -> dict[str, Any]:
        _, second, third = self.judges
        seen, held = second(proto), third(proto)
        noise = min(seen.noise, WORST)
        return {"noise": noise, "metrics": seen.metrics, "held": held.metrics, "snr_db": held.to_dict().get("snr_db")}

    def _library(self, model: Model, target: str) -> dict[str, Any]:
        """Bytes of the compiled library in flash, and of its arena in RAM."""
        import tempfile

        from ..codegen import compile_model
        from ..ir.errors import OnnxcError

        with _COMPILING, tempfile.TemporaryDirectory(prefix="onnxc-") as folder:
            try:
                done = compile_model(
                    model,
                    folder,
                    name="model",
                    target=target,
                    shapes=self.spec.parts[0].shapes(),
                    check="shapes",
                )
            except OnnxcError as error:
                return {"flash": float("inf"), "ram": float("inf"), "refused": str(error)}
        sizes = done.to_dict()
        return {"flash": float(sizes["library_bytes"]), "ram": float(sizes["arena_bytes"])}

    def time(self, protos: Sequence[Any]) -> list[float]:
        """Time of each model by that of the one as given: ONNX Runtime, one sample, one thread, in turns."""
        feeds = {k: a for k, a in next(iter(self.spec.parts[0].batches(1))).items() if k != "labels"}
        sessions = [Session(proto) for proto in (self.given.to_proto(), *protos)]
        calls = {str(k): (lambda s=s: s.run(feeds)) for k, s in enumerate(sessions)}
        base, *others = measure(calls, rounds=TIMED_ROUNDS)
        return [row.best / base.best for row in others]

    def cut(self, ratios: Mapping[int, float]) -> tuple[dict[str, int], dict[str, int]]:
        """(weights of each layer, costs) with so much less of each unit, and nothing repaired."""
        work = self.sweep.cut(ratios) if ratios else self.clean.copy()
        fused = Pipeline("fuse", check="shapes", seed=self.spec.seed).transform(work).model
        return self.sizes(fused), self._costs(fused)


def globbed(name: str) -> str:
    """A glob that fits just this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
