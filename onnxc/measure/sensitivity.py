"""`onnxc sensitivity`: how much each group of channels matters, measured group by group, as a table, JSON and a plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..ir.errors import BadOption
from ..ir.files import load
from ..passes.base import Context
from ..passes.prune.sensitivity import SAMPLES, Curve, measure

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Sensitivity:
    """curves: one for each unit, in graph order. data: what they were measured on."""

    curves: list[Curve]
    data: str
    synthetic: bool

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {"data": self.data, "synthetic": self.synthetic, "groups": [asdict(c) for c in self.curves]}


def sensitivity(
    source, data=None, *, criterion: str = "l1", recover: str = "none", samples: int = SAMPLES, seed: int = 0,
    out: Path | None = None, progress: Progress | None = None,
) -> Sensitivity:  # fmt: skip
    """Measure every group of a model (whatever `onnxc.load` takes) on `data` (see `runtime.data.open_data`).

    The model is cleaned first, as prune.channels does, so that the groups are the same. Results in `out` are taken
    from there; each further group is added as it is done. Raises OnnxcError.
    """
    from ..pipeline import run_passes, sound
    from ..runtime.data import open_data
    from ..runtime.reference import Runner
    from ..runtime.specs import input_specs

    model = run_passes(load(source), "clean", check="shapes").model
    specs = input_specs(model.to_proto(weights=False))
    specs = {t.name: specs[t.name] for t in model.inputs}
    opened = open_data(data, specs, seed=seed)
    context = Context(
        sound(model), seed=seed, runner=Runner(optimise=False), data=opened, synthetic=opened.synthetic
    )  # fmt: skip
    curves = measure(
        model, context, criterion=criterion, how=recover, samples=samples, file=out, progress=progress
    )  # fmt: skip
    return Sensitivity(curves, opened.name, opened.synthetic)


def render(found: Sensitivity, *, width: int | None = None, colour: bool = False) -> str:
    """A row for each group: error (and accuracy) at each ratio."""
    from ..cli.tables import Column, draw, percent, plural

    if not found.curves:
        return "no group of channels can be pruned"
    ratios = [p.ratio for p in found.curves[0].points]
    columns = [Column("group", number=False), Column("channels"), *(Column(f"-{percent(r)}") for r in ratios)]
    rows = []
    for c in found.curves:
        cells = [f"{p.error:.3g}" + ("" if p.accuracy is None else f" {percent(p.accuracy)}") for p in c.points]
        rows.append([c.name, str(c.channels), *cells])
    words = "relative error of the outputs, and accuracy where there are labels"
    text = f"{words}; {plural(len(rows), 'group')}, on {found.data}"
    return "\n\n".join([draw(columns, rows, width, colour), text])


def plot(found: Sensitivity, path: Path) -> None:
    """Error against ratio, a line for each group, as an image file. Raises BadOption without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadOption("--plot needs matplotlib", remedy="install the extra: onnxc[plot]") from None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for c in found.curves:
        axes.plot([0.0, *(p.ratio for p in c.points)], [0.0, *(p.error for p in c.points)], marker=".", label=c.name)
    axes.set_xlabel("share of channels removed")
    axes.set_ylabel("relative error of the outputs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="xx-small", ncols=1 + len(found.curves) // 24)
    figure.savefig(path)
