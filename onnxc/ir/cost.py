"""What a model costs: MACs, bit operations, parameters, stored bytes, peak activations; read off the operator table.

Symbolic extents (batch, free image sizes) count as 1, or as `sizes` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .axes import Aligned, Atom, Axis, Prod, find
from .functions import packed_sizes
from .model import Model
from .numbers import number_bits
from .qtype import stored_bytes
from .table import Analysis
from .verify import Verified

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """nodes; params: elements of floating or quantised weights; bytes: of all initialisers as stored in the file;
    macs: multiply-accumulates of contracting operators; bops: macs times the bits of both factors (Baskin 2018, UNIQ);
    peak_bytes: the largest sum of live intermediate tensors in node order."""

    nodes: int
    params: int
    bytes: int
    macs: int
    bops: int
    peak_bytes: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def cost(model: Model, verified: Verified, sizes: Sizes | None = None) -> Cost:
    """The cost of a verified model for one sample (or for the symbolic extents given in `sizes`)."""
    sizes = sizes or {}
    constants = model.constants().values()
    macs = bops = 0
    for node in model.nodes:
        n = node_macs(verified.analysis, node, sizes)
        macs += n
        if n:
            bops += n * _factor_bits(node, verified)
    operands = shape_operands(verified.analysis)
    packed = packed_sizes(model)
    return Cost(
        nodes=len(model.nodes),
        params=sum(
            packed.get(t.name, t.values.size)
            for t in constants
            if t.values.dtype.kind not in "OUSb" and t.name not in operands
        ),
        bytes=sum(stored_bytes(t.values) for t in constants),
        macs=macs,
        bops=bops,
        peak_bytes=peak_bytes(model, verified, sizes),
    )


def node_macs(analysis: Analysis, node: gs.Node, sizes: Sizes | None = None) -> int:
    """Multiply-accumulates of one node: the product of its iteration extents."""
    axes = analysis.facts[node.name].iteration
    return prod(number(a, sizes or {}) for a in axes) if axes else 0


def number(a: Axis, sizes: Sizes) -> int:
    """The extent of `a` as a number; symbolic ones from `sizes`, else 1."""
    a = find(a)
    if type(a) is Atom:
        return a.size if isinstance(a.size, int) else sizes.get(a.size, 1)
    if type(a) is Aligned:
        return number(a.parts[0], sizes)
    parts = [number(p, sizes) for p in a.parts]
    return prod(parts) if type(a) is Prod else sum(parts)


def _factor_bits(node: gs.Node, verified: Verified) -> int:
    second = 3 if node.op.startswith("QLinear") else 1
    pair = [node.inputs[i] for i in (0, second) if i < len(node.inputs)]
    return prod(number_bits(t, verified.types) for t in pair)


def shape_operands(analysis: Analysis) -> set[str]:
    """Integer initialisers that are read only as shape operands, bounds or indices; they are no parameters."""
    weights, others = set(), set()
    for facts in analysis.facts.values():
        for i, t in enumerate(facts.node.inputs):
            if isinstance(t, gs.Constant):
                shape_like = t.values.dtype == np.int64 and t.values.ndim <= 1
                (others if i in facts.operands or shape_like else weights).add(t.name)
    return others - weights


def peak_bytes(model: Model, verified: Verified, sizes: Sizes | None = None) -> int:
    """The most bytes of intermediate tensors (inputs and outputs included) alive at once, in node order."""
    sizes = sizes or {}
    outputs = {t.name for t in model.outputs}
    last: dict[str, int] = {}
    for i, node in enumerate(model.nodes):
        for t in node.inputs:
            last[t.name] = i
    live = sum(_tensor_bytes(t.name, verified, sizes) for t in model.inputs)
    peak = live
    for i, node in enumerate(model.nodes):
        live += sum(_tensor_bytes(t.name, verified, sizes) for t in node.outputs if t.name)
        peak = max(peak, live)
        dying = {t.name for t in node.inputs if not isinstance(t, gs.Constant) and last[t.name] == i}
        dying |= {t.name for t in node.outputs if t.name and t.name not in last}
        live -= sum(_tensor_bytes(name, verified, sizes) for name in dying - outputs)
    return peak


def _tensor_bytes(name: str, verified: Verified, sizes: Sizes) -> int:
    axes = verified.analysis.axes.get(name)
    if axes is None or not name:
        return 0
    kind = verified.types.get(name, 1)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype(np.float32)
    return prod(number(a, sizes) for a in axes) * dtype.itemsize
