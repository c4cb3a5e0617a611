"""`onnxc diff`: what became of a model in another one, as text, JSON or a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.escape import readable
from . import arguments
from .options import JsonOption, VerboseOption, colour, json_text, show
from .tables import Column, change, count, draw, plural, size, some, wrap

if TYPE_CHECKING:
    from ..measure.diff import Change, Diff

KINDS = ("narrowed", "requantised", "merged", "removed", "added", "altered")
FEW = 12


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What became of it.")],
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="F.html", help="Write a page too.")] = None,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Show what was merged, removed, narrowed and requantised between two models."""
    arguments.check_file(out, "-o")
    from ..measure.diff import diff

    found = diff(a, b)
    if out:
        from ..ir.output import write_whole
        from .html import diff_page, repeat

        text = diff_page(found, f"{Path(a).name} and {Path(b).name}", command=repeat("diff", [a, b, "-o", out]))
        write_whole(Path(out), [text.encode()])
    show(json_text({"a": a, "b": b, **found.to_dict()}) if json else render(found, verbose=verbose, colour=colour()))


def render(found: Diff, *, verbose: bool = False, width: int | None = None, colour: bool = False) -> str:
    """The totals, then for each kind of change its nodes."""
    found = readable(found)
    forms: dict[str, Callable[[float], str]] = {"nodes": str, "bytes": size, "macs": count}
    rows = [[name, forms[name](x), forms[name](y), change(y, x)] for name, (x, y) in found.totals.items()]
    parts = [draw([Column("", number=False), Column("A"), Column("B"), Column("change")], rows, width, colour)]
    for kind in KINDS:
        changes = [c for c in found.changes if c.kind == kind]
        if changes:
            parts.append(_section(kind, changes, verbose, width))
    if found.converters:
        listed = ", ".join(f"{n} {op}" for op, n in found.converters.items())
        parts.append(wrap(f"New nodes that convert numbers: {listed}", "  ", width))
    parts += ["\n".join(["Interface", *(f"  {line}" for line in found.interface)])] if found.interface else []
    parts.append(
        f"{plural(found.same, 'node')} as before." if found.changes or found.converters else "The models are the same."
    )
    return "\n\n".join(parts)


def _section(kind: str, changes: list[Change], verbose: bool, width: int | None) -> str:
    title = f"{kind.capitalize()}: {plural(len(changes), 'node')}"
    if kind in ("merged", "removed") and not verbose:
        groups: dict[str, list[str]] = {}
        for c in changes:
            groups.setdefault(c.op, []).append(c.node)
        lines = [f"{len(names)} {op} ({some(names)})" for op, names in groups.items()]
    else:
        lines = [f"{c.op} {c.node}{f': {c.what}' if c.what else ''}" for c in changes]
    shown = lines if verbose else lines[:FEW]
    more = [f"{len(lines) - len(shown)} more (--verbose)"] if len(shown) < len(lines) else []
    return "\n".join([title, *(wrap(f"  {line}", "      ", width) for line in [*shown, *more])])
