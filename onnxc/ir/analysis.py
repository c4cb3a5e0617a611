"""One walk over a model ties its axes together: the dimension check, the groups of coupled indices, the shapes.

Each node's row of the operator table (`onnxc.ir.ops`) says how the axes of its inputs and outputs relate. What has none
(foreign operators, subgraph bodies, unknown ranks) freezes every axis that it touches; its output shapes come from
ONNX's own inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .axes import (
    Aligned,
    Atom,
    Axis,
    Conflict,
    Extent,
    Prod,
    Sum,
    atoms,
    extent,
    find,
    freeze,
    kept,
    mask,
    show,
    soften,
    tie,
    touched,
)  # fmt: skip
from .errors import DimensionError
from .files import attribute_array
from .model import STANDARD, Model

Axes = tuple[Axis, ...]
VALUE_LIMIT = 64
"""Integer tensors up to this many elements are followed as possible shape operands."""


@dataclass
class Facts:
    """What a row says of one node, beyond the ties.

    contracted: (input index, axis position) pairs that are summed over: zeroing there equals removing.
    zero_points: input index -> the input that holds its zero, for contractions of quantised tensors.
    operands: input index -> template of the shape operand there (integers stay, axes become extents).
    attrs: attribute name -> template, likewise.
    iteration: the axes whose extents multiply to the MACs of the node; empty for none.
    """

    node: gs.Node
    contracted: list[tuple[int, int]] = field(default_factory=list)
    zero_points: dict[int, int] = field(default_factory=dict)
    operands: dict[int, list] = field(default_factory=dict)
    attrs: dict[str, object] = field(default_factory=dict)
    iteration: list[Axis] = field(default_factory=list)
    known: bool = True


class Analysis:
    """The axes of every tensor of a model, and the facts of every node.

    axes: tensor name -> axes, or None where the rank is unknown (variables and graph inputs).
    uses: (node name, input index) -> axes of the initialiser there; each use has its own: sharing couples nothing.
    balanced: axes that must keep equally many indices (the groups of a convolution), or none at all.
    values: tensor name -> known contents of a small integer tensor (object array of int, Axis or None).
    """

    def __init__(self, model: Model):
        self.model = model
        self.axes: dict[str, Axes | None] = {}
        self.uses: dict[tuple[str, int], Axes] = {}
        self.values: dict[str, np.ndarray] = {}
        self.facts: dict[str, Facts] = {}
        self.balanced: list[Axes] = []
        self._inferred: dict[str, tuple[Extent, ...] | None] | None = None

    def of(self, node: gs.Node, i: int) -> Axes | None:
        """The axes of input `i` of `node`; None where there is no such input or its rank is unknown."""
        if i >= len(node.inputs) or not node.inputs[i].name:
            return None
        t = node.inputs[i]
        return self.uses.get((node.name, i)) if isinstance(t, gs.Constant) else self.axes.get(t.name)

    def shape(self, tensor: str) -> tuple[Extent, ...] | None:
        """The extents of a variable; None where the rank is unknown."""
        axes = self.axes.get(tensor)
        return None if axes is None else tuple(map(extent, axes))

    def inferred(self, tensor: str) -> tuple[Extent, ...] | None:
        """The shape that ONNX's inference gives, for what the table does not know. Runs once, when first asked."""
        if self._inferred is None:
            skeleton = self.model.to_proto(weights=False)
            try:
                graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
            except onnx.shape_inference.InferenceError:
                graph = skeleton.graph  # `verify` runs it strictly and says what is wrong
            self._inferred = {v.name: proto_shape(v) for v in (*graph.value_info, *graph.output)}
        return self._inferred.get(tensor)

    def all_axes(self) -> Iterator[Axis]:
        for axes in (*self.axes.values(), *self.uses.values()):
            yield from axes or ()

    def free_atoms(self) -> list[Atom]:
        """Every unfrozen atom of known extent above 1, in graph order."""
        found: dict[Atom, None] = {}
        for axis in self.all_axes():
            for a in atoms(axis):
                if a.frozen is None and isinstance(a.size, int) and a.size > 1:
                    found.setdefault(a)
        return list(found)


def proto_shape(info: onnx.ValueInfoProto) -> tuple[Extent, ...] | None:
    """The declared shape of a ValueInfoProto; None where it has none."""
    if info.type.WhichOneof("value") != "tensor_type" or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None) for d in dims)


class Unreadable(Exception):
    """A row cannot say anything about this node: treat it as unknown, for this reason."""


class Use:
    """One node as its row sees it: axes of its inputs, attributes, and methods that state facts."""

    def __init__(self, analysis: Analysis, node: gs.Node):
        self.analysis = analysis
        self.node = node
        self.opset = analysis.model.opset
        self.facts = Facts(node)
        self.outs: dict[int, Axes] = {}
        self._read: set[int] = set()  # inputs whose contents the row has taken as a shape operand
        self._seen: set[int] = set()  # inputs whose axes the row has looked at

    # what is there

    def has(self, i: int) -> bool:
        return i < len(self.node.inputs) and bool(self.node.inputs[i].name)

    def ax(self, i: int) -> Axes:
        """The axes of input `i`. Raises Unreadable where the rank is unknown."""
        self._seen.add(i)
        axes = self.analysis.of(self.node, i)
        if axes is None:
            raise Unreadable(f"input {i} has an unknown rank")
        return axes

    def shape(self, i: int) -> tuple[Extent, ...]:
        return tuple(map(extent, self.ax(i)))

    def attr(self, name: str, default=None):
        return self.node.attrs.get(name, default)

    def array(self, i: int) -> np.ndarray | None:
        """The contents of input `i` where it is an initialiser."""
        t = self.node.inputs[i] if self.has(i) else None
        return t.values if isinstance(t, gs.Constant) else None

    def value(self, i: int) -> np.ndarray | None:
        """The known contents of a shape operand: int64 or object array (int, Axis, or None for unknown elements)."""
        if not self.has(i):
            return None
        self._read.add(i)
        values = self.array(i)
        return values if values is not None else self.analysis.values.get(self.node.inputs[i].name)

    def ints(self, name: str, i: int) -> list[int] | None:
        """A list of integers given as attribute `name` (older opsets) or as input `i`; None where not constant."""
        if name in self.node.attrs:
            got = self.node.attrs[name]
            return [got] if isinstance(got, int) else list(got)
        got = self.value(i)
        if got is None or not all(isinstance(v, (int, np.integer)) for v in np.ravel(got)):
            self._read.discard(i)  # extents among them are data then
            return None
        return [int(v) for v in np.ravel(got)]

    def axis(self, default: int = 0, rank: int | None = None, name: str = "axis") -> int:
        rank = len(self.ax(0)) if rank is None else rank
        k = self.attr(name, default)
        if not isinstance(k, int) or not -rank <= k < max(rank, 1):
            raise DimensionError(
                f"{name} is out of range", node=self.node.name, expected=f"{-rank} to {rank - 1}", found=k
            )
        return k % rank if rank else 0

    def _passes(self, a: Axis) -> bool:
        """Whether `a` is an axis of a followed integer tensor that is an output in turn: its reader decides."""
        if not any(t.name in self.analysis.values for t in self.node.outputs):
            return False
        outs = {x for axes in self.outs.values() for axis in axes for x in atoms(axis)}
        return all(x in outs for x in atoms(a))

    # what the row states

    def tie(self, a: Axis, b: Axis, i: int, d: int) -> None:
        """Axis `d` of input `i`, which is `a`, and `b` are one."""
        try:
            tie(a, b, f"axes that do not factor alike at {self.node.name}")
        except Conflict as e:
            name = self.node.inputs[i].name
            raise DimensionError(
                f"{self.node.op} does not fit", node=self.node.name, tensor=name, axis=d, expected=e.b, found=e.a
            ) from None

    def bind(self, i: int, *axes: Axis) -> None:
        """Input `i`, if given, has exactly these axes."""
        if not self.has(i):
            return
        have = self.ax(i)
        if len(have) != len(axes):
            raise DimensionError(
                f"{self.node.op} does not fit",
                node=self.node.name,
                tensor=self.node.inputs[i].name,
                expected=f"rank {len(axes)}",
                found=f"rank {len(have)}",
            )
        for d, (a, b) in enumerate(zip(have, axes, strict=True)):
            self.tie(a, b, i, d)

    def rank(self, i: int, n: int) -> Axes:
        """The axes of input `i`, which must be at least `n`."""
        axes = self.ax(i)
        if len(axes) < n:
            raise DimensionError(
                f"{self.node.op} does not fit",
                node=self.node.name,
                tensor=self.node.inputs[i].name,
                expected=f"rank {n} or more",
                found=f"rank {len(axes)}",
            )
        return axes

    def divide(self, i: int, d: int, *sizes: int) -> Axes:
        """Axis `d` of input `i` as a product of fresh axes with these extents, or an error."""
        parts = tuple(Atom(s) for s in sizes)
        self.tie(self.ax(i)[d], Prod(parts), i, d)
        return parts

    def out(self, axes: Sequence[Axis], j: int = 0) -> None:
        self.outs[j] = tuple(axes)

    def fix(self, *axes: Axis, why: str = "") -> None:
        """Freeze these axes."""
        for a in axes:
            freeze(a, f"{self.node.op} {self.node.name}{': ' + why if why else ''}")

    def statistic(self, *axes: Axis, kind: str = "statistic") -> None:
        """A statistic is taken over these axes: they may shrink, but removing is then not the same as zeroing."""
        for a in axes:
            soften(a, kind, f"{self.node.op} {self.node.name}")

    def balance(self, parts: Sequence[Axis]) -> None:
        """These axes must keep equally many indices."""
        self.analysis.balanced.append(tuple(parts))

    def fixed(self, size: Extent, why: str = "") -> Atom:
        """A fresh axis that must not change."""
        return Atom(size, f"{self.node.op} {self.node.name}{': ' + why if why else ''}")

    def contract(self, i: int, d: int, zero_point: int | None = None) -> None:
        """Axis `d` of input `i` is summed over; `zero_point` is the input that holds the zero of a quantised tensor."""
        self.facts.contracted.append((i, d))
        if zero_point is not None:
            self.facts.zero_points[i] = zero_point

    def operand(self, i: int, template: list) -> None:
        """Input `i` is a shape operand that follows these axes."""
        self._read.add(i)
        self.facts.operands[i] = template

    def follow(self, name: str, template) -> None:
        """Attribute `name` follows an axis, or a list of axes and integers."""
        self.facts.attrs[name] = template

    def iterate(self, *axes: Axis) -> None:
        self.facts.iteration = list(axes)

    def result(self, values: np.ndarray | None, j: int = 0) -> None:
        """Output `j` is a small integer tensor with these contents."""
        if values is not None and values.size <= VALUE_LIMIT:
            self.analysis.values[self.node.outputs[j].name] = values


Row = Callable[[Use], None]
ROWS: dict[str, Row] = {}
"""The operator table: standard operator -> row. Rows of `ai.onnxc` functions stand under `ai.onnxc.Name`."""


def row(*ops: str) -> Callable[[Row], Row]:
    """Enter a function into the table for these operators."""

    def enter(f: Row) -> Row:
        for op in ops:
            ROWS[op] = f
        return f

    return enter


def key_of(node: gs.Node) -> str:
    """The table's key for a node: the operator, with its domain where that is not the standard one."""
    return node.op if node.domain in STANDARD else f"{node.domain}.{node.op}"


def analyse(model: Model, prepare: Callable[[Analysis, gs.Node], None] | None = None) -> Analysis:
    """Tie all axes of `model`. Raises DimensionError, naming node and tensor[axis], where two uses disagree.

    prepare: called with the analysis so far and each node before it is read; it may change that node's constants and
    attributes to fit what reaches it.
    """
    from . import ops  # noqa: F401  the rows enter themselves

    result = Analysis(model)
    for t in model.inputs:
        result.axes[t.name] = None if t.shape is None else tuple(Atom(d, "graph input") for d in t.shape)
    for node in model.nodes:
        if prepare is not None:
            prepare(result, node)
        _visit(result, node)
    for t in model.outputs:
        _check_output(result, t)
    return result


def _visit(result: Analysis, node: gs.Node) -> None:
    for i, t in enumerate(node.inputs):
        if isinstance(t, gs.Constant):
            result.uses[node.name, i] = tuple(map(Atom, t.values.shape))
    use = Use(result, node)
    entry = ROWS.get(key_of(node))
    if entry is None:
        _unknown(use, f"{key_of(node)} {node.name} has no row in the operator table")
    else:
        try:
            entry(use)
        except Unreadable as e:
            use = Use(result, node)
            _unknown(use, f"{node.op} {node.name}: {e}")
        except (ArithmeticError, LookupError, ValueError) as e:
            # attributes or ranks that the operator does not allow: strict inference has the last word
            use = Use(result, node)
            _unknown(use, f"{node.op} {node.name}: it makes no sense ({e})")
    for i, t in enumerate(node.inputs):
        # a tensor of extents that goes anywhere but into a shape operand makes these extents data
        if i not in use._read and not isinstance(t, gs.Constant):
            _freeze_values(result, t.name, f"its extent is used as data by {node.op} {node.name}")
        # the elements of a shape operand, and whatever the row says nothing about, stay
        if i in use._read or i not in use._seen:
            for a in result.of(node, i) or ():
                if i not in use._read or not use._passes(a):
                    freeze(a, f"input {i} of {node.op} {node.name}")
    for j, t in enumerate(node.outputs):
        if t.name:
            result.axes[t.name] = use.outs.get(j)
    result.facts[node.name] = use.facts


def _freeze_values(result: Analysis, name: str, reason: str) -> None:
    values = result.values.get(name)
    if values is not None:
        for v in values.ravel():
            if isinstance(v, (Atom, Prod, Sum)):
                freeze(v, reason)


def _unknown(use: Use, reason: str) -> None:
    node, analysis = use.node, use.analysis
    use.facts.known = False
    for i in range(len(node.inputs)):
        for a in analysis.of(node, i) or ():
            freeze(a, reason)
    for j, t in enumerate(node.outputs):
        shape = analysis.inferred(t.name) if t.name else None
        if shape is None and t.name in analysis.model.declared:
            shape = proto_shape(analysis.model.declared[t.name])
        if shape is not None:
            use.outs[j] = tuple(Atom(d, reason) for d in shape)


def _check_output(result: Analysis, t) -> None:
    axes = result.axes.get(t.name)
    _freeze_values(result, t.name, "its extent is a graph output")
    if axes is None:
        return
    for a in axes:
        freeze(a, "graph output")
    declared = t.shape if isinstance(t, gs.Variable) else None
    if declared is None:
        return
    if len(declared) != len(axes):
        raise DimensionError(
            "a graph output has another rank than declared", tensor=t.name, expected=len(declared), found=len(axes)
        )
    for d, (want, a) in enumerate(zip(declared, axes, strict=True)):
        have = extent(a)
        if isinstance(want, int) and isinstance(have, int) and want != have:
            raise DimensionError(
                "a graph output has another extent than declared", tensor=t.name, axis=d, expected=want, found=have
            )


# changes: masks on atoms -> new weights, attributes and shape operands


def apply_masks(model: Model, analysis: Analysis, keep: Mapping[Atom, np.ndarray]) -> int:
    """Cut every initialiser, attribute and shape operand of `model` to the indices that `keep` leaves; returns how many
    initialisers changed. `analysis` must be of this very model. One whose uses get different masks is split."""
    changed = 0
    plans: dict[str, list[tuple[gs.Node, int, np.ndarray]]] = {}
    made: dict[tuple, np.ndarray] = {}
    for node in model.nodes:
        facts = analysis.facts[node.name]
        for i, t in enumerate(node.inputs):
            if not isinstance(t, gs.Constant):
                continue
            if i in facts.operands:
                new = _render_operand(t.values, facts.operands[i], keep)
            else:
                new = _cut(t, analysis.uses[node.name, i], keep, made)
            plans.setdefault(t.name, []).append((node, i, new))
        for name, template in facts.attrs.items():
            if _follows(template, keep):
                node.attrs[name] = _render(template, keep)
    for uses in plans.values():
        old = uses[0][0].inputs[uses[0][1]]
        first = uses[0][2]
        if all(new is old.values for _, _, new in uses):
            continue
        changed += 1
        if all(new is first or _equal_cut(new, first, old.values) for _, _, new in uses) and not model.is_output(old):
            old.values = first
            continue
        for node, i, new in uses:
            if new is not old.values:
                model.set_weight(node, i, new)
    return changed


def _equal_cut(a: np.ndarray, b: np.ndarray, old: np.ndarray) -> bool:
    return a is not old and b is not old and a.shape == b.shape and a.nbytes <= 1 << 16 and np.array_equal(a, b)


def _cut(t: gs.Constant, axes: Axes, keep: Mapping[Atom, np.ndarray], made: dict) -> np.ndarray:
    values = t.values
    if any(type(find(a)) is Aligned and touched(a, keep) for a in axes):
        return _cut_blocks(values, axes, keep)
    cuts = [(d, mask(a, keep)) for d, a in enumerate(axes) if touched(a, keep)]
    cuts = [(d, m) for d, m in cuts if not m.all()]
    if not cuts:
        return values
    key = (t.name, *((d, m.tobytes()) for d, m in cuts))
    if key not in made:
        for d, m in cuts:
            values = np.compress(m, values, axis=d)
        values = np.ascontiguousarray(values)
        values.flags.writeable = False
        made[key] = values
    return made[key]


def _cut_blocks(values: np.ndarray, axes: Axes, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    """Cut a grouped weight [g·o, c, ...], where every block along the first axis keeps channels of its own."""
    blocks = find(axes[1]).parts
    rows = np.split(mask(axes[0], keep), len(blocks))
    pieces = []
    for block, row, part in zip(np.split(values, len(blocks)), rows, blocks, strict=True):
        column = mask(part, keep)
        if row.any() and column.any():
            pieces.append(np.compress(column, np.compress(row, block, axis=0), axis=1))
    values = np.concatenate(pieces)
    for d, a in enumerate(axes[2:], 2):
        if touched(a, keep):
            values = np.compress(mask(a, keep), values, axis=d)
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


class Count:
    """A template: how many of these axes keep any index."""

    def __init__(self, parts: Sequence[Axis]):
        self.parts = tuple(parts)


class Minus:
    """A template: the extent of this axis below zero, as a bound that counts from the end."""

    def __init__(self, axis: Axis):
        self.axis = axis


def _render(template, keep: Mapping[Atom, np.ndarray]):
    if isinstance(template, (list, tuple)):
        return [_render(v, keep) for v in template]
    if isinstance(template, Minus):
        return -kept(template.axis, keep)
    if isinstance(template, Count):
        return sum(kept(p, keep) > 0 for p in template.parts)
    return kept(template, keep) if isinstance(template, (Atom, Prod, Sum)) else int(template)


def _follows(template, keep: Mapping[Atom, np.ndarray]) -> bool:
    if isinstance(template, (list, tuple)):
        return any(_follows(v, keep) for v in template)
    if isinstance(template, Count):
        return any(touched(p, keep) for p in template.parts)
    if isinstance(template, Minus):
        return touched(template.axis, keep)
    return isinstance(template, (Atom, Prod, Sum)) and touched(template, keep)


def _render_operand(old: np.ndarray, template: list, keep: Mapping[Atom, np.ndarray]) -> np.ndarray:
    if not _follows(template, keep):
        return old
    new = np.asarray(_render(template, keep), old.dtype).reshape(old.shape)
    if np.array_equal(new, old):
        return old
    new.flags.writeable = False
    return new


def constant_attribute(node: gs.Node, name: str = "value") -> np.ndarray | None:
    """The array of a TENSOR attribute of `node`."""
    value = node.attrs.get(name)
    return value if isinstance(value, np.ndarray) else attribute_array(value)


def describe(axes: Axes | None) -> str:
    """`[N, 3·8, 16+16, ?]`"""
    return "?" if axes is None else "[" + ", ".join(map(show, axes)) + "]"
