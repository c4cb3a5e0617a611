"""`onnxc compare`: how far the outputs of two models are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.escape import readable
from . import arguments
from .options import (
    DataOption,
    DecodeOption,
    InputOption,
    JsonOption,
    MetricOption,
    SamplesOption,
    ShapeOption,
    TaskOption,
    colour,
    json_text,
    show,
)
from .tables import Column, decibels, draw, percent, plural, score, screen_width, wrap

if TYPE_CHECKING:
    from ..measure.compare import ComparisonReport


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to judge.")],
    data: DataOption = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    decode: DecodeOption = None,
    shape: ShapeOption = None,
    samples: SamplesOption = None,
    inputs: InputOption = None,
    json: JsonOption = False,
) -> None:
    """Show how far apart the outputs of two models are."""
    from ..measure.compare import compare
    from ..runtime.tasks import find_task

    found = compare(a, b, data, task=find_task(task, metric, decode), wishes=arguments.wishes(shape, samples, inputs))
    show(json_text({"a": a, "b": b, **found.to_dict()}) if json else render(found, colour=colour()))


def render(found: ComparisonReport, *, width: int | None = None, colour: bool = False) -> str:
    """The comparison as text: a row per output, accuracies, and what it was measured on."""
    found = readable(found)
    columns = (
        Column("output", number=False),
        Column("max abs error"),
        Column("max rel"),
        Column("SNR dB"),
        Column("top-1"),
    )
    rows = [
        [name, f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", decibels(d.snr_db), percent(d.top1)]
        for name, d in found.outputs.items()
    ]
    parts = [draw(columns, rows, width, colour)]
    if found.task is not None:
        metric = found.task.metric
        parts.append(f"{metric}: {' and '.join(score(metric, m[metric]) for m in found.metrics)}")
    parts += [wrap(text, width=width or screen_width()) for text in found.remarks]
    text = "; ".join([f"on {plural(found.samples, 'sample')} of {found.data}", *found.fed])
    parts.append(wrap(text, width=width or screen_width()))
    return "\n\n".join(parts)
