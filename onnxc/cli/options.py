"""What several commands share: their options, and how results, JSON and progress are shown."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="D", help="An .npz named as the inputs, a folder of .npy, or module:function.", show_default=False
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(metavar="TASK|m:f", help="What the outputs are for, where labels do not say it.", show_default=False),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|m:f", help="The metric that is shown and held to; m:f(outputs, labels).", show_default=False
    ),
]
DecodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="m:f", help="What makes predictions of outputs, for heads that are not known.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show everything, not the beginning of long lists.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of one run.")]
RemoteOption = Annotated[
    str | None,
    typer.Option(metavar="ssh://[USER@]HOST", help="The board on which compiled libraries run.", show_default=False),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=1x3x224x224", help="Extents of an input, or SYMBOL=N; once each.", show_default=False),
]
SamplesOption = Annotated[
    str | None,
    typer.Option(
        metavar="SYMBOL|none", help="The axis of inputs that counts samples; found by itself.", show_default=False
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=F.npy", help="An input's array; the others are random.", show_default=False),
]


def json_text(value: object) -> str:
    """JSON as the commands print it."""
    from ..ir import escape

    return escape.json_text(value)


def show(text: str) -> None:
    """Print one result."""
    print(text)


def colour() -> bool:
    """Whether tables may be coloured: on a terminal that did not decline."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def bar(total: int):
    """`step(text)` at the start of each of `total` steps, or `step(text, share)`: a bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda text, share=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # a stream of its own: what TVM writes to the other is held back while it compiles
    with open(os.dup(2), "w") as screen, Progress(*columns, console=Console(file=screen), transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = -1

        def step(text: str, share: float | None = None) -> None:
            nonlocal begun
            begun += 1
            progress.update(task, description=text, completed=begun if share is None else share * total)

        yield step
