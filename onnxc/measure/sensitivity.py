"""How much each group of channels matters, measured group by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.files import load
from ..ir.live import peak_bytes
from ..passes.base import Context
from ..passes.layers.capture import room
from ..passes.prune.sensitivity import SAMPLES, Curve, measure

if TYPE_CHECKING:
    from ..runtime.feeding import Wishes

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Sensitivity:
    """curves: one for each unit, in graph order. data: what they were measured on; fed: what was chosen of it."""

    curves: list[Curve]
    data: str
    synthetic: bool
    fed: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "data": self.data,
            "fed": list(self.fed),
            "synthetic": self.synthetic,
            "groups": [asdict(c) for c in self.curves],
        }


def sensitivity(
    source, data=None, *, criterion: str = "l1", recover: str = "none", samples: int = SAMPLES, task=None,
    seed: int = 0, out: Path | None = None, progress: Progress | None = None, wishes: Wishes | None = None,
) -> Sensitivity:  # fmt: skip
    """Measure every group of a model (whatever `onnxc.load` takes) on `data` (see `runtime.data.open_data`), and by the
    metrics of `task` (see `runtime.evaluate.find_task`) where there are labels.

    The model is cleaned first, as prune.channels does, so that the groups are the same. Results in `out` are taken
    from there; each further group is added as it is done. Raises OnnxcError.
    """
    from ..pipeline import run_passes, sound
    from ..runtime.evaluate import Evaluator, find_task
    from ..runtime.feeding import feed
    from ..runtime.reference import Runner

    model = run_passes(load(source), "clean", check="shapes").model
    runner = Runner(optimise=False)
    opened = feed(model.to_proto(), data, wishes, seed=seed, runner=runner)
    model.shapes = opened.shapes()
    verified = sound(model)
    held = room(peak_bytes(model, verified))
    judges = Evaluator(runner, opened, find_task(task), held)
    context = Context(verified, seed, runner, opened, opened.synthetic, judges, room=held)
    curves = measure(
        model, context, criterion=criterion, how=recover, samples=samples, file=out, progress=progress
    )  # fmt: skip
    return Sensitivity(curves, opened.name, opened.synthetic, tuple(opened.remarks))
