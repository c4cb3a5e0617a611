"""`onnxc sensitivity`: a table, JSON and a plot of how much each group of channels matters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.errors import BadOption
from ..ir.escape import readable
from ..ir.output import write_whole
from . import arguments
from .options import (
    DataOption,
    DecodeOption,
    JsonOption,
    MetricOption,
    ModelArgument,
    SamplesOption,
    ShapeOption,
    TaskOption,
    WayOption,
    bar,
    colour,
    json_text,
    show,
)
from .tables import Column, draw, percent, plural, score, wrap

if TYPE_CHECKING:
    from ..measure.sensitivity import Sensitivity


def sensitivity(
    model: ModelArgument,
    data: DataOption = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    decode: DecodeOption = None,
    shape: ShapeOption = None,
    samples: SamplesOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="F.json", help="Where results are kept; goes on from there.")
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="F.png", help="Draw the curves too.")] = None,
    criterion: Annotated[str, typer.Option(metavar="C", help="Which channels go first.")] = "l1",
    recover: Annotated[str, typer.Option(metavar="R", help="none, bias, bn, lstsq or all.")] = "none",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all random choices.")] = 0,
    verbose: WayOption = False,
    json: JsonOption = False,
) -> None:
    """Show how much each group of channels matters."""
    arguments.check_file(out, "-o")
    arguments.check_file(plot, "--plot")
    from ..measure.sensitivity import sensitivity as measure
    from ..passes.prune.recover import RECOVER
    from ..runtime.tasks import find_task

    if recover not in RECOVER:
        raise BadOption("--recover does not fit", expected=", ".join(RECOVER), found=recover)
    kept = Path(out) if out else None
    wishes = arguments.wishes(shape, samples)
    with bar(1, lines=verbose) as step:
        found = measure(
            model,
            data,
            task=find_task(task, metric, decode),
            out=kept,
            progress=step,
            criterion=criterion,
            recover=recover,
            seed=seed,
            wishes=wishes,
        )
    if plot:
        draw_plot(found, Path(plot))
    show(json_text(found.to_dict()) if json else render(found, colour=colour()))


def render(found: Sensitivity, *, width: int | None = None, colour: bool = False) -> str:
    """A row for each group: error (and the task's metric) at each ratio."""
    found = readable(found)
    if not found.curves:
        return "no group of channels can be pruned"
    ratios = [p.ratio for p in found.curves[0].points]
    columns = [Column("group", number=False), Column("channels"), *(Column(f"-{percent(r)}") for r in ratios)]
    rows = []
    for c in found.curves:
        cells = [" ".join([f"{p.error:.3g}", *(score(*m) for m in list(p.metrics.items())[:1])]) for p in c.points]
        rows.append([c.name, str(c.channels), *cells])
    metric = next(iter(found.curves[0].points[0].metrics), None)
    words = "relative error of the outputs" + (f", and {metric}" if metric else "")
    text = "; ".join([words, f"{plural(len(rows), 'group')}, on {found.data}", *found.fed])
    return "\n\n".join([draw(columns, rows, width, colour), wrap(text, "", width)])


DASHES, MARKERS = ("-", "--", ":", "-."), ".xsvD+"
"""Ten colours, one after another, with each of these: 240 curves of which no two are alike."""


def style(n: int) -> dict[str, str]:
    """How the n-th curve is drawn, in matplotlib's terms."""
    return {"color": f"C{n % 10}", "linestyle": DASHES[n // 10 % 4], "marker": MARKERS[n // 40 % 6]}


def draw_plot(found: Sensitivity, path: Path) -> None:
    """Error against ratio, and the task's metric below where there are labels, a line for each group, as an image file. Raises
    BadOption without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadOption("--plot needs matplotlib", remedy="install the extra: onnxc[plot]") from None
    curves = readable(found).curves
    metric = next(iter(curves[0].points[0].metrics), None)
    figure = Figure(figsize=(9, 9 if metric else 5), layout="constrained")
    axes = figure.subplots(2 if metric else 1, squeeze=False)[:, 0]
    for n, c in enumerate(curves):
        # a dollar would begin a formula, an underscore hide the line
        label = f" {c.name}".replace("$", r"\$")
        axes[0].plot([0.0, *(p.ratio for p in c.points)], [0.0, *(p.error for p in c.points)], **style(n), label=label)
        if metric:
            axes[1].plot([p.ratio for p in c.points], [p.metrics[metric] for p in c.points], **style(n))
    for side, word in zip(axes, ("relative error of the outputs", metric)):
        side.set_xlabel("share of channels removed")
        side.set_ylabel(word)
        side.grid(alpha=0.3)
    axes[0].legend(fontsize="xx-small", ncols=1 + len(found.curves) // 24)
    image = io.BytesIO()
    try:
        figure.savefig(image, format=path.suffix[1:] or "png")
    except ValueError as e:
        raise BadOption(f"--plot: {e}") from None
    write_whole(path, [image.getvalue()])
