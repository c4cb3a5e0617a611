"""Tables of floats that are looked up by row (Gather): what passes over products leave as it is."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ..base import Report

LEAST = 4096
"""Numbers of a table below which its bytes do not matter."""


def lookups(model: Model, table: gs.Constant) -> list[gs.Node]:
    """The Gather nodes that look rows up in a constant of floats of at least two axes."""
    if table.values.ndim < 2 or table.values.dtype.kind in "iub":
        return []
    return [node for node in table.outputs if model.is_standard(node, "Gather") and node.inputs[0] is table]


def note_left(model: Model, report: Report) -> None:
    """Say how many bytes of large float32 tables stay, and which pass stores them short."""
    left = [
        t for t in model.constants().values()
        if t.values.size >= LEAST and t.values.dtype == np.float32 and lookups(model, t)
    ]  # fmt: skip
    if left:
        size, names = sum(t.values.nbytes for t in left), ", ".join(t.name for t in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        report.note(
            f"{size} bytes of tables that Gather looks up stay ({names}{more}): quant.embedding stores them in 8 bits or fewer"
        )
