"""`onnxc bench`: models and compiled libraries timed in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.errors import BadOption
from ..ir.escape import readable
from . import arguments
from .options import (
    InputOption,
    JsonOption,
    PageOption,
    ProfileOption,
    RemoteOption,
    ShapeOption,
    ThreadsOption,
    TraceOption,
    WayOption,
    bar,
    colour,
    json_text,
    show,
)
from .profile import check_files, render, write
from .tables import Column, draw, plural, seconds, wrap

if TYPE_CHECKING:
    from ..measure.subjects import Times


def bench(
    subjects: Annotated[list[str], typer.Argument(metavar="A [B ...]", help="ONNX files and compiled libraries.")],
    threads: ThreadsOption = 1,
    shape: ShapeOption = None,
    inputs: InputOption = None,
    remote: RemoteOption = None,
    profile: ProfileOption = False,
    trace: TraceOption = None,
    report: PageOption = None,
    verbose: WayOption = False,
    json: JsonOption = False,
) -> None:
    """Time models and compiled libraries in turns, or the layers of one."""
    check_files(profile, trace, report)
    if profile:
        if len(subjects) > 2 or remote:
            raise BadOption("--profile takes one model, or a library and its model, on this machine")
        from ..compiling import optimiser
        from ..measure.profile import profile as look
        from .html import repeat

        notes: dict[str, None] = {}
        with bar(1, lines=verbose) as step:
            found = look(
                *subjects,
                optimise=optimiser("shapes", note=notes.setdefault),
                threads=threads,
                wishes=arguments.wishes(shape, None, inputs),
                progress=step,
            )
        words = [
            *(word for text in shape or () for word in ("--shape", text)),
            *(["--threads", str(threads)] if threads > 1 else []),
        ]
        write(found, trace=trace, report=report, command=repeat("bench", ["--profile", *subjects, *words]))
        text = "\n\n".join([*notes, render(found, colour=colour())])
        show(json_text(found.to_dict()) if json else text)
        return
    from ..measure.subjects import bench

    with bar(1, lines=verbose) as step:
        times = bench(
            subjects, threads=threads, wishes=arguments.wishes(shape, None, inputs), remote=remote, progress=step
        )
    rows = {"rows": [row.to_dict() for row in times.rows], "fed": list(times.fed)}
    show(json_text(rows) if json else render_times(times, colour=colour()))


def render_times(found: Times, *, width: int | None = None, colour: bool = False) -> str:
    """A row per candidate: median and best time of a call, and the ratio to the first with its quartiles."""
    found = readable(found)
    rows = found.rows
    columns = (Column("", number=False), Column("median"), Column("best"), Column("ratio"), Column("quartiles"))
    cells = [
        [r.name, seconds(r.median), seconds(r.best), f"{r.ratio:.3f}x", f"{r.low:.3f} to {r.high:.3f}"] for r in rows
    ]
    how = f"{plural(rows[0].threads, 'thread')}, {rows[0].rounds} rounds in turns"
    notes = [f"Time of one call; {how}; ratio: by the time of {rows[0].name}.", f"Fed: {'; '.join(found.fed)}."]
    return "\n\n".join([draw(columns, cells, width, colour), *(wrap(note, "", width) for note in notes)])
