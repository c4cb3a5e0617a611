"""What a model is made of: its layers, the channels that are coupled, its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from ..ir import foreign
from ..ir.analysis import analyse
from ..ir.axes import Extent
from ..ir.bodies import Body, inner
from ..ir.cost import CLASSICAL, Cost, attribute_tables, cost, has_bodies, is_index, node_macs
from ..ir.files import load
from ..ir.functions import indices, is_lookup
from ..ir.graph import CAPTURED
from ..ir.live import number
from ..ir.model import Model
from ..ir.numbers import number_bits
from ..ir.qtype import stored_bytes
from ..ir.table import ROWS, Facts, key_of
from ..ir.verify import Verified
from ..passes.layers.shuffles import resolve_shuffles
from ..passes.prune.coupling import frozen_layers, groups
from ..pipeline import at_usual_shapes, open_sizes, sound, uncounted_said
from .roles import Roles

if TYPE_CHECKING:
    from ..runtime.feeding import Wishes

ON_WAY = ("Transpose", "Cast", "Mul")
"""What stands between a Lookup and the layer that reads its weight."""
WIDEST = 8
"""Bits of inputs beyond which a product is not one of planes."""
WORD = 64
"""Bits of a word in the papers' count of operations."""


@dataclass(frozen=True)
class Layer:
    """One node. shape: of its first output, None where the rank is unknown; bits: of its weights, None without any.

    params and bytes count the initialisers that it reads (one read by two nodes counts in both; one that a
    DequantizeLinear or Lookup unpacks for it alone counts here, not there), macs one sample. entropy: bits of entropy
    of a weight, and coded: about the bytes that all of them take in an archive, codebook included; both for stored
    numbers of at most 8 bits, else None. planes: bits of the inputs of a product of one-bit weights (HORQ's order), and
    speedup: by how much it then has fewer operations than floats, both else None.
    """

    name: str
    op: str
    shape: tuple[Extent, ...] | None
    params: int
    macs: int
    bytes: int
    bits: int | None
    entropy: float | None = None
    coded: int | None = None
    planes: int | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """`channels` that can only be removed together, from the weights that make them, sum over them or follow them."""

    name: str
    channels: int
    makes: tuple[str, ...]
    contracts: tuple[str, ...]
    follows: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect` found. inputs and outputs: name -> text of type and shape; frozen: (node, reason);
    unknown: (operator, nodes, reason) of what the operator table cannot follow;
    sizes: extents of open axes at which costs are counted. remarks: what was corrected or overlooked in reading it."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    opsets: dict[str, int]
    ir_version: int
    functions: tuple[str, ...]
    cost: Cost
    sizes: tuple[str, ...]
    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[tuple[str, str], ...]
    unknown: tuple[tuple[str, int, str], ...]
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        found = asdict(self)
        found["frozen"] = [{"node": node, "reason": reason} for node, reason in self.frozen]
        found["unknown"] = [{"op": op, "nodes": n, "reason": reason} for op, n, reason in self.unknown]
        return found


def inspect(source, wishes: Wishes | None = None) -> Inspection:
    """Look at a model (whatever `onnxc.load` takes), with costs at the shapes that `wishes` says or at usual ones. Raises
    OnnxcError where it is not sound."""
    model = load(source).copy()
    verified = at_usual_shapes(model, wishes, sound)
    analysis = verified.analysis
    opened = model.copy()  # what pruning would see
    axes = analyse(opened) if resolve_shuffles(opened) else analysis
    opened = opened if axes is not analysis else model
    return Inspection(
        inputs={t.name: _declared(t, verified) for t in model.inputs},
        outputs={t.name: _declared(t, verified) for t in model.outputs},
        opsets=dict(model.opsets),
        ir_version=model.ir_version,
        functions=tuple(f"{domain}.{name}" for domain, name in model.functions),
        cost=cost(model, verified),
        sizes=tuple(open_sizes(model)),
        layers=tuple(layers_of(model, verified)),
        groups=tuple(_group(g) for g in groups(opened, axes)),
        frozen=tuple(frozen_layers(opened, axes)),
        unknown=_unknown(model, list(analysis.facts.values())),
        remarks=(*verified.remarks, *filter(None, [foreign.remedy(model)]), *uncounted_said(model, verified)),
    )


def layers_of(model: Model, verified: Verified, within: str = "") -> Iterator[Layer]:
    """Every node, those of bodies and functions behind the node that holds them, with its name ahead of theirs."""
    bodies: dict[int, list[Body]] = {}
    for body in inner(model, verified) if has_bodies(model) else ():
        bodies.setdefault(id(body.node), []).append(body)
    roles = Roles(model, verified.analysis)
    for node in model.nodes:
        yield replace(_layer(node, verified, roles), name=f"{within}{node.name}")
        for body in bodies.get(id(node), ()):
            yield from layers_of(body.model, body.verified, f"{within}{body.name}/")


def _extents(shape: tuple[Extent, ...] | None) -> str:
    """`N×64×56×56`; `?` for what is not known."""
    return "?" if shape is None else "×".join("?" if e is None else str(e) for e in shape) or "scalar"


def _declared(t: gs.Variable | gs.Constant, verified: Verified) -> str:
    import onnx

    kind = verified.types.get(t.name)
    extents = verified.analysis.shape(t.name)
    return f"{onnx.TensorProto.DataType.Name(kind).lower() if kind else '?'} {_extents(extents)}"


def _layer(node: gs.Node, verified: Verified, roles: Roles) -> Layer:
    facts = verified.analysis.facts[node.name]
    on_way = bool(node.outputs and _unpacker(node.outputs[0])[1])
    weights = [] if _feeds_one(node) or on_way or not roles.is_layer(node) else _weights(node, verified, roles)
    packed: dict[str, int] = {}
    numbers = None
    for t in node.inputs if not on_way else ():
        maker, way = _unpacker(t)
        if maker is not None and _feeds_one(maker):
            weights += [
                *_weights(maker, verified, roles),
                *(c for n in way for c in n.inputs if isinstance(c, gs.Constant)),
            ]
            numbers = _numbers(maker)
            if maker.op in ("Lookup", "ProductLookup"):
                packed[maker.inputs[0].name] = 0 if numbers is None else numbers.size
    second = 3 if node.op.startswith("QLinear") else 1
    factor = node.inputs[second] if facts.iteration and len(node.inputs) > second else None
    bits: int | None
    if factor is not None:
        bits = number_bits(factor, verified.types)
    else:
        bits = number_bits(max(weights, key=lambda t: t.values.size)) if weights else None
    classical = attribute_tables(node) if node.domain == CLASSICAL else (0, 0)
    return Layer(
        name=node.name,
        op=key_of(node),
        shape=verified.analysis.shape(node.outputs[0].name) if node.outputs else None,
        params=classical[0] + sum(packed.get(t.name, t.values.size) for t in weights),
        macs=node_macs(verified.analysis, node),
        bytes=classical[1] + sum(stored_bytes(t.values) for t in weights),
        bits=bits,
        **_coded(numbers, weights),
        **(_binary(node, verified) if bits == 1 and factor is not None else {}),
    )


def _binary(node: gs.Node, verified: Verified) -> dict[str, Any]:
    """The count of XNOR-Net's paper (Rastegari 2016, sec. 3.2): n sums of an output become n / 64 operations on words and one
    product with a scale, for each plane of the inputs (HORQ, Li 2017)."""
    planes = number_bits(node.inputs[0], verified.types)
    axes = verified.analysis.axes.get(node.outputs[0].name)
    if planes > WIDEST or not axes:
        return {}
    n = node_macs(verified.analysis, node) / prod(number(a, verified.analysis.sizes) for a in axes)
    return {"planes": planes, "speedup": round(n / (planes * (n / WORD + 1)), 2)}


def _unpacker(t: gs.Variable | gs.Constant) -> tuple[gs.Node | None, list[gs.Node]]:
    """The node that makes `t`; of a weight that a Lookup makes that Lookup, and what turns, widens or scales it on the way."""
    maker = at = _maker(t)
    way: list[gs.Node] = []
    while at is not None and at.op in ON_WAY and not at.domain:
        way.append(at)
        given = [x for x in at.inputs if isinstance(x, gs.Variable)]
        at = _maker(given[0]) if len(given) == 1 else None
    return (at, way) if at is not None and is_lookup(at) else (maker, [])


def _maker(t: gs.Variable | gs.Constant) -> gs.Node | None:
    return t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None


def _numbers(maker: gs.Node) -> np.ndarray | None:
    """The stored numbers of 8 bits at most that `maker` unpacks, as uint8; None where it stores others, or none."""
    if maker.op in ("Lookup", "ProductLookup"):
        return indices(maker)
    if not isinstance(maker.inputs[0], gs.Constant):
        return None
    stored = maker.inputs[0].values
    return stored.view(np.uint8) if stored.dtype in (np.int8, np.uint8) and maker.op == "DequantizeLinear" else None


def _coded(numbers: np.ndarray | None, weights: list[gs.Constant]) -> dict[str, Any]:
    if numbers is None or numbers.size == 0:
        return {}
    from ..coding.plane import estimate

    counts = np.bincount(numbers.ravel(), minlength=256)
    share = counts[counts > 0] / numbers.size
    tables = sum(t.values.nbytes for t in weights if t.values.dtype.kind == "f" and t.values.ndim == 2)
    entropy = abs(float(share @ np.log2(share)))
    return {"entropy": round(entropy, 3), "coded": round(estimate(counts)) + tables}


def _weights(node: gs.Node, verified: Verified, roles: Roles) -> list[gs.Constant]:
    """The initialisers that `node` reads as they are or made ready, but for shape operands, indices, booleans and texts, and what
    its bodies read."""
    facts = verified.analysis.facts[node.name]
    given = node.inputs[: len(node.inputs) - len(node.attrs.get(CAPTURED, ()))]
    read = [t for i, source in enumerate(given) if i not in facts.operands for t in roles.constants(source)]
    kept = [t for t in read if t.values.dtype.kind not in "OUSb" and not is_index(t, facts)]
    return list({id(t): t for t in kept}.values())


def _feeds_one(node: gs.Node) -> bool:
    """Whether `node` only unpacks a stored weight for one reader, which then counts as having it."""
    return (
        (key_of(node) == "DequantizeLinear" or is_lookup(node))
        and isinstance(node.inputs[0], gs.Constant)
        and len(node.outputs[0].outputs) == 1
    )


def _group(g) -> ChannelGroup:
    def names(role: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m.layer.name for m in g.members if m.role == role))

    return ChannelGroup(g.name, g.size, names("makes"), names("contracts"), names("follows"))


def _unknown(model: Model, facts: list[Facts]) -> tuple[tuple[str, int, str], ...]:
    found = Counter((key_of(f.node), _why_unknown(f.node)) for f in facts if not f.known)
    return tuple((op, n, reason) for (op, reason), n in sorted(found.items()))


def _why_unknown(node: gs.Node) -> str:
    if key_of(node) in ROWS:
        return "ranks that are not known"
    if CAPTURED in node.attrs:
        return "what stands in its bodies is worked on by itself"
    return "no row in the operator table"
