"""Charts as SVG that stands in a page: bars, points, curves, histograms. They scale with the page and say their numbers under the
pointer."""

from __future__ import annotations

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


def front(points: Sequence[tuple[float, float, str, bool]], x: str, y: str) -> Safe:
    """Points (x, y, text, chosen) in a plane; x grows to the right from 0."""
    width, height, left = 560, 260, 48
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    right = max(xs, default=1) or 1
    low, high = min(ys, default=0), max(ys, default=1)
    span = (high - low) or abs(high) or 1
    low, span = low - 0.05 * span, 1.1 * span
    at = [
        (left + (width - left - 20) * a / right, height - 40 - (height - 60) * (b - low) / span) for a, b in zip(xs, ys)
    ]
    order = sorted(at)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in order)
    dots = "".join(
        f'<circle class="{"chosen" if p[3] else "other"}" cx="{a:.1f}" cy="{b:.1f}" r="{8 if p[3] else 5}">'
        f"<title>{html(p[2])}</title></circle>"
        for (a, b), p in zip(at, points)
    )
    axes = (
        f'<line class="axis" x1="{left}" y1="{height - 36}" x2="{width - 10}" y2="{height - 36}"/>'
        f'<line class="axis" x1="{left}" y1="10" x2="{left}" y2="{height - 36}"/>'
        f'<text x="{width - 10}" y="{height - 12}" text-anchor="end">{html(x)}</text><text x="4" y="18">{html(y)}</text>'
    )
    return Safe(
        f'<svg class="front" viewBox="0 0 {width} {height}" role="img">{axes}<polyline class="curve" points="{line}"/>{dots}</svg>'
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


def _short(label: str, most: int = 16) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
