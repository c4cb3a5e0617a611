"""Extents that a model computes, computed: what reads vectors of known extents is known too.

Slice(x, 0, Gather(Shape(y [2, 6]), 1))   ->   Slice(x, 0, 6)

For a reading of costs alone: `clean` does it to models, and says so.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from .evaluate import CannotFold, evaluate
from .graph import CAPTURED
from .model import Model
from .table import Analysis

FEW = 64
"""Elements of a vector that is followed."""
FOLDED = {
    "Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mul", "Neg",
    "Not", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where", "Mod", "Abs", "And", "Or", "Sqrt",
}  # fmt: skip


def fold_extents(model: Model, analysis: Analysis) -> bool:
    """Put constants in the place of what is computed of known extents in `model`, which `analysis` is of; whether there was any."""
    known = {name: _numbers(values) for name, values in analysis.values.items()}
    found = False
    for node in list(model.nodes):
        if node.op not in FOLDED or CAPTURED in node.attrs or not model.is_standard(node):
            continue
        arrays = [
            t.values if isinstance(t, gs.Constant) else known.get(t.name) if t.name else None for t in node.inputs
        ]
        if not arrays or any(t.name and (a is None or a.size > FEW) for t, a in zip(node.inputs, arrays, strict=True)):
            continue
        try:
            made = evaluate(node, arrays, model.opset)
        except CannotFold:
            continue
        for t, values in zip(node.outputs, made):
            known[t.name] = values
            if t.outputs:
                model.replace_uses(t, model.constant(f"{t.name}_known", values))
                found = True
    for name, t in model.tensors().items():
        values = known.get(name)
        if isinstance(t, gs.Variable) and values is not None and t.outputs and values.dtype.kind == "i":
            model.replace_uses(t, model.constant(f"{name}_known", values))
            found = True
    return found


def _numbers(values: np.ndarray | None) -> np.ndarray | None:
    """The contents of an integer tensor of which all are numbers."""
    if values is None or values.size > FEW or not all(isinstance(v, int | np.integer) for v in values.ravel()):
        return None
    return values.astype(np.int64)
