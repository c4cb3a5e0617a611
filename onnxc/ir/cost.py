"""What a model costs: MACs, bit operations, parameters, stored bytes, peak activations; read off the operator table.

Extents that are no numbers (batch, free image sizes) count as in `Model.shapes`, or as `sizes` says, else as 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from .functions import packed_sizes
from .live import Sizes, number, peak_bytes
from .model import Model
from .numbers import number_bits
from .qtype import stored_bytes
from .table import Analysis
from .verify import Verified


@dataclass(frozen=True)
class Cost:
    """nodes; params: elements of floating or quantised weights; bytes: of all initialisers as stored in the file;
    macs: multiply-accumulates of contracting operators; bops: macs times the bits of both factors (Baskin 2018, UNIQ);
    peak_bytes: the largest sum of live intermediate tensors in node order (see `live`)."""

    nodes: int
    params: int
    bytes: int
    macs: int
    bops: int
    peak_bytes: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def cost(model: Model, verified: Verified, sizes: Sizes | None = None) -> Cost:
    """The cost of a verified model at `Model.shapes`, or for the symbolic extents given in `sizes`."""
    sizes = verified.analysis.sizes if sizes is None else sizes
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
    return prod(number(a, analysis.sizes if sizes is None else sizes) for a in axes) if axes else 0


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
