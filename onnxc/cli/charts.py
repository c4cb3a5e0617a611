"""Charts as SVG that stands in a page: bars, points, curves, histograms. They scale with the page and say their numbers under the
pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.escape import html


class Safe(str):
    """Text that is HTML already."""


def bars(rows: Sequence[tuple[str, float, str]], unit: str) -> Safe:
    """A bar a row: (label, height, text); the first is the measure of the others."""
    most = max((v for _, v, _ in rows), default=0) or 1
    step, out = 26, []
    for k, (label, value, text) in enumerate(rows):
        y, width = k * step, max(240 * value / most, 0.5)
        out.append(
            f"<g><title>{html(f'{label}: {text} {unit}'.strip())}</title>"
            f'<text x="112" y="{y + 16}" text-anchor="end">{html(_short(label))}</text>'
            f'<rect class="{"given" if k == 0 else "made"}" x="120" y="{y + 4}" width="{width:.1f}" height="16" rx="2"/>'
            f'<text x="{126 + width:.1f}" y="{y + 16}">{html(text)}</text></g>'
        )
    return Safe(f'<svg class="bars" viewBox="0 0 440 {step * len(rows)}" role="img">{"".join(out)}</svg>')


def steps(rows: Sequence[tuple[str, float, str]], x: str, limit: tuple[float, str]) -> Safe:
    """What is held at each step, (label, height, text), side by side from the left; `limit`: a line across, and what it says."""
    if not rows:
        return Safe("")
    width, height, left = 420, 200, 12
    base, room = height - 28, height - 56
    most, wide = max(limit[0], *(v for _, v, _ in rows)) or 1, (width - 2 * left) / len(rows)
    boxes = "".join(
        f"<g><title>{html(f'{k} {label}: {text}')}</title>"
        f'<rect class="made" x="{left + (k - 1) * wide:.2f}" y="{base - room * v / most:.1f}" '
        f'width="{wide * (0.9 if wide > 4 else 1):.2f}" height="{room * v / most:.1f}"/></g>'
        for k, (label, v, text) in enumerate(rows, 1)
    )
    across = base - room * limit[0] / most
    lines = "".join(
        f'<line class="axis" x1="{left}" y1="{y:.1f}" x2="{width - left}" y2="{y:.1f}"{dash}/>'
        for y, dash in ((base, ""), (across, ' stroke-dasharray="5 3"'))
    )
    words = (
        f'<text x="{left}" y="{across - 6:.1f}">{html(limit[1])}</text><text x="{left}" y="{height - 10}">1</text>'
        f'<text x="{width - left}" y="{height - 10}" text-anchor="end">{html(f"{x} {len(rows)}")}</text>'
    )
    return Safe(f'<svg class="front" viewBox="0 0 {width} {height}" role="img">{boxes}{lines}{words}</svg>')


def front(points: Sequence[tuple[float, float, str, bool]], x: str, y: str) -> Safe:
    """Points (x, y, text, chosen) in a plane; x grows to the right from 0."""
    width, height, left = 560, 260, 48
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    right = max(xs, default=1) or 1
    low, high = min(ys, default=0), max(ys, default=1)
    span = (high - low) or abs(high) or 1
    least, low, span = low, low - 0.05 * span, 1.1 * span

    def at_y(b: float) -> float:
        return height - 40 - (height - 76) * (b - low) / span

    at = [(left + (width - left - 60) * a / right, at_y(b)) for a, b in zip(xs, ys)]
    order = sorted(at)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in order)
    dots = "".join(
        f'<circle class="{"chosen" if p[3] else "other"}" cx="{a:.1f}" cy="{b:.1f}" r="{8 if p[3] else 5}">'
        f"<title>{html(p[2])}</title></circle>"
        for (a, b), p in zip(at, points)
    )
    numbers = "".join(
        f'<text x="{min(a + 9, width - 60):.1f}" y="{b - 8:.1f}">{html(p[2].partition(":")[0].removeprefix("point "))}</text>'
        for (a, b), p in zip(at, points)
    )
    axes = (
        f'<text x="{left - 4}" y="{at_y(high):.1f}" text-anchor="end">{html(f"{high:.3g}")}</text>'
        f'<text x="{left - 4}" y="{at_y(least):.1f}" text-anchor="end">{html(f"{least:.3g}")}</text>'
        f'<text x="{left}" y="{height - 12}">0</text>'
        f'<text x="{(left + width - 60) / 2:.0f}" y="{height - 12}" text-anchor="middle">{html(f"{right / 2:,.0f}")}</text>'
        f'<line class="axis" x1="{left}" y1="{height - 36}" x2="{width - 10}" y2="{height - 36}"/>'
        f'<line class="axis" x1="{left}" y1="10" x2="{left}" y2="{height - 36}"/>'
        f'<text x="{width - 10}" y="{height - 12}" text-anchor="end">{html(x)}</text><text x="4" y="14">{html(y)}</text>'
    )
    return Safe(
        f'<svg class="front" viewBox="0 0 {width} {height}" role="img">{axes}<polyline class="curve" points="{line}"/>{dots}{numbers}</svg>'
    )


def histogram(before: Sequence[int], after: Sequence[int], low: float, high: float) -> Safe:
    """Weights before (grey) and after (coloured), each by its own highest bin."""
    if not before and not after:
        return Safe("")
    parts = []
    for kind, counts in (("given", before), ("made", after)):
        most, wide = max(counts, default=0) or 1, 100 / max(len(counts), 1)
        parts += [
            f'<rect class="{kind}" x="{k * wide:.1f}" y="{28 - 28 * n / most:.1f}" width="{wide:.1f}" height="{28 * n / most:.1f}"/>'
            for k, n in enumerate(counts)
            if n
        ]
    title = html(f"weights from {low:.3g} to {high:.3g}; grey: as given")
    return Safe(f'<svg class="spark" viewBox="0 0 100 28" role="img"><title>{title}</title>{"".join(parts)}</svg>')


def curve(points: Sequence[tuple[float, float]], text: str) -> Safe:
    """A small line through (x, y)."""
    if not points:
        return Safe("")
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    dx, dy = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1
    line = " ".join(f"{2 + 96 * (x - min(xs)) / dx:.1f},{26 - 24 * (y - min(ys)) / dy:.1f}" for x, y in points)
    return Safe(
        f'<svg class="spark" viewBox="0 0 100 28" role="img"><title>{html(text)}</title><polyline class="curve" points="{line}"/></svg>'
    )


def curves(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], x: str, mark: float | None = None) -> Safe:
    """Lines over one x, each (what it is called, its points); `mark`: an x at which something was chosen."""
    points = [(a, b) for _, line in series for a, b in line if math.isfinite(b)]
    if not points:
        return Safe("")
    width, height, left = 420, 200, 56
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    dx, dy = (max(xs) - min(xs)) or 1, (high - low) or abs(high) or 1

    def place(a: float, b: float) -> tuple[float, float]:
        return left + (width - left - 20) * (a - min(xs)) / dx, height - 40 - (height - 60) * (b - low) / dy

    parts = [
        f'<text x="{left - 6}" y="{place(xs[0], v)[1] + 4:.1f}" text-anchor="end">{v:.3g}</text>' for v in {low, high}
    ]
    if mark is not None:
        at = place(mark, low)[0]
        parts.append(f'<line class="axis" x1="{at:.1f}" y1="14" x2="{at:.1f}" y2="{height - 36}"/>')
    for k, (label, line) in enumerate(series):
        drawn = " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in line if math.isfinite(b))
        said = ", ".join(f"{a:g}: {b:.4g}" for a, b in line)
        dash = ' stroke-dasharray="5 3"' if k % 2 else ""
        parts.append(
            f'<g><title>{html(f"{label}: {said}")}</title><polyline class="curve" points="{drawn}"{dash}/></g>'
        )
        key = f'<line class="curve" x1="{left + 130 * k}" y1="8" x2="{left + 22 + 130 * k}" y2="8"{dash}/>'
        parts.append(f'{key}<text x="{left + 28 + 130 * k}" y="12">{html(label)}</text>')
    parts.append(f'<text x="{width - 10}" y="{height - 12}" text-anchor="end">{html(x)}</text>')
    return Safe(f'<svg class="front" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>')


def ridges(rows: Sequence[Sequence[int]], high: float, what: str) -> Safe:
    """Histograms of one range from 0 to `high`, the first on top, each by its own highest bin."""
    if not rows:
        return Safe("")
    step, width, left = 16, 420, 56
    parts = []
    for k, counts in enumerate(rows):
        most, wide, base = max(counts, default=0) or 1, (width - left - 20) / max(len(counts), 1), step * (k + 2)
        said = ", ".join(f"{high * n / len(counts):.2g}: {c}" for n, c in enumerate(counts) if c)
        boxes = "".join(
            f'<rect class="{"made" if k else "given"}" x="{left + n * wide:.1f}" y="{base - 26 * c / most:.1f}" '
            f'width="{wide:.1f}" height="{26 * c / most:.1f}"/>'
            for n, c in enumerate(counts)
            if c
        )
        parts.append(f"<g><title>{html(f'{what} after epoch {k}, from: number. {said}')}</title>{boxes}</g>")
        parts.append(f'<text x="{left - 6}" y="{base}" text-anchor="end">{k}</text>')
    height = step * (len(rows) + 1) + 24
    parts.append(f'<text x="{left}" y="{height - 6}">0</text>')
    parts.append(f'<text x="{width - 20}" y="{height - 6}" text-anchor="end">{high:.3g}</text>')
    return Safe(f'<svg class="front" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>')


def _short(label: str, most: int = 16) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
