"""Nodes that are no layers: they compute extents, or make a weight ready for the layer that reads it.

Shape(x) -> Cast -> Div(.., 2.0) -> Concat      extents: their constants are no weights
Identity(w), Transpose(w), Slice(w), Cast(w)    w is a weight of the layer that reads the result
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from ..ir.functions import is_lookup
from ..ir.graph import CAPTURED
from ..ir.model import Model
from ..ir.table import Analysis, key_of

UNPACKS = ("DequantizeLinear",)


class Roles:
    """extents: names of nodes that compute of extents alone; prepared: names of tensors that are made of constants alone."""

    def __init__(self, model: Model, analysis: Analysis):
        self.extents: set[str] = set()
        self.prepared: set[str] = set()
        counted: set[str] = set()
        for node in model.nodes:
            given = [t for t in node.inputs if t.name]
            variables = [t.name for t in given if isinstance(t, gs.Variable)]
            names = [t.name for t in node.outputs if t.name]
            if node.op in ("Shape", "Size") and not node.domain:
                counted.update(names)
            elif CAPTURED in node.attrs:
                continue
            elif given and not analysis.facts[node.name].iteration and all(n in self.prepared for n in variables):
                if key_of(node) not in UNPACKS and not is_lookup(node):
                    self.prepared.update(names)
            elif variables and all(n in counted for n in variables) and _is_short(analysis, names):
                counted.update(names)
                self.extents.add(node.name)

    def is_layer(self, node: gs.Node) -> bool:
        """Whether its constants are its own: not where it computes extents, or makes a weight ready."""
        return node.name not in self.extents and not any(t.name in self.prepared for t in node.outputs if t.name)

    def constants(self, t: gs.Variable | gs.Constant) -> Iterator[gs.Constant]:
        """The constants of which `t` was made ready; `t` itself where it is one."""
        if isinstance(t, gs.Constant):
            yield t
        elif t.name in self.prepared:
            for source in t.inputs[0].inputs:
                yield from self.constants(source)


def _is_short(analysis: Analysis, names: list[str]) -> bool:
    """Whether these are lists of numbers: what Expand makes of a class token is a layer's."""
    shapes = [analysis.shape(name) for name in names]
    return all(shape is not None and len(shape) <= 1 for shape in shapes)
