"""What the passes of a candidate do, in a few words: names of layers stand in its recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..passes.base import Pass


def said(passes: Sequence[Pass]) -> str:
    """`channels of 7 groups cut by 12 to 38 %, weights of 3 bits (2 to 6) shared`."""
    return ", ".join(part for p in passes if (part := WORDS.get(p.name, _other)(p))) or "cleaned and fused"


def _other(p: Any) -> str:
    return "" if p.name in ("clean", "fuse") else str(p)


def _channels(p: Any) -> str:
    if p.macs is not None:
        return f"channels cut to {p.macs:.0%} of the MACs"
    ratios = (p.ratio_by or {}).values()
    return f"channels of {_count(ratios, 'group')} cut by {_range([100 * r for r in ratios])} %" if ratios else str(p)


def _blocks(p: Any) -> str:
    return f"{p.drop} residual branch{'es' * (p.drop != 1)} left out" if p.drop is not None else str(p)


def _ranks(p: Any) -> str:
    return f"{_count(p.energy_by, 'layer')} factored" if p.energy_by else str(p)


def _shared(p: Any) -> str:
    others = {b for b in (p.bits_by or {}).values() if b}
    floats = sum(not b for b in (p.bits_by or {}).values())
    text = f"weights of {p.bits} bits shared" + (f" ({_range([p.bits, *others])})" if others - {p.bits} else "")
    return text + (f", {_count(floats, 'layer')} in float" if floats else "")


def _integers(p: Any) -> str:
    skip = [p.skip] if isinstance(p.skip, str) else p.skip or []
    return "8-bit integers" + (f", {_count(skip, 'layer')} in float" if skip else "")


WORDS: dict[str, Callable[[Any], str]] = {
    "quant.floats": lambda p: "in floats first",
    "quant.recognise": lambda p: "what has few values packed",
    "prune.resolution": lambda p: f"images at {p.rho:.0%}",
    "prune.channels": _channels,
    "prune.blocks": _blocks,
    "lowrank.auto": _ranks,
    "quant.cluster": _shared,
    "quant.vectors": lambda p: "biases, slopes and codebooks shortened",
    "quant.int8": _integers,
    "train.distill": lambda p: f"distilled for {p.epochs} epochs",
}


def _count(of: Any, what: str) -> str:
    n = of if isinstance(of, int) else len(of)
    return f"{n} {what}{'s' * (n != 1)}"


def _range(values: Sequence[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"
