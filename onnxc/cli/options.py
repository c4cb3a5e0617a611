"""What several commands share: their options, and how results, JSON and progress are shown."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Annotated

import typer

from .tables import seconds

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
WayOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Tell of the way in a pipe too: a line every ten seconds.")
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
ProfileOption = Annotated[bool, typer.Option("--profile", help="Time each layer, beside ONNX Runtime's.")]
TraceOption = Annotated[
    str | None,
    typer.Option(metavar="F.json", help="With --profile: a trace for Chrome or Perfetto.", show_default=False),
]
PageOption = Annotated[
    str | None, typer.Option(metavar="F.html", help="With --profile: a page with bars.", show_default=False)
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=F.npy", help="An input's array, or numbers; others are random.", show_default=False
    ),
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


EVERY = 10.0
"""Seconds between two lines in a pipe."""


class Steps:
    """What a command tells of its way: `steps(text)` at the start of each of `total` steps, `steps(text, share)` with the share
    of the whole, `within(text, share)` with that of the step. tell(text, share of the whole) shows it. A share of a step that
    is less than the last begins another loop within it, whose time is counted anew."""

    def __init__(self, total: int, tell: Callable[[str, float], None]):
        self.total, self.tell, self.begun = total, tell, -1
        self.text, self.start = "the model as given", time.monotonic()
        self.made = self.start
        self.first, self.last = 0.0, 0.0

    def __call__(self, text: str, share: float | None = None) -> None:
        self.begun += 1
        self.text, self.start = text, time.monotonic()
        self.first = self.last = 0.0
        if share is None:
            self.tell(text, self.begun / max(self.total, 1))
        else:
            self.tell(f"{text}{_left(time.monotonic() - self.made, share)}", share)

    def within(self, text: str, share: float) -> None:
        if share < self.last:
            self.start, self.first = time.monotonic(), share
        self.last = share
        left = _left(time.monotonic() - self.start, share, self.first)
        self.tell(f"{self.text}: {text}{left}", (max(self.begun, 0) + share) / max(self.total, 1))


def _left(spent: float, share: float, first: float = 0.0) -> str:
    """The time that is left where the part from `first` to `share` took `spent` seconds, as the end of a line."""
    return f", about {seconds(spent * (1 - share) / (share - first))} left" if first < share < 1 and spent > 1 else ""


class Lines:
    """Word of the way as lines on stderr: the latest at most every `every` seconds, and where nothing new is told for as long, the
    last one again with the time since."""

    def __init__(self, every: float):
        self.every, self.said = every, time.monotonic()
        self.text, self.share, self.since = "", 0.0, self.said
        self.over = threading.Event()
        self.beat = threading.Thread(target=self._beats, daemon=True)

    def __call__(self, text: str, share: float) -> None:
        self.text, self.share, self.since = text, share, time.monotonic()
        self._say("")

    def _beats(self) -> None:
        while not self.over.wait(self.every / 4):
            spent = time.monotonic() - self.since
            self._say(f", for {seconds(spent)}" if spent >= self.every else "")

    def _say(self, more: str) -> None:
        now = time.monotonic()
        if self.text and now - self.said >= self.every:
            self.said = now
            print(f"{self.share:4.0%}  {self.text}{more}", file=sys.stderr, flush=True)


@contextmanager
def bar(total: int, *, lines: bool = False):
    """Steps shown as a bar on a terminal; in a pipe as nothing, or with `lines` as a line on stderr every ten seconds."""
    if not sys.stderr.isatty():
        if not lines:
            yield Steps(total, lambda text, share: None)
            return
        told = Lines(EVERY)
        told.beat.start()
        try:
            yield Steps(total, told)
        finally:
            told.over.set()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # a stream of its own: what TVM writes to the other is held back while it compiles
    with open(os.dup(2), "w") as screen, Progress(*columns, console=Console(file=screen), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield Steps(total, lambda text, share: progress.update(task, description=text, completed=share * total))
