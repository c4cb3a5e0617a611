"""`onnxc check`: models beside a stored baseline; fails where accuracy, bytes, MACs or time have got worse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.errors import BadOption, VerificationError
from ..ir.escape import html, line, readable
from . import arguments
from .options import (
    DataOption,
    DecodeOption,
    JsonOption,
    MetricOption,
    SamplesOption,
    ShapeOption,
    TaskOption,
    colour,
    json_text,
    show,
)
from .tables import Column, change, count, draw, score, seconds, size

if TYPE_CHECKING:
    from ..measure.baseline import Line

FORMS = {"bytes": size, "peak_bytes": size, "params": count, "macs": count, "time": seconds}


def check(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="ONNX files.")],
    baseline: Annotated[
        str | None, typer.Option(metavar="B.json", help="What they are held to.", show_default=False)
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the baseline anew instead.")] = False,
    data: DataOption = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    decode: DecodeOption = None,
    shape: ShapeOption = None,
    samples: SamplesOption = None,
    drop: Annotated[str, typer.Option(metavar="X", help="Loss of a metric that is borne.")] = "0.5%",
    time: Annotated[bool, typer.Option("--time", help="Hold the time too: on one machine.")] = False,
    slower: Annotated[str, typer.Option(metavar="X", help="Growth of the time that is borne.")] = "10%",
    comment: Annotated[
        str | None, typer.Option(metavar="F.md", help="Write the table as Markdown.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Fail where models are worse than a baseline."""
    if baseline is None:
        raise BadOption("--baseline B.json is missing", remedy="--write makes one")
    arguments.check_file(baseline if write else None, "--baseline")
    arguments.check_file(comment, "--comment")
    from ..ir.output import write_whole
    from ..measure import baseline as stored
    from ..runtime.tasks import find_task
    from ..search.budget import number

    borne = {"drop": number(drop, "drop") or 0.0, "slower": number(slower, "slower") or 0.0}
    file, wishes, wanted = Path(baseline), arguments.wishes(shape, samples), find_task(task, metric, decode)
    old = {} if write else stored.read(file)
    now = {m: stored.figures(m, data, task=wanted, time=time, wishes=wishes) for m in models}
    if write:
        stored.write(file, now)
        show(f"written: {line(str(file))}")
        return
    lines = [row for m in models for row in stored.compare(m, old.get(m, {}), now[m], **borne)]
    worse = [row for row in lines if row.worse]
    if comment:
        write_whole(Path(comment), [markdown(lines).encode()])
    show(
        json_text({"worse": len(worse), "lines": [row.to_dict() for row in lines]})
        if json
        else render(lines, colour=colour())
    )
    if worse:
        first = worse[0]
        was, now_ = (_form(first, value) for value in (first.was, first.now))
        if was == now_:  # as far as people are shown
            was, now_ = (f"{value:,.10g}" for value in (first.was, first.now))
        raise VerificationError(
            f"{len(worse)} of {len(lines)} figures are worse than in {file}",
            expected=f"{first.model}: {first.what} {was}",
            found=now_,
            remedy="or accept it with --write",
        )  # fmt: skip


def _form(row: Line, value: float | None) -> str:
    return "none" if value is None else FORMS[row.what](value) if row.what in FORMS else score(row.what, value)


def _cells(row: Line) -> list[str]:
    moved = change(row.now, row.was) if row.was is not None and row.now is not None and row.what in FORMS else ""
    verdict = "worse" if row.worse else "new" if row.was is None else ""
    return [row.model, row.what, _form(row, row.was), _form(row, row.now), moved, verdict]


def render(lines: Sequence[Line], *, width: int | None = None, colour: bool = False) -> str:
    """A row for each figure of each model."""
    columns = [Column("model", number=False), Column("figure", number=False), Column("baseline"), Column("now"), Column("change"),
               Column("", number=False)]  # fmt: skip
    return draw(columns, [_cells(row) for row in readable(list(lines))], width, colour)


def markdown(lines: Sequence[Line]) -> str:
    """The same as Markdown, as a comment on a change; names are data."""
    rows = [_cells(row) for row in lines]
    rows = [[html(c) for c in cells] for cells in rows]
    mark = {True: "**worse**", False: ""}
    body = "".join(f"| {' | '.join(cells[:5])} | {mark[row.worse] or cells[5]} |\n" for row, cells in zip(lines, rows))
    return f"| model | figure | baseline | now | change | |\n|---|---|---:|---:|---:|---|\n{body}"
