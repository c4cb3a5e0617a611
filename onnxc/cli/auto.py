"""`onnxc auto`: one budget in, the best recipe out; what was found, as a table and a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..ir.errors import BadOption, VerificationError
from ..ir.escape import line, readable
from . import arguments
from .options import (
    DataOption,
    DecodeOption,
    InputOption,
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
from .tables import Column, change, count, decibels, draw, plural, score, seconds, size, wrap

if TYPE_CHECKING:
    from ..search import Estimate, Found, Search
    from ..search.work import Worker

COLUMNS = (Column("", number=False), Column("bytes"), Column("MACs"), Column("peak"), Column("flash"), Column("RAM"),
           Column("time"), Column("SNR dB"))  # fmt: skip


DOUBT = " (with a standard error for so few samples)"
LOOKED_AT = 16
"""Samples on which the report compares single layers."""


def _bound(text: str) -> object:
    return typer.Option(metavar="X", help=text, show_default=False)


def auto(
    model: ModelArgument,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the results go; goes on from there.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="T", help="Compile for this machine.", show_default=False)
    ] = None,
    flash: Annotated[str | None, _bound("Bytes of the library, 256k say.")] = None,
    ram: Annotated[str | None, _bound("Bytes of its arena, inputs and outputs.")] = None,
    bytes_: Annotated[
        str | None, typer.Option("--bytes", metavar="X", help="Stored bytes; up to 1: a share.", show_default=False)
    ] = None,
    macs: Annotated[str | None, _bound("Multiply-accumulates; up to 1: a share.")] = None,
    time: Annotated[str | None, _bound("Time in ONNX Runtime, a share.")] = None,
    drop: Annotated[
        str | None, _bound("Loss of the metric that is borne, 2% say; 1% where nothing else is asked for.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, metavar="M", help="When to stop; 0: when it is done.")] = 10,
    train: Annotated[bool, typer.Option("--train", help="Distil candidates, too (needs torch).")] = False,
    task: TaskOption = None,
    metric: MetricOption = None,
    decode: DecodeOption = None,
    shape: ShapeOption = None,
    samples: SamplesOption = None,
    inputs: InputOption = None,
    executor: Annotated[
        str, typer.Option(metavar="E", help="threads[:N], processes[:N], dask://HOST:PORT or ray://HOST:PORT.")
    ] = "threads",
    remote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ssh://[USER@]HOST", help="Time libraries on this board; once for each.", show_default=False
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be tried, and how long it takes.")] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all random choices.")] = 0,
    verbose: WayOption = False,
    json: JsonOption = False,
) -> None:
    """Find the smallest model that keeps to a budget.

    DATA: a few hundred samples, as numpy.savez("data.npz", NAME=samples, labels=labels), NAME being the model's input. Some of
    them are seen by passes, some choose, the rest judge. Without a budget at most 1% of the metric (of accuracy, say) is lost.

    onnxc auto net.onnx --data data.npz -o small
    """
    from ..search import Budget
    from ..search import auto as search
    from ..search.budget import number

    folder = Path(out if out is not None else f"{Path(model).stem}-auto")
    if folder.exists() and not folder.is_dir():
        raise BadOption(f"-o {folder} is a file", expected="a folder")
    given = {"flash": flash, "ram": ram, "bytes": bytes_, "macs": macs, "time": time, "drop": drop}
    budget = Budget(**{name: number(value, name) for name, value in given.items()})
    wishes = arguments.wishes(shape, samples, inputs)
    settings: dict[str, Any] = {
        "task": task,
        "metric": metric,
        "decode": decode,
        "target": target,
        "minutes": minutes or None,
        "train": train,
        "seed": seed,
        "remote": tuple(remote or ()),
    }
    del verbose  # a search takes minutes: it tells of its way in any case
    with bar(1, lines=True) as step:
        searching = search(
            model,
            data,
            budget=budget,
            executor=executor,
            folder=None if plan else folder,
            wishes=wishes,
            progress=step.tell,
            **settings,
        )
        if plan:
            show(json_text(_planned(searching.plan())) if json else render_plan(searching.plan(), colour=colour()))
            return
        found, places = _searched(searching, folder, json)
        argv = {
            "--data": data,
            "--task": task,
            "--metric": metric,
            "--decode": decode,
            "--target": target,
            **{f"--{n}": v for n, v in given.items()},
        }
        words = (
            arguments.words(argv)
            + ["--train"] * train
            + [word for address in remote or () for word in ("--remote", address)]
        )
        _write_page(found, folder, searching.local, [model, *words, "-o", str(folder), "--seed", str(seed)])
    _say(found, folder, places, json)
    if found.misses:
        raise VerificationError(f"cannot: nearest is {told(found)}", remedy="ask for less, or give more data")


def _searched(searching: Search, folder: Path, json: bool) -> tuple[Found, list[Path]]:
    """What a search finds, and where its points were written; what ends it early leaves the best so far there, and says so."""
    from ..search.folder import write

    try:
        found = searching.run()
    except BaseException:
        if searching.tried:
            found = searching.partial()
            _say(found, folder, write(found, folder, searching.local.spec), json)
        raise
    return found, write(found, folder, searching.local.spec)


def _say(found: Found, folder: Path, places: list[Path], json: bool) -> None:
    if json:
        from ..report import finite

        show(json_text(finite(found.to_dict())))
    else:
        show(render(found, colour=colour()))
        if places:
            show(f"\nwritten: {line(str(folder))}; start with {line(str(places[0] / 'model.onnx'))}")


def _write_page(found: Found, folder: Path, local: Worker, argv: list[str]) -> None:
    """report.html, with every layer of the chosen point."""
    from ..ir.files import load
    from ..ir.output import write_whole
    from ..measure.layers import fates
    from .html import repeat, search_page

    layers = (
        fates(local.given, load(found.best.proto()), local.spec.parts[0].first(LOOKED_AT))
        if found.best is not None
        else []
    )
    sentences = [summary(found), *found.notes] if found.best is not None else ["Nothing smaller was found."]
    text = search_page(
        found, f"onnxc auto: {Path(argv[0]).name}", layers=layers, command=repeat("auto", argv), told=sentences
    )
    write_whole(folder / "report.html", [text.encode()])


def told(found: Found) -> str:
    """The misses of the nearest point, in words, and what takes the memory."""
    name = f"point {found.chosen + 1}" if found.chosen is not None else "none"
    parts = []
    for bound, (had, allowed) in found.misses.items():
        form = size if bound in ("bytes", "flash", "ram") else count if bound == "macs" else "{:.4g}".format
        why = _memory(found) if bound == "ram" else DOUBT if bound == "drop" else ""
        parts.append(f"{bound} {form(had)} above {form(allowed)}{why}")
    return f"{name}: {', '.join(parts)}"


def _memory(found: Found) -> str:
    """What RAM goes to: inputs and outputs, which nothing here makes smaller, and the layer at which most is alive."""
    parts = found.best.result.get("ram_parts") if found.best is not None else None
    if not parts or found.best is None:
        return ""
    arena = found.best.result["ram"] - parts["io"]
    return f" (inputs and outputs {size(parts['io'])}, else {size(arena)} at {parts['at']})"


def render(found: Found, *, width: int | None = None, colour: bool = False) -> str:
    """A row for each point, smallest last, and in words what was chosen."""
    from ..search.words import said

    found = readable(found)
    columns = [*COLUMNS, Column(found.metric)]
    rows = [["as given", *_row(found, found.given)]]
    for k, point in enumerate(found.points):
        rows.append([f"point {k + 1}{' *' if k == found.chosen else ''}", *_row(found, point.result)])
    parts = [draw(columns, rows, width, colour)]
    if found.best is None:
        parts.append("Nothing smaller was found.")
    else:
        parts.append(wrap(summary(found), "", width))
        parts.append(wrap(f"  {said(found.best.passes)}", "  ", width))
    parts += [wrap(note, "", width) for note in found.notes]
    return "\n\n".join(parts)


def summary(found: Found) -> str:
    """What was chosen, in a sentence or two."""
    best = found.best
    assert best is not None and found.chosen is not None
    result = best.result
    what = f"Point {found.chosen + 1} has {change(result['bytes'], found.given['bytes']) or '±0%'} bytes"
    what += f" and {change(result['macs'], found.given['macs']) or '±0%'} MACs"
    now, was = (score(found.metric, one["held"][found.metric]) for one in (result, found.given))
    error = found.doubt(best)
    sure = f" (the difference has a standard error of {score(found.metric, error)})" if error else ""
    metric = f"{found.metric} {now} instead of {was}{sure}"
    kept = "It keeps to" if not found.misses else "It is the nearest to"
    return (
        f"{what}; {metric} on samples that were held apart. {kept} {found.budget}. "
        f"{plural(found.tried, 'candidate')} tried; those that another one beats are left out."
    )


def _row(found: Found, result: dict) -> list[str]:
    def sized(name: str) -> str:
        if name not in result:
            return ""
        if not math.isfinite(result[name]):
            return "no library"
        moved = change(result[name], found.given[name]) if name in found.given else ""
        return (count if name == "macs" else size)(result[name]) + (f"\n{moved}" if moved else "")

    time = f"{result['time']:.2f}x" if "time" in result else ""
    snr = "" if result is found.given else decibels(result["snr_db"])
    return [*(sized(n) for n in ("bytes", "macs", "peak_bytes", "flash", "ram")), time, snr,
            score(found.metric, result["held"].get(found.metric))]  # fmt: skip


def render_plan(estimate: Estimate, *, width: int | None = None, colour: bool = False) -> str:
    """What would be measured, with times."""
    from ..search.search import WHAT

    columns = (Column("what", number=False), Column("how many"), Column("each"), Column("together"))
    rows = [[WHAT[kind], str(n), seconds(each), seconds(n * each)] for kind, n, each in estimate.rows]
    whole = f"About {seconds(estimate.seconds)} in one thread; nothing was written."
    return "\n\n".join([draw(columns, rows, width, colour), whole])


def _planned(estimate: Estimate) -> dict:
    rows = [{"what": kind, "jobs": n, "seconds_each": each} for kind, n, each in estimate.rows]
    return {"jobs": rows, "seconds": estimate.seconds}
