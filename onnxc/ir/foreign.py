"""Operators without a row in the operator table: which a model has, and what helps where a domain's are known by sight."""

from __future__ import annotations

from collections import Counter

from .graph import CAPTURED
from .model import Model
from .table import ROWS, key_of

REMEDIES = {
    "com.microsoft.nchwc": "ONNX Runtime has laid this model out for one kind of processor (optimisation level all): give it as "
    "it was before, or save it at level extended",
}
"""What to do about the operators of a domain that no table will ever have."""
NAMED = 4


def without_row(model: Model) -> Counter[str]:
    """How many nodes there are of each operator without a row; those with bodies, which passes enter, are not counted."""
    keys = (key_of(node) for node in model.nodes if CAPTURED not in node.attrs and model.function(node) is None)
    return Counter(key for key in keys if key not in ROWS)


def remedy(model: Model) -> str | None:
    """What to do about operators that a model has of a known foreign domain, or None."""
    return next((REMEDIES[node.domain] for node in model.nodes if node.domain in REMEDIES), None)


def remarks(model: Model) -> list[str]:
    """What a report says of them: a line, or two where there is a remedy."""
    found = without_row(model)
    if not found:
        return []
    named = [f"{n} {key}" for key, n in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    more = [] if len(named) <= NAMED else [f"{len(named) - NAMED} other operators"]
    keep, their = ("they keep", "their") if found.total() > 1 else ("it keeps", "its")
    said = f"{', '.join(named[:NAMED] + more)}: not in the operator table; {keep} {their} dimensions, and {their} MACs are not counted"
    return [said, *filter(None, [remedy(model)])]
