"""What a model costs: MACs, bit operations, parameters, stored bytes, peak activations; read off the operator table.

Extents that are no numbers (batch, free image sizes) count as in `Model.shapes`, or as `sizes` says, else as 1. Bodies of
nodes and called functions count too: of the branches of an If the costlier, a loop's body as often as it surely runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .axes import Atom, Axis, extent, find
from .bodies import Body, inner
from .functions import packed_sizes
from .graph import CAPTURED
from .live import Sizes, number, peak_bytes
from .model import DOMAIN, Model
from .numbers import number_bits
from .qtype import stored_bytes
from .table import Analysis, Facts
from .values import attribute_proto
from .verify import Verified


@dataclass(frozen=True)
class Cost:
    """nodes; params: elements of floating or quantised weights; bytes: of all initialisers, and of the tables that classical
    models (trees, support vectors) have in attributes, as stored in the file;
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
    tables = [attribute_tables(node) for node in model.nodes if node.domain == CLASSICAL]
    whole = Cost(
        nodes=len(model.nodes),
        params=sum(n for n, _ in tables)
        + sum(
            packed.get(t.name, t.values.size)
            for t in constants
            if t.values.dtype.kind not in "OUSb" and t.name not in operands
        ),
        bytes=sum(size for _, size in tables) + sum(stored_bytes(t.values) for t in constants),
        macs=macs,
        bops=bops,
        peak_bytes=peak_bytes(model, verified, sizes),
    )
    return _with_bodies(whole, model, verified) if has_bodies(model) else whole


def has_bodies(model: Model) -> bool:
    """Whether there is anything within nodes of `model`."""
    return bool(model.functions) or any(CAPTURED in node.attrs for node in model.nodes)


def _with_bodies(whole: Cost, model: Model, verified: Verified) -> Cost:
    """The cost with what stands within nodes: initialisers of a body once, products as often as it runs."""
    within: dict[str, list[Cost]] = {}
    functions: set[tuple] = set()
    for body in inner(model, verified):
        found = cost(body.model, body.verified)
        here = [t for name, t in body.model.constants().items() if not _is_passed(body, name, t)]
        kept = [t for t in here if t.values.dtype.kind not in "OUSb"]
        params = sum(t.values.size for t in kept if t.name not in shape_operands(body.verified.analysis))
        size = sum(stored_bytes(t.values) for t in here)
        if not body.key and (key := (body.node.domain, body.node.op)) in functions:
            params = size = 0
        elif not body.key:
            functions.add(key)
        n = body.trips
        within.setdefault(body.node.name, []).append(
            replace(found, params=params, bytes=size, macs=found.macs * n, bops=found.bops * n)
        )
    for costs in within.values():
        whole = Cost(
            nodes=whole.nodes + sum(c.nodes for c in costs),
            params=whole.params + sum(c.params for c in costs),
            bytes=whole.bytes + sum(c.bytes for c in costs),
            macs=whole.macs + max(c.macs for c in costs),
            bops=whole.bops + max(c.bops for c in costs),
            peak_bytes=whole.peak_bytes + max(c.peak_bytes for c in costs),
        )
    return whole


def _is_passed(body: Body, name: str, t: gs.Constant) -> bool:
    """Whether a body captures this initialiser: it counts outside."""
    outer = body.passed.get(name)
    return isinstance(outer, gs.Constant) and outer.values is t.values


def node_macs(analysis: Analysis, node: gs.Node, sizes: Sizes | None = None) -> int:
    """Multiply-accumulates of one node: the product of its iteration extents."""
    axes = analysis.facts[node.name].iteration
    return prod(number(a, analysis.sizes if sizes is None else sizes) for a in axes) if axes else 0


PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
CLASSICAL = "ai.onnx.ml"
"""The domain of trees, support vectors and linear models."""


def attribute_tables(node: gs.Node) -> tuple[int, int]:
    """Floats (thresholds, leaves, coefficients) and bytes of the lists and tensors in the attributes of a classical model."""
    protos = [attribute_proto(key, value) for key, value in node.attrs.items()]
    held = [p for p in protos if p.floats or p.ints or p.HasField("t")]
    floats = sum(len(p.floats) + (prod(p.t.dims) if p.t.data_type in FLOATS else 0) for p in held)
    return floats, sum(p.ByteSize() for p in held)


def uncounted(model: Model, verified: Verified) -> list[str]:
    """Products over extents or ranks that only a run tells, and loops over products, whose turns only a run tells, by the names of
    their nodes: their MACs are counted too low."""
    analysis, found = verified.analysis, []
    for node in model.nodes:
        facts = analysis.facts[node.name]
        axes = facts.iteration or ()
        if (node.op in PRODUCTS and not facts.known) or any(not _is_counted(a, analysis.sizes) for a in axes):
            found.append(node.name)
    for body in inner(model, verified) if has_bodies(model) else ():
        if body.node.op == "Loop" and not _has_turns(body.node) and cost(body.model, body.verified).macs:
            found.append(body.node.name)  # counted as one turn
        found += [f"{body.name}/{name}" for name in uncounted(body.model, body.verified)]
    return found


def _has_turns(loop: gs.Node) -> bool:
    return bool(loop.inputs) and isinstance(loop.inputs[0], gs.Constant)


def _is_counted(a: Axis, sizes: Sizes) -> bool:
    a = find(a)
    if isinstance(extent(a), int) or a in sizes:
        return True
    parts = (a.size in sizes,) if type(a) is Atom else (_is_counted(p, sizes) for p in a.parts)
    return all(parts)


def _factor_bits(node: gs.Node, verified: Verified) -> int:
    second = 3 if node.op.startswith("QLinear") else 1
    pair = [node.inputs[i] for i in (0, second) if i < len(node.inputs)]
    return prod(number_bits(t, verified.types) for t in pair)


def is_index(t: gs.Constant, facts: Facts) -> bool:
    """Whether the node of `facts` reads `t` as places, extents or ids: integers of 32 or 64 bits that no product takes, and
    nothing that unpacks weights."""
    if t.values.dtype.kind not in "iu" or t.values.dtype.itemsize < 4:
        return False
    if t.values.dtype == np.int64 and t.values.ndim <= 1:
        return True
    op, domain = facts.node.op, facts.node.domain
    return not (facts.iteration or op == "DequantizeLinear" or op.startswith("QLinear") or domain == DOMAIN)


def shape_operands(analysis: Analysis) -> set[str]:
    """Integer initialisers that are read only as shape operands, bounds, places or indices; they are no parameters."""
    weights, others = set[str](), set[str]()
    for facts in analysis.facts.values():
        for i, t in enumerate(facts.node.inputs):
            if isinstance(t, gs.Constant):
                (others if i in facts.operands or is_index(t, facts) else weights).add(t.name)
    return others - weights
