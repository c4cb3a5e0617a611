"""Tables and numbers for people: what `onnxc` prints. Rich draws them; it is imported when something is drawn."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NARROW = 116
"""Below this many columns a change stands under its value, not beside it."""


def screen_width() -> int:
    """Columns to fill: the terminal's, within 80 and 120; 100 in a pipe."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)


def count(n: float | None) -> str:
    """1234567 -> `1.23M`; three digits, and the prefix that fits."""
    if n is None:
        return ""
    if not math.isfinite(n):
        return "∞" if n > 0 else "-∞"
    for step, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= step * 0.9995:
            return f"{_digits(n / step)}{prefix}"
    return f"{n:.0f}"


def size(n: float | None) -> str:
    """Bytes, in decimal units: 1109387 -> `1.11 MB`."""
    if n is None:
        return ""
    text = count(n)
    return f"{text[:-1]} {text[-1]}B" if text[-1:].isalpha() else f"{text} B"


def seconds(s: float) -> str:
    """A time with its unit: 0.00123 -> `1.23 ms`."""
    for step, unit in ((1, "s"), (1e-3, "ms")):
        if s >= step * 0.9995:
            return f"{_digits(s / step)} {unit}"
    return f"{_digits(s * 1e6)} us"


def percent(share: float | None) -> str:
    """0.9731 -> `97.3%`."""
    return "" if share is None else f"{100 * share:.1f}%"


def score(metric: str, value: float | None) -> str:
    """What a model is worth by a metric: shares in percent, others in four digits."""
    from ..runtime.evaluate import is_share

    return percent(value) if value is None or is_share(metric) else f"{value:.4g}"


def change(after: float, before: float) -> str:
    """What became of a cost: `-30%`, `+2%`; empty below 0.05%."""
    if not before:
        return "new" if after else ""
    share = 100 * (after / before - 1)
    if abs(share) < 0.05:
        return ""
    return f"{share:+.1f}%" if abs(share) < 10 else f"{share:+.0f}%"


def decibels(snr: float | None) -> str:
    """A signal to noise ratio in dB; infinite where nothing differs."""
    return "" if snr is None else "∞" if snr == math.inf else "-∞" if snr == -math.inf else f"{snr:.1f}"


def shape(extents: Iterable[object] | None) -> str:
    """`N×64×56×56`; `?` for what is not known."""
    if extents is None:
        return "?"
    return "×".join("?" if e is None else str(e) for e in extents) or "scalar"


def _digits(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 99.95 else f"{x:.1f}" if abs(x) >= 9.995 else f"{x:.2f}"


LATIN = "\u0300"  # ahead of it every printable character takes one place


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand at the right, words at the left and fold where they are long."""

    title: str
    number: bool = True


def draw(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None, colour: bool = False
) -> str:
    """A table as text, at most `width` columns wide. Columns that no row fills are left out."""
    used = [k for k, _ in enumerate(columns) if any(row[k] for row in rows)] or list(range(len(columns)))
    plain = None if colour else _plain([columns[k] for k in used], [[row[k] for k in used] for row in rows], width)
    if plain is not None:
        return plain
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", collapse_padding=True)
    for k in used:
        if columns[k].number:
            table.add_column(columns[k].title, justify="right", no_wrap=True)
        else:
            table.add_column(columns[k].title, overflow="fold")
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(row[k]) for k in used))
    return _console_text(table, width or screen_width(), colour)


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> str | None:
    """What rich draws where nothing has a colour, is folded or takes two places on the screen; None for other tables."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    wide = sum(widths) + 2 * (len(columns) - 1)
    marked = any(sign in title for title in lines[0] for sign in "[:")
    narrow = not marked and all(cell.isprintable() and max(cell, default="") < LATIN for line in lines for cell in line)
    if not narrow or not all(widths) or wide > (width or screen_width()):
        return None
    drawn = [
        "  ".join(c.rstrip().rjust(w) if column.number else c.ljust(w) for c, w, column in zip(line, widths, columns))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in [drawn[0], "─" * wide, *drawn[1:]])


def _console_text(renderable: object, width: int, colour: bool) -> str:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


def wrap(text: str, indent: str = "  ", width: int | None = None) -> str:
    """A paragraph folded to the screen, its later lines indented."""
    import textwrap

    width = width or screen_width()
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def some(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def plural(n: int, noun: str) -> str:
    """`1 layer`, `3 layers`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
