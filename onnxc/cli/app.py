"""The `onnxc` command: parses, calls, prints. What it calls stands in `onnxc.pipeline`, `onnxc.inspection` and so on.

Typer is imported here, everything else when a command needs it, so that `onnxc --help` is quick. All errors end in
`main`: one line on stderr, and an exit status: 0 done, 1 a claim or a verification failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from onnxc import __version__
from onnxc.cli import arguments
from onnxc.ir.errors import BadOption, OnnxcError

app = typer.Typer(
    name="onnxc",
    help="Rewrite ONNX models with checked passes, measure what became of them, compile them to C libraries.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="D", help="An .npz named as the inputs, a folder of .npy, or module:function.", show_default=False
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
    typer.Option(metavar="NAME=1x3x224x224", help="Extents of an input; once per input.", show_default=False),
]


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
) -> None:
    # `main` has taken --debug out, and --version has its callback: both stand here for --help
    del version, debug


@app.command()
def passes(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="An ONNX file; with --list, a pass.")] = None,
    listed: Annotated[
        str | None, typer.Option("--passes", "-p", metavar="LIST", help='"fuse, prune(ratio=0.3), quant"')
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="OUT", help="Where to write the model.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="F.toml", help="The list and its settings as TOML.")] = None,
    data: DataOption = None,
    check: Annotated[
        str | None, typer.Option(metavar="data|shapes", help="data: test every claim by running; the default.")
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="F.json|F.html", help="Write the whole report too.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of all random choices; 0 by default.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the passes, or with a name the options of one.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Transform a model by passes, each one verified."""
    if list_:
        from onnxc.cli.listing import list_pass, list_passes

        print(list_pass(model) if model else list_passes())
        return
    model = arguments.wanted(model, "MODEL")
    if (listed is None) == (recipe is None):
        raise BadOption(
            "give a pass list or a recipe", expected="-p LIST or --recipe F.toml", remedy="see onnxc passes --list"
        )
    arguments.check_file(out, "-o")
    if arguments.check_file(report, "--report") and Path(report).suffix not in (".json", ".html"):
        raise BadOption("--report writes JSON or HTML", expected="F.json or F.html", found=report)
    from onnxc.cli.report import render
    from onnxc.pipeline import Pipeline
    from onnxc.recipe import parse, read_toml

    chosen, settings = (parse(listed), {}) if recipe is None else read_toml(recipe)
    given = {"data": data, "check": check, "seed": seed}
    settings |= {key: value for key, value in given.items() if value is not None}
    pipeline = Pipeline(chosen, **settings)
    with _bar(len(pipeline.passes)) as step:
        pipeline.progress = step
        result = pipeline.run(model)
    if out:
        result.model.save(out)
    if report:
        _write_report(Path(report), result.report, model, out)
    _show(render(result.report, verbose=verbose, colour=_colour()))
    if out:
        _show(f"\nwritten: {out}")


def _write_report(path: Path, report, model: str, out: str | None) -> None:
    from onnxc.cli.report import render_html
    from onnxc.ir.files import write_atomically

    if path.suffix == ".html":
        text = render_html(report, f"onnxc: {Path(model).name}")
    else:
        text = _json({"onnxc": __version__, "model": model, "out": out, **report.to_dict()}) + "\n"
    write_atomically(path, [text.encode()])


@app.command()
def inspect(model: ModelArgument, json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """Show layers, coupled channels, parameters, MACs, bytes."""
    from onnxc.measure.inspect import inspect, render

    found = inspect(model)
    _show(_json(found.to_dict()) if json else render(found, verbose=verbose, colour=_colour()))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to judge.")],
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show how far apart the outputs of two models are."""
    from onnxc.measure.compare import compare, render

    found = compare(a, b, data)
    _show(_json({"a": a, "b": b, **found.to_dict()}) if json else render(found, colour=_colour()))


@app.command("compile")
def compile_(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="An ONNX file.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where library, header and manifest go.")
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="T[/T...]", help="The machine; of several the library picks at init.")
    ] = "native",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x224x224",
            help="Extents of an input; several times: a library for all of them.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="raw|coded", help="How the library holds its weights; coded is decoded at init.")
    ] = "raw",
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="The most threads of a handle.")] = 1,
    program: Annotated[bool, typer.Option("--program", help="Make a static command-line program too.")] = False,
    wheel: Annotated[bool, typer.Option("--wheel", help="Make a pip package too, which needs NumPy alone.")] = False,
    data: DataOption = None,
    check: Annotated[
        str, typer.Option(metavar="data|shapes", help="data: run the library beside ONNX Runtime before it is written.")
    ] = "data",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the inputs that are drawn.")] = 0,
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="List the machines, and what this one can link and run.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --list-targets: as JSON.")] = False,
) -> None:
    """Compile a model to a standalone C library."""
    if list_targets:
        from onnxc.cli.compilation import render_targets
        from onnxc.codegen.target import list_targets as rows

        _show(_json({"targets": rows()}) if json else render_targets(rows(), colour=_colour()))
        return
    model, out = arguments.wanted(model, "MODEL", "compile"), arguments.wanted(out, "-o DIR", "compile")
    shapes = arguments.shape_sets(shape)
    if Path(out).exists() and not Path(out).is_dir():
        raise BadOption(f"-o {out} is a file", expected="a folder")
    from onnxc.cli.compilation import library_name, render
    from onnxc.codegen import compile_model
    from onnxc.pipeline import load, sound

    loaded = load(model)
    sound(loaded)
    with _bar(1) as step:
        done = compile_model(
            loaded,
            out,
            name=library_name(model),
            target=target,
            shapes=shapes,
            threads=threads,
            weights=weights,
            program=program,
            wheel=wheel,
            check=check,
            data=data,
            seed=seed,
            progress=lambda stage, share: step(stage, share),
        )
    _show(render(done, colour=_colour()))


@app.command()
def run(
    subject: Annotated[
        str, typer.Argument(metavar="MODEL|LIBRARY", help="An ONNX file, or a folder from onnxc compile.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=F.npy",
            help="An input's array; without any: seeded random inputs.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the outputs go, as .npy.")
    ] = None,
    remote: RemoteOption = None,
) -> None:
    """Run a model or a compiled library once."""
    files = dict(arguments.pair(text, "--input", "NAME=F.npy") for text in inputs or ())
    if out and Path(out).exists() and not Path(out).is_dir():
        raise BadOption(f"-o {out} is a file", expected="a folder")
    from onnxc.cli.running import render_outputs, run_once, save_outputs

    outputs, fed = run_once(subject, files, remote)
    if out:
        save_outputs(outputs, Path(out))
    _show(render_outputs(outputs, fed, colour=_colour()))
    if out:
        _show(f"\nwritten: {out}")


@app.command()
def bench(
    subjects: Annotated[list[str], typer.Argument(metavar="A [B ...]", help="ONNX files and compiled libraries.")],
    threads: ThreadsOption = 1,
    shape: ShapeOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
) -> None:
    """Time models and compiled libraries in turns."""
    from onnxc.cli.running import bench, render_times

    with _bar(1) as step:
        step("timing", 0.0)
        rows = bench(subjects, threads=threads, shapes=arguments.shapes(shape), remote=remote)
    _show(_json({"rows": [row.to_dict() for row in rows]}) if json else render_times(rows, colour=_colour()))


@app.command()
def pack(
    model: ModelArgument,
    out: Annotated[str, typer.Option("--out", "-o", metavar="F.onnxz", help="Where to write the archive.")],
    verbose: VerboseOption = False,
) -> None:
    """Write a lossless, entropy-coded archive of a model."""
    arguments.check_file(out, "-o")
    from onnxc.cli.packing import render
    from onnxc.coding import pack

    _show(f"{render(pack(model, out), verbose=verbose, colour=_colour())}\n\nwritten: {out}")


@app.command()
def unpack(
    archive: Annotated[str, typer.Argument(metavar="F.onnxz", help="What onnxc pack wrote.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="MODEL", help="Where to write the model.")],
) -> None:
    """Give back the files of an archive, byte for byte."""
    arguments.check_file(out, "-o")
    from onnxc.coding import unpack

    _show("\n".join(f"written: {path}" for path in unpack(archive, out)))


@app.command()
def demo() -> None:
    """Take a bundled, trained network the whole way."""
    from onnxc.cli.demo import STEPS, demo, render

    with _bar(STEPS) as step:
        found = demo(progress=step)
    _show(render(found, colour=_colour()))


@app.command()
def sensitivity(
    model: ModelArgument,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="F.json", help="Where results are kept; goes on from there.")
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="F.png", help="Draw the curves too.")] = None,
    criterion: Annotated[str, typer.Option(metavar="C", help="Which channels go first.")] = "l1",
    recover: Annotated[str, typer.Option(metavar="R", help="none, bias, bn, lstsq or all.")] = "none",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all random choices.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show how much each group of channels matters."""
    arguments.check_file(out, "-o")
    arguments.check_file(plot, "--plot")
    from onnxc.measure.sensitivity import plot as draw_curves
    from onnxc.measure.sensitivity import render
    from onnxc.measure.sensitivity import sensitivity as measure
    from onnxc.passes.prune.recover import RECOVER

    if recover not in RECOVER:
        raise BadOption("--recover does not fit", expected=", ".join(RECOVER), found=recover)
    kept = Path(out) if out else None
    with _bar(1) as step:
        found = measure(model, data, criterion=criterion, recover=recover, seed=seed, out=kept, progress=step)
    if plot:
        draw_curves(found, Path(plot))
    _show(_json(found.to_dict()) if json else render(found, colour=_colour()))


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _show(text: str) -> None:
    print(text)


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def _bar(total: int):
    """`step(text)` at the start of each of `total` steps, or `step(text, share)`: a bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda text, share=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = -1

        def step(text: str, share: float | None = None) -> None:
            nonlocal begun
            begun += 1
            progress.update(task, description=text, completed=begun if share is None else share * total)

        yield step


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit status.

    This is the one place where any exception, a bug in another person's pass included, becomes one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"] or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        _dispatch(argv)
        sys.stdout.flush()
        return 0
    except typer.Exit as e:
        return e.exit_code
    except BrokenPipeError:
        # the reader has gone: nobody is left to tell, and Python must not try to flush again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return _complain("interrupted", 130, debug)
    except OnnxcError as e:
        return _complain(str(e), e.exit_status, debug)
    except _USAGE as e:
        return _complain(f"{e.format_message().rstrip('.')}; see {_path(e)} --help", 2, debug)
    except Exception as e:  # noqa: BLE001
        return _complain(*_unforeseen(e), debug)


# Typer brings its own copy of Click or uses the installed one; either way this is the base of all usage errors.
_USAGE = typer.BadParameter.__bases__[0]


def _dispatch(argv: list[str]) -> None:
    # Click's own `main` would catch interrupts and broken pipes before we can
    command = typer.main.get_command(app)
    with command.make_context("onnxc", argv) as context:
        command.invoke(context)


def _path(error) -> str:
    return error.ctx.command_path if error.ctx else "onnxc"


def _unforeseen(e: Exception) -> tuple[str, int]:
    """What to say of an exception that nobody raised on purpose, and the exit status."""
    if isinstance(e, OSError) and e.strerror and not hasattr(e, "pass_name"):
        return f"{e.filename or 'the system'}: {e.strerror.lower()}", 2
    where = f" in pass {e.pass_name}" if hasattr(e, "pass_name") else ""
    if isinstance(e, MemoryError):
        return f"out of memory{where}", 1
    return f"internal error{where}: {type(e).__name__}: {e}; run with --debug", 1


def _complain(text: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"onnxc: error: {' '.join(text.split())}", file=sys.stderr)
    return status
