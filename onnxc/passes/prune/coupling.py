"""Groups of coupled channels: one unfrozen atom of the axis algebra, with every weight that it cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Aligned, Atom, Axis, Prod, Sum, atoms, extent, find, number, same
from ...ir.escape import card
from ...ir.model import Model


@dataclass
class Member:
    """A weight axis that holds the group's atom: input `i` of `node`, position `d`. role: what its layer does with it.

    layer: the node that computes with the weight; another than `node` where that is a DequantizeLinear.
    """

    node: gs.Node
    i: int
    d: int
    role: str  # "makes", "contracts" or "follows"
    layer: gs.Node

    @property
    def values(self) -> np.ndarray:
        """The weight as its layer sees it."""
        stored = self.node.inputs[self.i].values
        return stored if self.layer is self.node else dequantised(self.node, stored)


ROLES = ("makes", "contracts", "follows")
Key = tuple[str, int, int, int]
"""(node, input, axis, part): the weight axis that makes a group's channels, and which of the atoms on it they are."""


@dataclass
class Group:
    """`size` channels that can only be removed together, in every member at once.

    key: the same for the same channels of a copy, and of what is left of the model after a cut.
    """

    atom: Atom
    members: list[Member] = field(default_factory=list)
    key: Key = ("", 0, 0, 0)

    @property
    def size(self) -> int:
        return number(self.atom.size)

    @property
    def name(self) -> str:
        """The first node that makes these channels, else the first that holds them."""
        return self.maker.layer.name

    def _repr_html_(self) -> str:
        rows = [
            (role, ", ".join(dict.fromkeys(m.layer.name for m in self.members if m.role == role))) for role in ROLES
        ]
        return card(f"{self.size} channels of {self.name}", [row for row in rows if row[1]])

    @property
    def maker(self) -> Member:
        """The first weight that makes these channels, else the first that holds them."""
        return next((m for m in self.members if m.role == "makes"), self.members[0])


STATISTICS = {"none": (), "window": ("window",), "all": ("window", "statistic")}
"""Which soft axes may be cut: none, those of windows over neighbours (LRN), or those of means and variances too."""


def groups(model: Model, analysis: Analysis, statistics: str = "window") -> list[Group]:
    """Every group of at least two channels that some weight is contracted over or made by, in graph order.

    Of several free atoms in one product (groups times channels of a grouped convolution, heads times width) only the
    largest forms a group: cutting one already cuts the product in proportion.
    """

    def free(a: Atom) -> bool:
        allowed = a.soft is None or a.soft[0] in STATISTICS[statistics]
        return a.frozen is None and allowed and isinstance(a.size, int) and a.size > 1

    found: dict[Atom, Group] = {}
    for node in model.nodes:
        facts = analysis.facts[node.name]
        layer = reader_of_codes(model, analysis, node)
        does = facts if layer is None else analysis.facts[layer.name]
        contracted = {a for i, d in does.contracted for a in atoms(_axis(analysis, layer or node, i, d))}
        for i, t in enumerate(node.inputs):
            if not isinstance(t, gs.Constant) or i in facts.operands:
                continue
            codes = layer is not None and i == 0
            for d, axis in enumerate(analysis.uses[node.name, i]):
                for a in atoms(axis):
                    if free(a):
                        role = (
                            "follows"
                            if not (facts.iteration or codes) or t.values.ndim < 2
                            else "contracts"
                            if a in contracted
                            else "makes"
                        )
                        group = found.setdefault(a, Group(a))
                        last = group.members[-1] if group.members else None  # an axis may hold an atom twice
                        if last is None or last.node is not node or (last.i, last.d) != (i, d):
                            group.members.append(Member(node, i, d, role, layer if codes else node))
    minor = {a for axis in analysis.all_axes() for a in _minor_factors(axis, free)}
    free_groups = [g for a, g in found.items() if a not in minor and any(m.role != "follows" for m in g.members)]
    for g in free_groups:
        m = g.maker
        on_axis = list(dict.fromkeys(atoms(analysis.uses[m.node.name, m.i][m.d])))
        g.key = (m.node.name, m.i, m.d, on_axis.index(g.atom))
    return free_groups


def reader_of_codes(model: Model, analysis: Analysis, node: gs.Node) -> gs.Node | None:
    """The layer that alone reads what the DequantizeLinear `node` makes of stored codes, or None."""
    if not model.is_standard(node, "DequantizeLinear") or not isinstance(node.inputs[0], gs.Constant):
        return None
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 and analysis.facts[readers[0].name].iteration else None


def dequantised(node: gs.Node, codes: np.ndarray) -> np.ndarray:
    """What the DequantizeLinear `node` makes of its stored codes, float32: one scale, one for each index of an axis, or
    one for each block along it. Scales that are no constants count as 1."""
    operands = [t.values if isinstance(t, gs.Constant) else None for t in node.inputs[1:3]] + [None]
    scale = np.ones((), np.float32) if operands[0] is None else operands[0].astype(np.float32)
    zero = np.zeros((), np.float32) if operands[1] is None else operands[1].astype(np.float32)
    axis = node.attrs.get("axis", 1) % codes.ndim

    def spread(x: np.ndarray) -> np.ndarray:
        if x.size == 1:
            return x.reshape(())
        if x.ndim == 1:
            return x.reshape([-1 if k == axis else 1 for k in range(codes.ndim)])
        return np.repeat(x, -(-codes.shape[axis] // x.shape[axis]), axis).take(range(codes.shape[axis]), axis)

    return (codes.astype(np.float32) - spread(zero)) * spread(scale)


def _axis(analysis: Analysis, node: gs.Node, i: int, d: int) -> Axis:
    axes = analysis.of(node, i)
    assert axes is not None  # members have axes
    return axes[d]


def _minor_factors(axis: Axis, is_free: Callable[[Atom], bool]) -> Iterator[Atom]:
    """The free atoms of every product in `axis` but its largest (the innermost of equal ones)."""
    axis = find(axis)
    if isinstance(axis, (Sum, Aligned)):
        for part in axis.parts:
            yield from _minor_factors(part, is_free)
    elif isinstance(axis, Prod):
        free = [[a for a in atoms(p) if is_free(a)] for p in axis.parts]
        sizes = [extent(p) if f else 0 for p, f in zip(axis.parts, free, strict=True)]
        if sum(1 for f in free if f) > 1:
            best = max(range(len(sizes)), key=lambda k: (sizes[k], k))
            for k, f in enumerate(free):
                if k != best:
                    yield from f
        for part in axis.parts:
            yield from _minor_factors(part, is_free)


def project(axis: Axis, values: np.ndarray, into: dict[Atom, np.ndarray]) -> None:
    """Add up `values` [extent(axis)] over all indices that share an index of an atom, for each atom of `axis`."""
    axis = find(axis)
    if isinstance(axis, Atom):
        into[axis] = into[axis] + values if axis in into else values
    elif isinstance(axis, Sum):
        at = 0
        for part in axis.parts:
            n = number(extent(part))
            project(part, values[at : at + n], into)
            at += n
    else:
        shape = [number(extent(p)) for p in axis.parts]
        grid = values.reshape(shape)
        for k, part in enumerate(axis.parts):
            project(part, grid.sum(tuple(j for j in range(len(shape)) if j != k)), into)


ENDS = {"graph output": "a graph output has them", "graph input": "a graph input has them"}


def frozen_layers(model: Model, analysis: Analysis, statistics: str = "window") -> list[tuple[str, str]]:
    """(node, reason) for every layer whose output channels cannot be pruned."""

    def fixed(a: Axis) -> str | None:
        reasons = []
        for x in atoms(a):
            if x.frozen is not None:
                reasons.append(f"its channels stay: {ENDS.get(x.frozen, x.frozen)}")
            elif x.soft is not None and x.soft[0] not in STATISTICS[statistics]:
                reasons.append(f"{x.soft[1]} takes a statistic over its channels, which statistics={statistics} leaves")
            elif x.size != 1:
                return None
        return reasons[0] if reasons else None

    found = []
    for node in model.nodes:
        facts = analysis.facts[node.name]
        out = analysis.axes.get(node.outputs[0].name) if facts.iteration else None
        if out is None:
            continue
        made: list[Axis] = []
        for i, t in enumerate(node.inputs):
            maker = t.inputs[0] if t.inputs else None
            if maker is not None and reader_of_codes(model, analysis, maker) is node:
                axes = analysis.axes[t.name]
            elif isinstance(t, gs.Constant) and t.values.ndim > 1:
                axes = analysis.uses[node.name, i]
            else:
                continue
            made += [a for a in axes or () if extent(a) != 1 and any(same(a, b) for b in out)]
        reasons = [fixed(a) for a in sorted(made, key=lambda a: -_extent(a))]
        if reasons and all(reasons):  # one free axis is enough: the units of an LSTM beside its directions
            found.append((node.name, str(reasons[0])))
    return found


def _extent(a: Axis) -> int:
    known = extent(a)
    return known if isinstance(known, int) else 0


def places(axis: Axis) -> dict[Atom, np.ndarray]:
    """Where the indices of each atom stand in `axis`: [atom.size, n] positions, ascending in each row.

    16+16 -> {a: [16, 1], b: [16, 1]};   c·3·3 -> {c: [c, 9], ...}
    """
    found: dict[Atom, list[np.ndarray]] = {}
    for atom, labels in _labels(axis):
        order = np.argsort(labels, kind="stable")
        order = order[np.count_nonzero(labels < 0) :]
        found.setdefault(atom, []).append(order.reshape(number(atom.size), -1))
    return {a: np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0] for a, parts in found.items()}


def _labels(axis: Axis) -> Iterator[tuple[Atom, np.ndarray]]:
    """(atom, its index at each position of `axis`, -1 where it has none) for each occurrence of an atom."""
    axis = find(axis)
    if isinstance(axis, Atom):
        yield axis, np.arange(number(axis.size))
        return
    sizes = [number(extent(p)) for p in axis.parts]
    for k, part in enumerate(axis.parts):
        for atom, labels in _labels(part):
            if isinstance(axis, Sum):
                whole = np.full(sum(sizes), -1)
                whole[sum(sizes[:k]) : sum(sizes[: k + 1])] = labels
            else:
                shape = [1] * len(sizes)
                shape[k] = sizes[k]
                whole = np.broadcast_to(labels.reshape(shape), sizes).ravel()
            yield atom, whole


def blocks(axis: Axis) -> tuple[Axis, ...]:
    """The axis that each block of a weight sees: the parts of an aligned axis, else the axis itself."""
    axis = find(axis)
    return axis.parts if isinstance(axis, Aligned) else (axis,)
