"""How two models differ as graphs: nodes that are gone, new, merged, and layers that became narrower or are stored otherwise.

Nodes match by name and operator; of those that do not, by operator and by the tensors that they make or read. A node of A that
is gone is merged where its output's readers read, in B, what a matched node ahead of it makes (a folded normalisation, an activation in a
quantised chain).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from ..ir.files import load
from ..ir.model import Model, dtype_name
from ..ir.table import key_of
from ..pipeline import sound
from .inspect import Layer, layers_of

CONVERTERS = ("QuantizeLinear", "DequantizeLinear", "Lookup", "ProductLookup", "UnpackBits", "Cast")
"""What a new way of storing numbers puts around layers; counted, not listed."""

FEWER = 0.95
"""Share of the weights below which a layer is narrower; scales of other numbers add some."""


@dataclass(frozen=True)
class Change:
    """One node. kind: removed, merged, added, narrowed, requantised, altered or same; what: in words; before and after: bytes and
    macs, None where it is not there."""

    kind: str
    node: str
    op: str
    what: str
    before: dict[str, int] | None = None
    after: dict[str, int] | None = None


@dataclass(frozen=True)
class Diff:
    """All changes, in the order of A's nodes and then of B's new ones. same: nodes that are as before; converters: operator ->
    new ones of those that only convert numbers; inputs, outputs: what differs in the interface; totals: nodes, bytes and MACs of
    A and of B."""

    changes: tuple[Change, ...]
    same: int
    converters: dict[str, int]
    interface: tuple[str, ...]
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = asdict(self)
        found["totals"] = {name: list(pair) for name, pair in self.totals.items()}
        return found


def diff(a: object, b: object) -> Diff:
    """What became of model `a` in model `b`, whatever `onnxc.load` takes. Raises OnnxcError where one is not sound."""
    first, second = load(a).copy(), load(b).copy()
    layers = [{layer.name: layer for layer in layers_of(m, sound(m))} for m in (first, second)]
    pairs = _matched(first, second)
    found: list[Change] = []
    same = 0
    for node in first.nodes:
        one = layers[0][node.name]
        if node.name not in pairs:
            home = _home(node, pairs)
            kind, what = ("merged", f"into {home}") if home else ("removed", "")
            found.append(Change(kind, node.name, key_of(node), what, _figures(one)))
            continue
        other = pairs[node.name]
        change = _compared(node, other, one, layers[1][other.name], (first.opset, second.opset))
        if change is None:
            same += 1
        else:
            found.append(change)
    taken = {n.name for n in pairs.values()}
    new = [n for n in second.nodes if n.name not in taken]
    counts = Counter(n.op for n in new if n.op in CONVERTERS)
    found += [
        Change("added", n.name, key_of(n), "", None, _figures(layers[1][n.name])) for n in new if n.op not in CONVERTERS
    ]
    totals = {"nodes": (len(first.nodes), len(second.nodes))}
    for name in ("bytes", "macs"):
        before, after = (sum(getattr(layer, name) for layer in side.values()) for side in layers)
        totals[name] = (before, after)
    return Diff(tuple(found), same, dict(counts.most_common()), _interface(first, second), totals)


def _matched(a: Model, b: Model) -> dict[str, gs.Node]:
    """A's node names -> B's nodes."""
    by_name = {n.name: n for n in b.nodes}
    pairs = {n.name: by_name[n.name] for n in a.nodes if n.name in by_name and by_name[n.name].op == n.op}
    taken = {n.name for n in pairs.values()}
    makes = {t.name: n for n in b.nodes for t in n.outputs if n.name not in taken}
    for n in a.nodes:
        other = next((makes[t.name] for t in n.outputs if t.name in makes), None)
        if n.name not in pairs and other is not None and other.op == n.op and other.name not in taken:
            pairs[n.name] = other
            taken.add(other.name)
    return pairs


def _home(node: gs.Node, pairs: dict[str, gs.Node]) -> str:
    """The matched node ahead of one that is gone, whose readers it now serves; "" where there is none."""
    at, seen = node, 0
    while seen < 16:
        seen += 1
        maker = next((t.inputs[0] for t in at.inputs if isinstance(t, gs.Variable) and t.inputs), None)
        if maker is None:
            return ""
        if maker.name in pairs:
            return maker.name
        at = maker
    return ""


def _compared(one: gs.Node, other: gs.Node, a: Layer, b: Layer, opsets: tuple[int, int]) -> Change | None:
    figures = (_figures(a), _figures(b))
    said = []
    kind = ""
    if (
        a.params
        and b.params
        and a.shape is not None
        and b.shape is not None
        and a.shape != b.shape
        and len(a.shape) == len(b.shape)
    ):
        axes = [(d, x, y) for d, (x, y) in enumerate(zip(a.shape, b.shape)) if x != y]
        said.append(", ".join(f"axis {d}: {x} -> {y}" for d, x, y in axes))
        kind = "narrowed"
    elif b.params < FEWER * a.params:
        said.append(f"{a.params:,} -> {b.params:,} weights")
        kind = "narrowed"
    if a.bits is not None and b.bits is not None and a.bits != b.bits:
        said.append(f"{a.bits} -> {b.bits} bits")
        kind = kind or "requantised"
    if not kind and a.params != b.params:
        said.append(f"{a.params:,} -> {b.params:,} weights")
        kind = "narrowed" if b.params < a.params else "altered"
    if not kind:
        mine, theirs = map(_attributes, (one, other), opsets)
        for name in sorted(mine.keys() | theirs.keys()):
            x, y = mine.get(name), theirs.get(name)
            if all(isinstance(v, (int, float, str, list, type(None))) for v in (x, y)) and x != y:
                said.append(f"{name}: {x} -> {y}")
                kind = "altered"
    if not kind and _weights_differ(one, other):
        said.append("other weights")
        kind = "altered"
    return Change(kind, one.name, key_of(one), "; ".join(said), *figures) if kind else None


def _attributes(node: gs.Node, opset: int) -> dict[str, Any]:
    """The attributes of a node, with what its operator takes for those that it lacks."""
    try:
        schema = onnx.defs.get_schema(node.op, opset, "" if node.domain in (None, "ai.onnx") else node.domain)
    except onnx.defs.SchemaError:
        return dict(node.attrs)
    usual = {
        n: onnx.helper.get_attribute_value(a.default_value)
        for n, a in schema.attributes.items()
        if a.default_value.type
    }
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in usual.items()} | node.attrs


def _weights_differ(one: gs.Node, other: gs.Node) -> bool:
    for x, y in zip(one.inputs, other.inputs):
        if isinstance(x, gs.Constant) and isinstance(y, gs.Constant):
            a, b = x.values, y.values
            if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
                return True
    return False


def _figures(layer: Layer) -> dict[str, int]:
    return {"bytes": layer.bytes, "macs": layer.macs}


def _interface(a: Model, b: Model) -> tuple[str, ...]:
    found = []
    for what, mine, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        ours, others = (
            {t.name: f"{dtype_name(t.dtype)} {list(t.shape) if t.shape is not None else '?'}" for t in side}
            for side in (mine, theirs)
        )
        found += [f"{what} {n}: {ours.get(n, 'not there')} -> {others.get(n, 'not there')}" for n in dict.fromkeys([*ours, *others])
                  if ours.get(n) != others.get(n)]  # fmt: skip
    return tuple(found)
