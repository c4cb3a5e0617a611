"""`onnxc passes`: transform a model by checked passes. What became of it is drawn by `report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..ir.errors import BadOption
from ..ir.escape import line
from . import arguments, memory
from .options import (
    DataOption,
    DecodeOption,
    InputOption,
    JsonOption,
    MetricOption,
    SamplesOption,
    ShapeOption,
    TaskOption,
    VerboseOption,
    bar,
    colour,
    json_text,
    show,
)

if TYPE_CHECKING:
    from ..measure.layers import Fate
    from ..report import PipelineReport


def passes(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="An ONNX file; with --list, a pass.")] = None,
    listed: Annotated[
        str | None, typer.Option("--passes", "-p", metavar="LIST", help='"fuse, prune(ratio=0.3), quant"')
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="OUT", help="Where to write the model.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="F.toml", help="The list and its settings as TOML.")] = None,
    data: DataOption = None,
    task: TaskOption = None,
    metric: MetricOption = None,
    decode: DecodeOption = None,
    shape: ShapeOption = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Write the shapes that --shape says into the model.")
    ] = False,
    samples: SamplesOption = None,
    inputs: InputOption = None,
    check: Annotated[
        str | None, typer.Option(metavar="data|shapes", help="data: test every claim by running; the default.")
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="F.json|F.html", help="Write the whole report too.")] = None,
    node_data: Annotated[
        str | None, typer.Option(metavar="F.json", help="SNR of each layer, for Model Explorer.", show_default=False)
    ] = None,
    require: Annotated[
        str | None, typer.Option(metavar="BOUNDS", help='"accuracy>=0.92, drop<=1%, bytes<=300k": else exit 1.')
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Measure each pass's model in ONNX Runtime.")] = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="What plain runtimes take: no functions of its own.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of all random choices; 0 by default.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the passes, or with a name the options of one.")] = False,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Transform a model by passes, each one verified."""
    if list_:
        _list(model)
        return
    memory.give_back()
    model = arguments.wanted(model, "MODEL")
    if (listed is None) == (recipe is None):
        raise BadOption(
            "give a pass list or a recipe", expected="-p LIST or --recipe F.toml", remedy="see onnxc passes --list"
        )
    arguments.check_file(out, "-o")
    arguments.check_file(report, "--report")
    if report and Path(report).suffix not in (".json", ".html"):
        raise BadOption("--report writes JSON or HTML", expected="F.json or F.html", found=report)
    arguments.check_file(node_data, "--node-data")
    from ..ir.files import load
    from ..passes.registry import make
    from ..pipeline import Pipeline
    from ..recipe import parse, read_toml
    from ..runtime.code import allowed
    from .report import render

    chosen, settings = (parse(listed or ""), {}) if recipe is None else read_toml(recipe, allow_code=allowed())
    if portable:
        chosen = [*chosen, make("portable")]
    given: dict[str, object] = {
        "data": data,
        "task": task,
        "metric": metric,
        "decode": decode,
        "check": check,
        "seed": seed,
        "require": require,
        "time": time or None,
        "freeze": freeze or None,
    }
    given["wishes"] = arguments.wishes(shape, samples, inputs)
    settings |= {key: value for key, value in given.items() if value is not None}
    pipeline = Pipeline(chosen, **settings)
    told = bool(report or node_data or json)
    before = load(model) if told else None  # OUT may take its place
    with bar(len(pipeline.passes), lines=verbose) as step:
        pipeline.progress, pipeline.detail = step, step.within
        result = pipeline.transform(model)
    if int(os.environ.get("RANK", "0")):
        return  # of the processes that torchrun started, which all hold this model, the first writes and tells
    if out:
        result.model.save(out)
    if before is not None:
        argv = _argv(model, listed, recipe, out, data, task, metric, decode, seed)
        argv += ["--portable"] if portable else []
        text = _tell(model, out, result.report, _layers(before, result, settings), argv, report, node_data)
    if json:
        show(text)
        return
    show(render(result.report, verbose=verbose, colour=colour()))
    if out:
        show(f"\nwritten: {line(out)}")


def _list(name: str | None) -> None:
    """The passes; of a name, the options of that pass, or the passes of that method."""
    from ..passes.registry import aliases, available
    from .listing import list_method, list_pass, list_passes

    known = name is None or name in available() or name in aliases()
    show(list_passes() if not name else list_pass(name) if known else list_method(name))


def _tell(
    model: str,
    out: str | None,
    done: PipelineReport,
    layers: list[Fate],
    argv: list[str],
    report: str | None,
    node_data: str | None,
) -> str:
    """Write the whole report to the files that are asked for; the report as JSON."""
    from ..ir.output import write_whole
    from ..measure.layers import explorer
    from ..report import finite
    from .html import repeat, transform_page

    found = {"onnxc": __version__, "model": model, "out": out, "command": repeat("passes", argv), **done.to_dict(),
             "layers": finite([layer.to_dict() for layer in layers])}  # fmt: skip
    text = json_text(found)
    if report and Path(report).suffix == ".html":
        page = transform_page(done, f"onnxc: {Path(model).name}", layers=layers, command=found["command"])
        write_whole(Path(report), [page.encode()])
    elif report:
        write_whole(Path(report), [text.encode() + b"\n"])
    if node_data:
        write_whole(Path(node_data), [json_text(explorer(layers)).encode() + b"\n"])
    return text


def _layers(given, result, settings: dict) -> list[Fate]:
    """What became of each layer; outputs are compared on the user's data."""
    from ..measure.layers import fates
    from ..runtime.feeding import feed

    report, data = result.report, None
    if report.check == "data" and not report.synthetic and given.inputs and _alike(given, result.model):
        data = feed(given.to_proto(), settings.get("data"), settings.get("wishes"), seed=report.seed)
    return fates(given, result.model, data)


def _argv(
    model: str, listed: str | None, recipe: str | None, out: str | None, data, task, metric, decode, seed
) -> list[str]:
    options = {"-p": listed, "--recipe": recipe, "--data": data, "--task": task, "--metric": metric, "--decode": decode, "-o": out,
               "--seed": seed}  # fmt: skip
    return [model, *arguments.words(options)]


def _alike(a, b) -> bool:
    """Whether both take the same inputs."""
    return [(t.name, t.shape) for t in a.inputs] == [(t.name, t.shape) for t in b.inputs]
