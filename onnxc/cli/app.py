"""The `onnxc` command: names its commands, each of which stands in a file of its own, and turns errors into one line.

Typer is imported here, everything else when a command needs it, so that `onnxc --help` is quick. All errors end in
`main`: one line on stderr, and an exit status: 0 done, 1 a claim or a verification failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from onnxc import __version__
from onnxc.cli import (
    auto,
    bench,
    check,
    compare,
    compile,
    completion,
    demo,
    diff,
    inspect,
    pack,
    passes,
    run,
    sensitivity,
    signals,
)
from onnxc.ir.errors import OnnxcError
from onnxc.ir.escape import line
from onnxc.ir.output import NO_ROOM

app = typer.Typer(
    name="onnxc",
    help="Rewrite ONNX models with checked passes, measure what became of them, compile them to C libraries.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"onnxc {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Anywhere: show the traceback of an error too.")] = False,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Anywhere: a recipe may name module:function, the working folder hold it."),
    ] = False,
) -> None:
    # `main` has taken --debug and --allow-code out, and --version has its callback: they stand here for --help
    del version, debug, allow_code


_COMMANDS: dict[str, Callable[..., Any]] = {
    "passes": passes.passes,
    "auto": auto.auto,
    "inspect": inspect.inspect,
    "compare": compare.compare,
    "diff": diff.diff,
    "check": check.check,
    "completion": completion.completion,
    "compile": compile.compile_,
    "run": run.run,
    "bench": bench.bench,
    "pack": pack.pack,
    "unpack": pack.unpack,
    "demo": demo.demo,
    "sensitivity": sensitivity.sensitivity,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit status.

    This is the one place where any exception, a bug in another person's pass included, becomes one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    trusting = "--allow-code" in argv
    argv = [a for a in argv if a not in ("--debug", "--allow-code")] or ["--help"]
    _open_streams()
    # NumPy's, of numbers that are not finite: what a model holds is told in tables and errors
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"(onnxc|numpy)\.")
    try:
        with signals.handled(), _allowing(trusting):
            status = _dispatch(argv)
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop(sys.stdout)  # the reader has gone, and nobody is left to tell
        return 128 + 13
    except signals.Ended as e:
        return _complain(e.said, 128 + e.number, debug)
    except KeyboardInterrupt:
        return _complain("interrupted", 130, debug)
    except OnnxcError as e:
        return _complain(str(e), e.exit_status, debug)
    except _USAGE as e:
        return _complain(f"{_sentence(e)}{_elsewhere(e)}see {_path(e)} --help", 2, debug)
    except Exception as e:  # noqa: BLE001
        return _complain(*_unforeseen(e), debug)


def _allowing(trusting: bool) -> AbstractContextManager[None]:
    if not trusting:
        return nullcontext()
    from onnxc.runtime.code import allowing

    return allowing(True)


def _open_streams() -> None:
    """Where a stream was closed before we began, what is opened next would take its number, and prints would end up there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def _drop(stream: TextIO) -> None:
    """Python must not try to write again, at its end, what could not be written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# Typer brings its own copy of Click or uses the installed one; either way this is the base of all usage errors.
_USAGE: Any = typer.BadParameter.__bases__[0]


def _dispatch(argv: list[str]) -> int:
    """Run a command; its exit status."""
    # Click's own `main` would catch interrupts and broken pipes before we can
    command = typer.main.get_command(app)
    try:
        with command.make_context("onnxc", argv) as context:
            command.invoke(context)
    except typer.Exit as e:
        return e.exit_code
    return 0


def _sentence(error) -> str:
    """What Click says, as the beginning of our line."""
    said = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    return f"{said} " if said.endswith("?") else f"{said}; "


def _elsewhere(error) -> str:
    """The commands that have an option which was given ahead of any."""
    name, context = getattr(error, "option_name", None), error.ctx
    if name is None or context is None or context.parent is not None:
        return ""
    commands = context.command.commands.items()
    found = [f"onnxc {key} {name}" for key, one in commands if any(name in option.opts for option in one.params)]
    return f"it is an option of a command: {', '.join(found[:3])}; " if found else ""


def _path(error) -> str:
    return error.ctx.command_path if error.ctx else "onnxc"


def _unforeseen(e: Exception) -> tuple[str, int]:
    """What to say of an exception that nobody raised on purpose, and the exit status."""
    if isinstance(e, OSError) and e.errno in NO_ROOM and _is_temporary(e):
        import tempfile

        said = f"cannot write temporary files: {os.strerror(e.errno).lower()}"
        said = f"pass {e.pass_name}: {said}" if hasattr(e, "pass_name") else said
        return f"{said}; make room in {line(tempfile.gettempdir())}, or name another folder in TMPDIR", 2
    if isinstance(e, OSError) and e.strerror and not hasattr(e, "pass_name"):
        return f"{e.filename or 'standard output'}: {e.strerror.lower()}", 2
    where = f" in pass {e.pass_name}" if hasattr(e, "pass_name") else ""
    if isinstance(e, MemoryError):
        return f"out of memory{where}", 1
    return f"internal error{where}: {type(e).__name__}: {e}; run with --debug", 1


def _is_temporary(e: OSError) -> bool:
    """Whether a file in the folder for temporary ones could not be written: those bear no name in errors of writing."""
    import tempfile

    if e.filename is not None:
        return Path(os.fsdecode(e.filename)).is_relative_to(tempfile.gettempdir())
    place = e.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    name = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    return name.split(".")[0] not in ("typer", "click", "rich") and not name.startswith("onnxc.cli.")  # which print


def _complain(text: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    try:
        print(f"onnxc: error: {line(text)}", file=sys.stderr, flush=True)
    except OSError:  # where nothing can be said, the status says it
        _drop(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
    return status
