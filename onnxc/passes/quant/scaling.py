"""Which tensors may be scaled by channel without any change of what the model computes.

f(x / s) = f(x) / s for s > 0 holds for Relu, LeakyRelu, pooling, Add (all terms alike) and what only moves whole channels.
Tensors tied by such operators form a class with one vector s; products end a class and take s into their weights:

    W x + b  with x = s_in * x',  y = s_out * y'    ->    y' = (W * s_in / s_out) x' + b / s_out
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.model import Model
from ..layers.layout import layout

SAME = (
    *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"),
    *("Flatten", "Reshape", "Squeeze"),
)
"""Operators that keep a scale by channel."""


@dataclass
class Class:
    """Tensors with one scale by channel. tensors: name -> how many entries along axis 1 each channel takes (after Flatten).

    makers: products whose output begins the class; readers: products that read it, with the repeat of what they read.
    """

    channels: int
    tensors: dict[str, int] = field(default_factory=dict)
    makers: list[gs.Node] = field(default_factory=list)
    readers: list[tuple[gs.Node, int]] = field(default_factory=list)
    frozen: str | None = None


def classes(model: Model, analysis: Analysis, joins: Container[str] = ()) -> list[Class]:
    """The classes of `model` that products begin, in graph order, frozen ones included (`frozen` says why).

    joins: names of Concats that begin a class as products do.
    """
    of: dict[str, Class] = {}
    for node in model.nodes:
        begins = node.name in joins or scalable(model, node)
        shape = analysis.shape(node.outputs[0].name) if begins else None
        if node.name in joins:
            _freeze(of, [t.name for t in node.inputs], f"{node.name} joins it with others")
        if shape is not None and isinstance(shape[1], int):
            of[node.outputs[0].name] = Class(shape[1], {node.outputs[0].name: 1}, [node])
            if node.name not in joins and (found := of.get(node.inputs[0].name)) is not None:
                found.readers.append((node, found.tensors[node.inputs[0].name]))
        elif model.is_standard(node, "Add") and _alike(node, analysis):
            _join(node, of)
        elif model.is_standard(node, *SAME) and (repeat := _repeat(node, of, analysis)):
            found = of[node.inputs[0].name]
            found.tensors[node.outputs[0].name] = repeat
            of[node.outputs[0].name] = found
            _freeze(of, [t.name for t in (*node.inputs[1:], *node.outputs[1:])], f"{node.name} reads it otherwise")
        else:
            _freeze(of, [t.name for t in node.inputs], f"{node.name} ({node.op}) does not keep a scale")
    _freeze(of, [t.name for t in model.outputs], "it is an output of the model")
    return list({id(c): c for c in of.values()}.values())


def scalable(model: Model, node: gs.Node) -> bool:
    """A product with stored float32 weights, used by this node alone, and a stored bias or none."""
    if not model.is_standard(node, "Conv", "Gemm") or len(node.inputs) < 2:
        return False
    w = node.inputs[1]
    if not isinstance(w, gs.Constant) or w.values.dtype != np.float32 or len(w.outputs) != 1:
        return False
    if node.op == "Gemm" and (node.attrs.get("transA", 0) or isinstance(node.inputs[0], gs.Constant)):
        return False
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return True
    return (
        isinstance(node.inputs[2], gs.Constant)
        and node.inputs[2].values.size == w.values.shape[layout(node).output_axis]
    )


def rescale(model: Model, node: gs.Node, s_in: np.ndarray | None, s_out: np.ndarray | None) -> None:
    """Take scales into the weights of a product: `s_in` [inputs], `s_out` [outputs], float64."""
    w, at = node.inputs[1].values.astype(np.float64), layout(node)
    if s_in is not None:
        w = w * at.factor(s_in, inward=True)
    if s_out is not None:
        w = w / at.factor(s_out, inward=False)
        if len(node.inputs) > 2 and node.inputs[2].name:
            bias = node.inputs[2].values
            model.set_weight(node, 2, (bias / s_out.reshape(bias.shape)).astype(bias.dtype))
    model.set_weight(node, 1, w.astype(np.float32))


def _alike(node: gs.Node, analysis: Analysis) -> bool:
    shapes = [analysis.shape(t.name) for t in node.inputs if isinstance(t, gs.Variable)]
    if len(shapes) != 2:
        return False
    a, b = shapes
    return a is not None and b is not None and len(a) == len(b) > 1 and a[1] == b[1]


def _join(node: gs.Node, of: dict[str, Class]) -> None:
    """Make one class of the classes of both terms and the sum."""
    keep, other = (of.get(t.name) for t in node.inputs)
    if keep is None or other is None or any(c.tensors[t.name] != 1 for c, t in zip((keep, other), node.inputs)):
        _freeze(of, [t.name for t in node.inputs], f"{node.name} adds what has no such scale")
        return
    if other is not keep:
        keep.tensors |= other.tensors
        keep.makers += other.makers
        keep.readers += other.readers
        keep.frozen = keep.frozen or other.frozen
        for name in other.tensors:
            of[name] = keep
    keep.tensors[node.outputs[0].name] = 1
    of[node.outputs[0].name] = keep


def _repeat(node: gs.Node, of: dict[str, Class], analysis: Analysis) -> int | None:
    """Entries along axis 1 of the output for each channel, or None where channels do not stay together there."""
    found = of.get(node.inputs[0].name)
    if found is None:
        return None
    before, after = analysis.shape(node.inputs[0].name), analysis.shape(node.outputs[0].name)
    if node.op not in ("Flatten", "Reshape", "Squeeze"):
        return found.tensors[node.inputs[0].name]
    if before is None or after is None or len(after) != 2 or len(before) < 2:
        return None
    inner = [d for d in before[1:] if isinstance(d, int)]
    if len(inner) != len(before) - 1 or before[0] != after[0] or after[1] != int(np.prod(inner)):
        return None
    return after[1] // found.channels


def _freeze(of: dict[str, Class], names: list[str], why: str) -> None:
    for name in names:
        if name in of and of[name].frozen is None:
            of[name].frozen = why
