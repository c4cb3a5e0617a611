"""`--profile` of bench and compile: a row a layer, a Chrome trace, bars in a page, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import BadOption
from ..ir.escape import readable
from . import arguments
from .options import json_text
from .tables import Column, draw, percent, plural, screen_width, seconds, size, some, wrap

if TYPE_CHECKING:
    from ..measure.profile import LayerTime, Profile

COLUMNS = (
    Column("", number=True),
    Column("nodes", number=False),
    Column("time"),
    Column("share"),
    Column("GMAC/s"),
    Column("bytes"),
    Column("of ceiling"),
    Column("kernel", number=False),
    Column("ONNX Runtime"),
)
LONG = 40
ORT = (Column("node", number=False), Column("operator", number=False), Column("time"), Column("share"))


def check_files(profile: bool, trace: str | None, report: str | None, *, micro: bool = False) -> None:
    """Refuse, before any work, files that cannot be written, or that nothing would write; `micro` libraries have a page of their own."""
    for option, path, ending in (("--trace", trace, ".json"), ("--report", report, ".html")):
        if path is not None and not profile and not (micro and option == "--report"):
            raise BadOption(f"{option} is of --profile", remedy="add --profile")
        if arguments.check_file(path, option) and Path(str(path)).suffix != ending:
            raise BadOption(f"{option} writes another kind of file", expected=f"F{ending}", found=path)


def write(found: Profile, *, trace: str | None, report: str | None, command: str = "") -> None:
    """The files that were asked for; each appears whole."""
    from ..ir.output import write_whole

    if trace:
        write_whole(Path(trace), [(json_text(chrome(found)) + "\n").encode()])
    if report:
        from ..measure.guide import advice
        from .html import profile_page

        rows = [cells(layer) for layer in found.layers]
        why = [(names(layer), text) for layer, text in advice(found)]
        page = profile_page(found, COLUMNS, rows, why, said(found), command=command)
        write_whole(Path(report), [page.encode()])


def render(found: Profile, *, width: int | None = None, colour: bool = False) -> str:
    """The profile as text."""
    found, width = readable(found), width or screen_width()
    if found.refused:
        return "\n\n".join([wrap(said(found)[0], width=width), *_ort_alone(found, width, colour)])
    rows = [cells(layer) for layer in found.layers]
    parts = [draw(COLUMNS, rows, width, colour)]
    parts += [wrap(line, width=width) for line in said(found)]
    parts.append("\n".join(["Where the time goes", *guide(found, width)]))
    return "\n\n".join(parts)


def names(layer: LayerTime) -> str:
    """The nodes of a layer, long names by their ends."""
    return label(layer.nodes) or layer.function


def label(nodes: Sequence[str]) -> str:
    """The names of nodes, long ones by their ends; "" for none."""
    return some([name if len(name) <= LONG else f"…{name[1 - LONG :]}" for name in nodes], 2)


def cells(layer: LayerTime) -> list[str]:
    """A row of the table."""
    ort = (
        ""
        if layer.ort_seconds is None
        else f"{seconds(layer.ort_seconds)} ({layer.ort_seconds / max(layer.seconds, 1e-9):.2f}x)"
    )
    kernel = (
        layer.schedule.replace(": tile ", " ")
        .replace(" pixels x ", "x")
        .replace(" vectors x ", "x")
        .replace(" lanes", "")
    )
    ceiling = f"{layer.ceiling:.0%} {'M' if layer.bound == 'multiply-adds' else 'B'}"
    rate = f"{layer.rate / 1e9:.1f}" if layer.macs else ""
    return [
        str(layer.number), names(layer), seconds(layer.seconds), percent(layer.share), rate, size(layer.bytes + layer.weight_bytes),
        ceiling, kernel or layer.family, ort or layer.note,
    ]  # fmt: skip


def said(found: Profile) -> list[str]:
    """What the table does not say, a paragraph each."""
    if found.refused:
        return [f"Not compiled: {found.refused}"]
    roof = found.ceiling
    whole = f"{plural(len(found.layers), 'layer')} take {seconds(found.total)}, the library without clocks {seconds(found.seconds)} a run"
    if found.ort_seconds is not None:
        whole += f", ONNX Runtime {seconds(found.ort_seconds)} ({found.ort_seconds / found.seconds:.2f}x)"
    lines = [f"{whole}: medians of {plural(found.rounds, 'round')} in turns, {plural(found.threads, 'thread')}."]
    general = sorted((layer for layer in found.layers if layer.general), key=lambda layer: -layer.share)
    if general:
        text = ", ".join(f"{layer.label} {layer.share:.1%}" for layer in general[:8])
        more = f" and {len(general) - 8} more" if len(general) > 8 else ""
        lines.append(f"By the general schedule {found.general:.1%} of the time: {text}{more}.")
    if found.unmatched:
        spent = sum(kernel.seconds for kernel in found.unmatched)
        names = some([f"{kernel.name} {seconds(kernel.seconds)}" for kernel in found.unmatched])
        lines.append(f"ONNX Runtime's kernels that stand for no layer here, {seconds(spent)} of its time: {names}.")
    reads = ", ".join(f"{size(speed)}/s from {size(extent)}" for extent, speed in roof.bandwidth)
    bits = f", {roof.bits / 1e9:,.0f} of single bits" if roof.bits else ""
    peaks = f"{roof.float32 / 1e9:.0f} GMAC/s in float32, {roof.int8 / 1e9:.0f} in int8{bits}"
    lines.append(
        f"Ceiling, measured on one core: {peaks}; reads {reads}. M: the multiply-adds bound the layer, B: the bytes. "
        "GMAC/s count what a layer stands for, the ceiling the products that it makes: fewer with Winograd."
    )
    return lines


def guide(found: Profile, width: int) -> list[str]:
    """The five longest layers, each with a suggestion."""
    from ..measure.guide import advice

    return [
        wrap(f"  {layer.share:.0%} {names(layer)}: {text}", indent="     ", width=width)
        for layer, text in advice(found)
    ]


def _ort_alone(found: Profile, width: int, colour: bool) -> list[str]:
    whole = sum(kernel.seconds for kernel in found.unmatched) or 1.0
    rows = [[k.name, k.op, seconds(k.seconds), percent(k.seconds / whole)] for k in _by_time(found)]
    spent = f"{seconds(found.ort_seconds or 0.0)} a run, {plural(found.threads, 'thread')}"
    text = f"ONNX Runtime alone: {plural(len(rows), 'kernel')}, {spent}."
    return [draw(ORT, rows, width, colour), wrap(text, width=width)]


def _by_time(found: Profile) -> Sequence[Any]:
    return sorted(found.unmatched, key=lambda kernel: -kernel.seconds)


def chrome(found: Profile) -> dict[str, Any]:
    """The trace event format of Chrome and Perfetto: a run of the library and one of ONNX Runtime, a thread each, in microseconds."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}}
        for tid, name in ((1, "onnxc"), (2, "ONNX Runtime"))
    ]
    at = 0.0
    for layer in found.layers:
        args = {"nodes": list(layer.nodes), "kernel": layer.schedule or layer.family, "spec": layer.spec, "macs": layer.macs,
                "bytes": layer.bytes + layer.weight_bytes, "share of ceiling": round(layer.ceiling, 4)}  # fmt: skip
        events.append(_event(names(layer), layer.family, 1, at, layer.seconds) | {"args": args})
        at += layer.seconds
    at = 0.0
    kernels = [(name, layer.family, layer) for layer in found.layers for name in layer.ort[:1]]
    for name, _, layer in kernels:
        events.append(
            _event(name, "ONNX Runtime", 2, at, layer.ort_seconds or 0.0) | {"args": {"kernels": list(layer.ort)}}
        )
        at += layer.ort_seconds or 0.0
    for kernel in found.unmatched:
        events.append(_event(kernel.name, "ONNX Runtime", 2, at, kernel.seconds) | {"args": {"operator": kernel.op}})
        at += kernel.seconds
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _event(name: str, kind: str, tid: int, at: float, length: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "pid": 1,
        "tid": tid,
        "ts": round(at * 1e6, 3),
        "dur": round(length * 1e6, 3),
    }
