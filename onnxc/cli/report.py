"""What a pass list did, for people: a table as text. `html` has the same as a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..ir.escape import readable
from .tables import (
    NARROW,
    Column,
    change,
    count,
    decibels,
    draw,
    percent,
    plural,
    score,
    screen_width,
    seconds,
    size,
    some,
    wrap,
)

if TYPE_CHECKING:
    from ..ir.cost import Cost
    from ..passes.base import Report
    from ..report import PipelineReport

HEAD = (
    *(Column("pass", number=False), Column("claim", number=False), Column("nodes"), Column("params"), Column("MACs")),
    *(Column("bytes"), Column("SNR dB"), Column("top-1")),
)
FEW = 4
"""Reasons shown per pass; the rest is counted."""


def render(report: PipelineReport, *, verbose: bool = False, width: int | None = None, colour: bool = False) -> str:
    """The report as text: a row per pass, then what was left alone and why (all of it with `verbose`), then notes."""
    report = readable(report)
    width = width or screen_width()
    parts = [
        draw(columns(report), table_rows(report, "\n" if width < NARROW else " "), width, colour),
        wrap(legend(report), "", width),
    ]
    parts += [_warned(text, colour) for text in _section("Got worse", report.warnings(), width)]
    if verbose:
        parts += _section("Edits", _each((r.name, e.node, e.what) for r in report.rows for e in r.edits), width)
        parts += _section(
            "Left alone", _each((r.name, e.node, e.reason) for r in report.rows for e in r.refusals), width
        )
    else:
        parts += _section("Left alone", grouped(report.rows), width)
    parts += _section("As given", report.remarks, width)
    parts += _section("Notes", [f"{r.name}: {note}" for r in report.rows for note in r.notes], width)
    return "\n\n".join(part for part in parts if part)


def _warned(text: str, colour: bool) -> str:
    return f"\x1b[1;33m{text}\x1b[0m" if colour else text


def columns(report: PipelineReport) -> list[Column]:
    """One for each figure; the last but one is the task's metric."""
    return [*HEAD, Column(report.metric), Column("model time"), Column("time")]


def legend(report: PipelineReport) -> str:
    """What the columns were measured on."""
    if report.check != "data":
        text = "Checked: dimensions, strict shape inference, interface. No claim was tested on data (--check shapes)."
        return f"{text} Costs at {', '.join(report.sizes)}." if report.sizes else text
    samples = plural(report.samples, "sample")
    text = f"Changes and errors are against the model as given; every claim held on {samples} of {report.data}."
    if report.sizes and not set(report.sizes) <= set(report.fed):
        text += f" Costs at {', '.join(report.sizes)}."
    if report.fed:
        text += f" Inputs: {'; '.join(report.fed)}."
    if any(r.error.get("snr_db") == float("inf") for r in report.rows):
        text += " SNR ∞: the very same numbers."
    return text


def table_rows(report: PipelineReport, between: str) -> list[list[str]]:
    if not report.rows:
        return []
    first = report.rows[0].before
    rows = [
        [
            "as given",
            "",
            *_costs(first, first, between),
            "",
            "",
            score(report.metric, report.metrics.get(report.metric)),
            "1.00x" if any("time" in r.error for r in report.rows) else "",
            "",
        ]
    ]
    for r, depth in _nested(report.rows):
        error = r.error
        measured = [
            decibels(error.get("snr_db")),
            percent(error.get("top1")),
            score(report.metric, error.get(report.metric)),
            f"{error['time']:.2f}x" if "time" in error else "",
        ]
        name = "  " * depth + r.name.replace("(", "\n(", 1)
        rows.append([name, str(r.claim), *_costs(r.after, first, between), *measured, seconds(r.seconds)])
    return rows


def _nested(rows: list[Report], depth: int = 0) -> Iterator[tuple[Report, int]]:
    for r in rows:
        yield r, depth
        yield from _nested(r.parts, depth + 1)


def _costs(now: Cost | None, first: Cost | None, between: str) -> list[str]:
    if now is None or first is None:
        return [""] * 4
    cells = [(str(now.nodes), now.nodes, first.nodes), (count(now.params), now.params, first.params)]
    cells += [(count(now.macs), now.macs, first.macs), (size(now.bytes), now.bytes, first.bytes)]
    return [f"{text}{between}{moved}" if (moved := change(a, b)) else text for text, a, b in cells]


def _each(items: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"{name}: {node}: {text}" for name, node, text in items]


def grouped(rows: list[Report]) -> list[str]:
    """Refusals for the same reason on one line, the commonest first."""
    lines = []
    for r in rows:
        found = folded((refusal.node, refusal.reason) for refusal in r.refusals)
        lines += [f"{r.name}: {told('node', *group)}" for group in found[:FEW]]
        rest = sum(len(nodes) for nodes, _ in found[FEW:])
        if rest:
            others = plural(len(found) - FEW, "other reason")
            lines.append(f"{r.name}: {plural(rest, 'more node')} for {others} (--verbose)")
    return lines


def folded(pairs: Iterable[tuple[str, str]]) -> list[tuple[list[str], list[str]]]:
    """(node, reason) -> (nodes, their reasons) for each reason, the commonest first. Reasons that differ by the name of a node, a
    tensor or an operator are the same."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for node, reason in pairs:
        nodes, reasons = found.setdefault(_NAME.sub("*", reason), ([], []))
        nodes.append(node)
        reasons.append(reason)
    return sorted(found.values(), key=lambda group: -len(group[0]))


def told(noun: str, nodes: list[str], reasons: list[str]) -> str:
    """One line on nodes that were left for one reason."""
    if len(set(reasons)) == 1:
        return f"{plural(len(nodes), noun)}: {reasons[0]} ({some(nodes)})"
    return f"{plural(len(nodes), noun)}, as {nodes[0]}: {reasons[0]}"


_NAME = re.compile(r"\S*[\d/]\S*|\b(?:[A-Z][a-z]+[A-Z]?[A-Za-z]*|GRU|LSTM|RNN|PRelu|LRN)\b")
"""What is most likely the name of a node, a tensor or an operator within a reason."""


def _section(title: str, lines: list[str], width: int) -> list[str]:
    return ["\n".join([title, *(wrap(f"  {line}", "      ", width) for line in lines)])] if lines else []
