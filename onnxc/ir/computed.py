"""What a model computes of extents alone, as numbers, whichever operators compute it: read beside the axis table.

Shape(x) -> Cast -> Div -> Floor -> Cast -> Reshape's target   where x has the extents of a run, the target is numbers
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from . import sizes
from .axes import extent
from .evaluate import EVALUATORS, CannotFold, evaluate
from .table import Analysis

LIMIT = 1 << 10
"""Elements of what is evaluated, at the most: targets, pads and the like are short."""
GROWING = {"ConstantOfShape", "Expand", "Range", "Tile"}
"""Operators whose results may be of any length, whatever that of their inputs."""
ELSEWHERE = {"Split"}
"""Operators of extents that ONNX's reference evaluator computes."""


class Computed:
    """`prepare` of `analysis.analyse` for a model with fixed extents, a copy that nobody else reads: operands that hang on
    extents alone become constants of their readers."""

    def __init__(self, opset: int):
        self.opset = opset
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, analysis: Analysis, node: gs.Node) -> None:
        if node.domain not in (None, "", "ai.onnx"):
            return
        arrays = [self._array(analysis, t) for t in node.inputs]
        for i, (t, array) in enumerate(zip(list(node.inputs), arrays)):
            if array is not None and isinstance(t, gs.Variable):
                node.inputs[i] = gs.Constant(t.name, array)
        if node.op not in EVALUATORS and node.op not in ELSEWHERE:
            return
        if any(a is None and t.name for a, t in zip(arrays, node.inputs)):
            return
        if node.op in GROWING:
            size = sizes.written(node, arrays, self.opset, {t.name: (None, 8) for t in node.outputs})
            if size is None or size > 8 * LIMIT:
                return
        try:
            found = evaluate(node, arrays, self.opset)
        except CannotFold:
            return
        self.known |= {t.name: np.array(a) for t, a in zip(node.outputs, found) if t.name and a.size <= LIMIT}

    def _array(self, analysis: Analysis, t: gs.Variable | gs.Constant) -> np.ndarray | None:
        """The numbers of `t`; None where it is left out, long, or hangs on more than extents."""
        if isinstance(t, gs.Constant):
            return t.values if t.values.size <= LIMIT and t.values.dtype.kind in "biuf" else None
        if t.name in self.known:
            return self.known[t.name]
        values = analysis.values.get(t.name)
        if values is None:
            return None
        found = [v if v is None or isinstance(v, int) else extent(v) for v in values.ravel()]
        if not all(isinstance(v, int) for v in found):
            return None
        return np.array(found, np.int64).reshape(values.shape)
