"""Reports as one HTML page that loads nothing: what passes did, what a search found. All text goes through `ir.escape.html`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.escape import html
from .charts import Safe, bars, curve, curves, front, histogram, ridges, steps
from .report import HEAD, columns, grouped, legend, table_rows
from .tables import Column, change, count, decibels, percent, plural, score, seconds, size

if TYPE_CHECKING:
    from ..codegen import CompileReport
    from ..measure.diff import Diff
    from ..measure.layers import Fate
    from ..measure.profile import Profile
    from ..report import PipelineReport
    from ..search import Found

__all__ = ["HEAD", "compile_page", "diff_page", "profile_page", "repeat", "search_page", "transform_page"]
LAYERS = (
    *(Column(title, number=False) for title in ("layer", "kind")),
    *(Column(title) for title in ("share of MACs", "MACs", "bytes", "bits", "channels", "SNR dB")),
    *(Column(title, number=False) for title in ("sensitivity", "weights")),
)


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # the project's own escaping stands at the one place that every value passes
    room = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False, finalize=_escaped
    )
    return room.get_template("page.html.j2")


def _escaped(value: object) -> str:
    return value if isinstance(value, Safe) else html(str(value))


def _page(title: str, **parts: Any) -> str:
    empty: dict[str, Any] = {
        "summary": [],
        "front": "",
        "bars": [],
        "bars_title": "Before and after each pass",
        "trainings": [],
        "tables": [],
        "lists": [],
        "command": "",
    }
    text = _template().render(title=title, **empty | parts)
    return text.encode("ascii", "xmlcharrefreplace").decode()


def repeat(command: str, arguments: Sequence[str]) -> str:
    """The command line that makes it again."""
    return shlex.join(["onnxc", command, *arguments])


def transform_page(
    report: PipelineReport, title: str = "onnxc report", *, layers: Sequence[Fate] = (), command: str = ""
) -> str:
    """What a pass list did: a summary, bars, the table, every layer, then edits, refusals and notes to unfold."""
    lists = [
        _list(f"Got worse: {plural(len(w), 'thing')}", [("", t) for t in w], open_=True)
        for w in [report.warnings()]
        if w
    ]
    lists += [
        _list(f"{plural(len(g), 'reason')} why parts were left alone", [("", t) for t in g])
        for g in [grouped(report.rows)]
        if g
    ]
    for r in report.rows:
        lists += (
            [_list(f"{r.name}: {plural(len(r.edits), 'edit')}", [(e.node, e.what) for e in r.edits])] if r.edits else []
        )
        lists += (
            [_list(f"{r.name}: {len(r.refusals)} left alone", [(e.node, e.reason) for e in r.refusals])]
            if r.refusals
            else []
        )
        lists += [_list(f"{r.name}: {plural(len(r.notes), 'note')}", [("", n) for n in r.notes])] if r.notes else []
    tables = [_table("Passes", columns(report), [(row, False) for row in table_rows(report, "\n")], legend(report))]
    tables += [_layer_table(layers, {})] if layers else []
    return _page(
        title, summary=[said(report)], bars=_bars(report), trainings=_trainings(report), tables=tables, lists=lists,
        command=command,
    )  # fmt: skip


def _trainings(report: PipelineReport) -> list[dict[str, Any]]:
    """Of each training its losses by epoch, and the batch-norm scales after each, from none on."""
    charts = []
    for r in report.rows:
        for k, t in enumerate(r.trainings):
            title = r.name if len(r.trainings) == 1 else f"{r.name}: training {k + 1}"
            held = [(float(e), loss) for e, loss in enumerate([t["start"], *t["losses"]])]
            train = [(float(e), loss) for e, loss in enumerate(t["train"], 1)]
            lines = curves([("held loss", held), ("loss of the steps", train)], "epoch", float(t["best"]))
            charts.append({"title": f"{title}; epoch {t['best']} was kept", "svg": lines})
            if t["scores"]:
                score = [(float(e), s) for e, s in enumerate(t["scores"])]
                what = "of held samples" if t["score"] == "accuracy" else "with the teacher on held samples"
                charts.append(
                    {"title": f"{t['score'].capitalize()} {what}", "svg": curves([(t["score"], score)], "epoch")}
                )
            if len(t["weights"]) == 2:
                before, after = t["weights"]
                drawn = histogram(before, after, -t["span"], t["span"])
                charts.append({"title": "Weights before and after", "svg": drawn})
            if t["scales"]:
                charts.append(
                    {
                        "title": "Batch-norm scales after each epoch",
                        "svg": ridges(t["scales"], t["widest"], "|scales|"),
                    }
                )
    return charts


def said(report: PipelineReport) -> str:
    """What became of the model, in a sentence."""
    if not report.rows or report.rows[0].before is None or report.rows[-1].after is None:
        return "Nothing was run."
    first, last = report.rows[0].before, report.rows[-1].after
    what = ", ".join(
        f"{form(now)} {unit} ({change(now, was) or 'as before'})"
        for now, was, form, unit in (
            (last.bytes, first.bytes, size, "of weights"),
            (last.macs, first.macs, count, "MACs"),
        )
    )
    error, metric = report.rows[-1].error, report.metric
    ran = "One pass ran" if len(report.rows) == 1 else f"{len(report.rows)} passes ran"
    text = f"{ran}: {what}."
    if metric in error and metric in report.metrics:
        text += f" {metric}: {score(metric, error[metric])}, as given {score(metric, report.metrics[metric])}."
    elif "snr_db" in error:
        text += f" The outputs have {decibels(error['snr_db'])} dB of signal to noise."
    return text


def _bars(report: PipelineReport) -> list[dict[str, Any]]:
    if not report.rows or report.rows[0].before is None:
        return []
    first, charts = report.rows[0].before, []
    for title, name, form in (
        ("Bytes", "bytes", size),
        ("MACs", "macs", count),
        ("Peak of activations", "peak_bytes", size),
    ):
        rows = [("as given", float(getattr(first, name)), form(getattr(first, name)))]
        rows += [
            (r.name, float(getattr(r.after, name)), form(getattr(r.after, name)))
            for r in report.rows
            if r.after is not None
        ]
        charts.append({"title": title, "svg": bars(rows, "")})
    if any("time" in r.error for r in report.rows):
        rows = [
            ("as given", 1.0, "1.00x"),
            *((r.name, r.error["time"], f"{r.error['time']:.2f}x") for r in report.rows if "time" in r.error),
        ]
        charts.append({"title": "Time", "svg": bars(rows, "")})
    metric = report.metric
    if metric in report.metrics and report.metrics[metric] >= 0:
        rows = [("as given", report.metrics[metric], score(metric, report.metrics[metric]))]
        rows += [
            (r.name, max(r.error[metric], 0.0), score(metric, r.error[metric]))
            for r in report.rows
            if metric in r.error
        ]
        charts.append({"title": metric, "svg": bars(rows, "")})
    return charts


def search_page(
    found: Found, title: str, *, layers: Sequence[Fate] = (), command: str = "", told: Iterable[str] = ()
) -> str:
    """What a search found: in words, the points in a plane and in a table, and every layer of the chosen one."""
    from ..search.words import said

    given, metric = found.given, found.metric
    forms = (("bytes", size), ("macs", count), ("peak_bytes", size), ("flash", size), ("ram", size))

    def cells(result: dict[str, Any]) -> list[str]:
        texts = []
        for name, form in forms:
            moved = f"\n{change(result[name], given[name])}" if name in given and result is not given else ""
            finite = name in result and isfinite(result[name])
            texts.append(f"{form(result[name])}{moved}" if finite else "no library" if name in result else "")
        return texts

    dots = [(float(given["bytes"]), given["held"][metric], "as given", False)]
    rows: list[tuple[list[Any], bool]] = [
        (["as given", *cells(given), "", "", score(metric, given["held"][metric]), ""], False)
    ]
    lists = []
    for k, p in enumerate(found.points):
        r, name = p.result, f"point {k + 1}"
        now, words = r["held"][metric], said(p.passes)
        dots.append(
            (
                float(r["bytes"]),
                now,
                f"{name}: {size(r['bytes'])}, {metric} {score(metric, now)}; {words}",
                k == found.chosen,
            )
        )
        time = f"{r['time']:.2f}x" if "time" in r else ""
        rows.append(([name, *cells(r), time, decibels(r["snr_db"]), score(metric, now), words], k == found.chosen))
        lists.append((f"{name}: ", p.text))
    head = [*(Column(title, number=title != "") for title in ("", "bytes", "MACs", "peak", "flash", "RAM", "time", "SNR dB", metric)),
            Column("what was done", number=False)]  # fmt: skip
    tables = [_table("Points", head, rows, f"{metric} is of samples that nothing was chosen by.")]
    tables += [_layer_table(layers, found.curves)] if layers else []
    plane = front(dots, "bytes", metric)
    unfold = [_list("Passes of all points, layer by layer", lists)] if lists else []
    return _page(title, summary=list(told), front=plane, tables=tables, lists=unfold, command=command)


def _layer_table(layers: Sequence[Fate], curves: dict[str, list]) -> dict[str, Any]:
    rows = []
    for f in layers:
        cells: list[Any] = [f.name, f.op, percent(f.share)]
        for key, form in (("macs", count), ("bytes", size), ("bits", str), ("channels", str)):
            was, now = ((d or {}).get(key) for d in (f.before, f.after))
            text = "gone" if f.after is None and key == "macs" else form(now) if now is not None else ""
            moved = ""
            if was is not None and now is not None and was != now:
                moved = change(now, was) if key in ("macs", "bytes") else f"from {was}"
            cells.append(f"{text}\n{moved}" if moved else text)
        points = curves.get(f.name, [])
        line = curve(
            [(x, y) for x, y in points],
            "dB of the outputs by bits of this layer alone: " + ", ".join(f"{x}: {y:.1f}" for x, y in points),
        )
        cells += [decibels(f.snr_db), line, histogram(*f.weights, f.low, f.high)]
        rows.append((cells, False))
    return _table(
        "Layers", LAYERS, rows, "SNR: of the layer's output beside the one as given, where the shapes are the same."
    )


def _table(
    title: str, head: Sequence[Column], rows: Sequence[tuple[Sequence[Any], bool]], note: str = ""
) -> dict[str, Any]:
    used = [k for k, _ in enumerate(head) if any(row[k] for row, _ in rows)]
    made = []
    for row, chosen in rows:
        cells = []
        for k in used:
            text, _, moved = (row[k], "", "") if isinstance(row[k], Safe) else row[k].partition("\n")
            cells.append({"text": text, "change": moved, "number": head[k].number})
        made.append({"cells": cells, "chosen": chosen})
    return {"title": title, "head": [head[k] for k in used], "rows": made, "note": note}


def _list(title: str, entries: list[tuple[str, str]], open_: bool = False) -> dict[str, Any]:
    return {"title": title, "entries": entries, "open": open_}


def diff_page(found: Diff, title: str, *, command: str = "") -> str:
    """What became of a model in another one: totals as bars, and a row for each node that changed."""
    charts = []
    for name, form in (("nodes", str), ("bytes", size), ("macs", count)):
        rows = [(side, float(value), form(value)) for side, value in zip("AB", found.totals[name], strict=True)]
        charts.append({"title": name, "svg": bars(rows, "")})
    head = [Column("change", number=False), Column("node", number=False), Column("kind", number=False), Column("what", number=False),
            Column("bytes"), Column("MACs")]  # fmt: skip
    rows_: list[tuple[list[Any], bool]] = []
    for c in found.changes:
        cells: list[Any] = [c.kind, c.node, c.op, c.what]
        for key, form in (("bytes", size), ("macs", count)):
            was, now = ((side or {}).get(key, 0) for side in (c.before, c.after))
            cells.append(f"{form(now)}\n{change(now, was)}" if c.after is not None and (was or now) else "")
        rows_.append((cells, False))
    kinds = Counter(c.kind for c in found.changes)
    said = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "nothing changed"
    summary = [f"Of {found.totals['nodes'][0]} nodes: {said}; {found.same} as before."]
    if found.converters:
        summary.append(
            "New nodes that convert numbers: " + ", ".join(f"{n} {op}" for op, n in found.converters.items()) + "."
        )
    tables = [_table("Nodes", head, rows_)] if rows_ else []
    return _page(title, summary=[*summary, *found.interface], bars=charts, tables=tables, command=command)


def compile_page(
    report: CompileReport,
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    told: Sequence[str],
    *,
    command: str = "",
) -> str:
    """What a library takes of a processor without an operating system: RAM over its calls, their table (its `columns`, and `cells` of
    each call) and what is `told` besides."""
    rows = [(row[0], float(call["ram"]), size(call["ram"])) for row, call in zip(cells, report.calls, strict=True)]
    drawn = steps(rows, "call", (float(report.arena_bytes), f"arena: {size(report.arena_bytes)}"))
    return _page(
        f"onnxc compile: {report.name} for {report.target}",
        summary=list(told),
        bars=[{"title": "What is live at each call", "svg": drawn}] if rows else [],
        bars_title="RAM over time",
        tables=[_table("Calls", columns, [(row, False) for row in cells])] if rows else [],
        command=command,
    )


def profile_page(
    found: Profile,
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    advice: Sequence[tuple[str, str]],
    told: Sequence[str],
    *,
    command: str = "",
) -> str:
    """Where the time of a network goes: bars of layers beside ONNX Runtime's kernels for the same, the table (its `columns`, and `cells`
    of each layer), `advice` on some layers by name, and what is `told` besides."""

    def name(layer: Any) -> str:
        return f"{layer.number} {layer.nodes[0] if layer.nodes else layer.function}"

    charts = []
    if found.layers:
        top = sorted(found.layers, key=lambda layer: -layer.seconds)[:40]
        unit = 1e6
        charts.append(
            {
                "title": "Time of a layer",
                "svg": bars([(name(a), a.seconds * unit, seconds(a.seconds)) for a in top], ""),
            }
        )
        there = [a for a in top if a.ort_seconds is not None]
        if there:
            pairs = [
                (name(a), a.ort_seconds or 0.0, f"{(a.ort_seconds or 0.0) / max(a.seconds, 1e-9):.2f}x ours")
                for a in there
            ]
            charts.append({"title": "ONNX Runtime's time of the same", "svg": bars(pairs, "")})
        charts.append(
            {"title": "Share of the ceiling", "svg": bars([(name(a), a.ceiling, percent(a.ceiling)) for a in top], "")}
        )
    tables = [_table("Layers", columns, [(row, False) for row in cells])] if found.layers else []
    if found.refused:
        rows: list[tuple[list[Any], bool]] = [([k.name, k.op, seconds(k.seconds)], False) for k in found.unmatched]
        head = [Column("node", number=False), Column("operator", number=False), Column("time")]
        tables = [_table("ONNX Runtime's kernels", head, rows)]
    lists = [_list("Where the time goes", list(advice), open_=True)] if advice else []
    return _page(
        f"onnxc profile: {Path(found.model).name}",
        summary=list(told),
        bars=charts,
        bars_title="Layer by layer",
        tables=tables,
        lists=lists,
        command=command,
    )
