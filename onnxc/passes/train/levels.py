"""Levels that weights may take, up to a scale."""

from __future__ import annotations

from typing import Literal

Levels = Literal["binary", "ternary", "bits3"]

CODES: dict[str, tuple[float, ...]] = {
    "binary": (-1, 1), "ternary": (-1, 0, 1), "bits3": (-4, -2, -1, 0, 1, 2, 4),
}  # fmt: skip
