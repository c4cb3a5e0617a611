"""Whether few-bit layers take more instructions than int8 layers of the same extents: where a processor multiplies 16 bits at once
they save flash, not time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from onnxc.codegen.micro.fewbit import FIELDS, NAME, PRODUCTS
from onnxc.codegen.target import Target

COUNTED = "counted"
"""Kernels that count bits, on processors with smlad."""
MEASURED: dict[str, tuple[tuple[int, float], ...]] = {
    "helium": ((1, 1.28), (2, 1.5), (4, 1.42), (16, 1.51), (32, 1.84)),
    "helium counted": ((1, 1.45), (2, 4.18), (4, 8.03), (16, 31.13), (32, 61.92)),
    "multiplied": ((1, 0.3), (2, 0.99), (4, 1.38), (16, 1.58), (32, 1.77)),
    COUNTED: ((1, 0.3), (2, 0.99), (4, 1.79), (16, 6.62), (32, 13.09)),
    "plain": ((1, 0.05), (2, 0.25), (4, 0.39), (16, 1.14), (32, 2.16)),
}
"""Instructions of int8's by pairs of bits (those of a weight times those of an activation) of a layer of 3 x 3, 64 to 64 channels
(`benchmarks/tiny.py --few-bit`): on Cortex-M55 by fields and by counts, on Cortex-M4 by products and by counts, on Cortex-M3."""


def factor(row: Mapping[str, Any], target: Target) -> float:
    """Instructions of a few-bit layer over those of int8, between measured layers by pairs of bits. `row`: one of a report's kernels."""
    kind = "plain"
    if target.helium:
        kind = "helium" if str(row["kernel"]).startswith(FIELDS) else "helium counted"
    elif target.fpu:
        kind = "multiplied" if str(row["kernel"]).endswith(PRODUCTS.name) else COUNTED
    points, pairs = MEASURED[kind], row["bits"][0] * row["bits"][1]
    at = min(max(bisect_right(points, (pairs, 0.0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y0 + (y1 - y0) * (min(max(pairs, x0), x1) - x0) / (x1 - x0)


def slower(rows: Sequence[Mapping[str, Any]], target: Target) -> list[tuple[str, float]]:
    """Few-bit layers that are slower than int8 ones on a processor without an operating system: node and factor, the worst first."""
    if not target.micro:
        return []
    few = [(row["node"], factor(row, target)) for row in rows if str(row["kernel"]).startswith(f"{NAME}.")]
    return sorted(((name, f) for name, f in few if f > 1), key=lambda pair: -pair[1])
