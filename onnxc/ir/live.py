"""Which intermediate tensors are held, at how many bits, and from which node to which.

DequantizeLinear(x)                       holds nothing: its readers read the integers
Conv -> Relu -> QuantizeLinear            one tensor of integers: what is rounded at once is never held as floats
Binarize, Quantize, DequantizeLinear(w)   few bits; a stored weight is no activation at all
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs

from .axes import Aligned, Atom, Axis, Prod, extent, find
from .model import Model
from .numbers import read
from .qtype import dtype_bits
from .verify import Verified

Sizes: TypeAlias = "Mapping[Any, int]"
"""Extents of axes that are no numbers, by axis or by the name of a symbolic one; what it lacks counts as 1."""
ROUNDERS = ("QuantizeLinear", "Quantize", "Binarize", "ResidualBinarize", "DynamicResidualBinarize")
WITHIN = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "PRelu",
    "Sigmoid",
    "HardSwish",
    "HardSigmoid",
    "Add",
    "Mul",
    "BatchNormalization",
)
"""Operators that a kernel computes on the way from its sums to what it rounds."""


def number(a: Axis, sizes: Sizes) -> int:
    """The extent of `a` as a number; symbolic ones from `sizes`, else 1."""
    a = find(a)
    known = extent(a)
    if isinstance(known, int):
        return known
    if a in sizes:
        return sizes[a]
    if type(a) is Atom:
        return sizes.get(a.size, 1)
    if type(a) is Aligned:
        return number(a.parts[0], sizes)
    parts = [number(p, sizes) for p in a.parts]
    return prod(parts) if type(a) is Prod else sum(parts)


def peak_bytes(model: Model, verified: Verified, sizes: Sizes | None = None) -> int:
    """The most bytes of intermediate tensors (inputs and outputs included) alive at once, in node order."""
    return max(live_bytes(model, verified, sizes))


def live_bytes(model: Model, verified: Verified, sizes: Sizes | None = None) -> list[int]:
    """Bytes of intermediate tensors alive ahead of the first node and at each node, in their order."""
    held = _Held(model, verified, verified.analysis.sizes if sizes is None else sizes)
    outputs = {held.root(t.name) for t in model.outputs}
    last: dict[str, int] = {}
    for i, node in enumerate(model.nodes):
        for t in node.inputs:
            if not isinstance(t, gs.Constant):
                last[held.root(t.name)] = i
    alive = {held.root(t.name) for t in model.inputs}
    live = sum(map(held.bytes, alive))
    found = [live]
    for i, node in enumerate(model.nodes):
        touched = {
            held.root(t.name) for t in (*node.inputs, *node.outputs) if t.name and not isinstance(t, gs.Constant)
        }
        new = touched - alive
        live += sum(map(held.bytes, new))
        alive |= new
        found.append(live)
        dying = {name for name in touched & alive if last.get(name, -1) <= i} - outputs
        live -= sum(map(held.bytes, dying))
        alive -= dying
    return found


class _Held:
    """Tensors by name: `root` of those that stand in one piece of memory, and the bytes of a root."""

    def __init__(self, model: Model, verified: Verified, sizes: Sizes):
        self.verified, self.sizes = verified, sizes
        self.roots: dict[str, str] = {}
        self.bits: dict[str, int] = {}
        outputs = {t.name for t in model.outputs}
        self._stored(model, outputs)
        for node in reversed(model.nodes):
            self._behind(node, outputs)
        for node in model.nodes:
            if node.op == "DequantizeLinear":
                self._ahead(node, outputs)

    def _stored(self, model: Model, outputs: set[str]) -> None:
        """What is made of initialisers alone is a weight, however it is unpacked."""
        for node in model.nodes:
            given = [t for t in node.inputs if t.name]
            if given and all(isinstance(t, gs.Constant) or self.bits.get(t.name) == 0 for t in given):
                self.bits |= {t.name: 0 for t in node.outputs if t.name and t.name not in outputs}

    def _behind(self, node: gs.Node, outputs: set[str]) -> None:
        """A tensor that only a quantiser reads stands as that quantiser's result."""
        out = node.outputs[0] if node.outputs else None
        if out is None or not out.name or self.bits.get(out.name) == 0:
            return
        if node.op in ROUNDERS:
            found = read(out, self.verified.types)
            if found is not None:
                self.bits[out.name] = found.q.bits
        elif node.op not in WITHIN or out.name not in self.bits:
            return
        for t in node.inputs:
            computed = isinstance(t, gs.Variable) and t.inputs and len(t.outputs) == 1 and t.name not in outputs
            if computed and self.verified.analysis.shape(t.name) == self.verified.analysis.shape(out.name):
                self.roots[t.name] = out.name
                self.bits.setdefault(t.name, self.bits.get(out.name, 32))
                return

    def _ahead(self, node: gs.Node, outputs: set[str]) -> None:
        """What DequantizeLinear makes is read where it is stored."""
        out, x = node.outputs[0], node.inputs[0]
        if out.name in outputs or out.name in self.roots:
            return
        if isinstance(x, gs.Variable) and self.bits.get(x.name) != 0:
            self.roots[out.name] = x.name

    def root(self, name: str) -> str:
        while name in self.roots:
            name = self.roots[name]
        return name

    def bytes(self, name: str) -> int:
        axes = self.verified.analysis.axes.get(name)
        if axes is None or not name:
            return 0
        kind = self.verified.types.get(name, 1)
        bits = self.bits.get(name)
        if bits is None:
            text = kind in (0, onnx.TensorProto.STRING)
            bits = 32 if text else dtype_bits(onnx.helper.tensor_dtype_to_np_dtype(kind))
        return -(-prod(number(a, self.sizes) for a in axes) * bits // 8)
