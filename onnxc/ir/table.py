"""The operator table's own words: the facts of a node, what a row sees and states (`Use`), and the rows by operator.

The rows themselves stand in `onnxc.ir.ops`, a file for each kind of operator; the walk that calls them in `analysis`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .axes import Atom, Axis, Conflict, Extent, Prod, Sum, atoms, extent, find, freeze, soften
from .errors import DimensionError
from .faults import ONNX_ERRORS
from .inference import infer
from .model import STANDARD, Model
from .unify import split_sum, tie

Axes = tuple[Axis, ...]
VALUE_LIMIT = 64
"""Integer tensors up to this many elements are followed as possible shape operands."""


PARTS, ALL_PARTS = 4096, 1 << 21
"""Parts of one sum at most, and of all sums of a model together; what has more is one frozen axis. `Concat(x, x)` a few
times over has more parts than any memory, and a chain of n concats, or of n slices, has n * n / 2."""
MANY = "a sum of too many parts"
FEW = 64
"""Parts of a sum that are followed in any case."""
LONG = 1 << 16
"""Elements of a vector beyond which it is no shape."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


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
    parts: how many parts the sums that were joined or cut have, all together.
    unfit: why the model does not take `Model.shapes`, once `sizes` has been asked for; "" where it does.
    """

    def __init__(self, model: Model):
        self.model = model
        self.axes: dict[str, Axes | None] = {}
        self.uses: dict[tuple[str, int], Axes] = {}
        self.values: dict[str, np.ndarray] = {}
        self.facts: dict[str, Facts] = {}
        self.balanced: list[Axes] = []
        self.parts = 0
        self.unfit = ""
        self._inferred: dict[str, tuple[Extent, ...] | None] | None = None
        self.measure: Callable[[Analysis], dict[Axis, int]] = lambda analysis: {}

    @cached_property
    def sizes(self) -> dict[Axis, int]:
        """Extents, at `Model.shapes`, of the axes that are no numbers; looked up once, when first asked."""
        return self.measure(self)

    def of(self, node: gs.Node, i: int) -> Axes | None:
        """The axes of input `i` of `node`; None where there is no such input or its rank is unknown."""
        if i >= len(node.inputs) or not node.inputs[i].name:
            return None
        t = node.inputs[i]
        return self.uses.get((node.name, i)) if isinstance(t, gs.Constant) else self.axes.get(t.name)

    def known(self, tensor: str) -> tuple[Axis, ...]:
        """The axes of a tensor whose rank is known."""
        axes = self.axes.get(tensor)
        assert axes is not None, f"{tensor} has an unknown rank"
        return axes

    def shape(self, tensor: str) -> tuple[Extent, ...] | None:
        """The extents of a variable; None where the rank is unknown."""
        axes = self.axes.get(tensor)
        return None if axes is None else tuple(map(extent, axes))

    def inferred(self, tensor: str) -> tuple[Extent, ...] | None:
        """The shape that ONNX's inference gives, for what the table does not know. Runs once, when first asked."""
        if self._inferred is None:
            skeleton = self.model.to_proto(weights=False)
            follow_no_weights(skeleton.graph, {t.name for t in self.model.inputs})
            try:
                graph = followed(skeleton)
            except ONNX_ERRORS:
                graph = skeleton.graph  # `verify` runs it strictly and says what is wrong
            self._inferred = {v.name: proto_shape(v) for v in (*graph.value_info, *graph.output)}
        return self._inferred.get(tensor)

    def all_axes(self) -> Iterator[Axis]:
        for axes in (*self.axes.values(), *self.uses.values()):
            yield from axes or ()


def proto_shape(info: onnx.ValueInfoProto) -> tuple[Extent, ...] | None:
    """The declared shape of a ValueInfoProto; None where it has none."""
    if info.type.WhichOneof("value") != "tensor_type" or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None) for d in dims)


def followed(skeleton: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the shapes that ONNX infers, contents of shape tensors followed unless a vector is too long for that."""
    graph = infer(skeleton).graph
    if long_vectors(proto_shape(v) for v in (*graph.input, *graph.value_info, *graph.output)):
        return graph
    return infer(skeleton, data_prop=True).graph


def long_vectors(shapes: Iterable[tuple[Extent, ...] | None]) -> bool:
    """Whether ONNX's inference must not follow contents here: it writes out every element of a vector that Concat
    makes, some 100 bytes each, whatever the type."""
    return any(s is not None and len(s) == 1 and isinstance(s[0], int) and s[0] > LONG for s in shapes)


def follow_no_weights(graph: onnx.GraphProto, given: Collection[str]) -> None:
    """Make initialisers without data of the vectors of floats among a skeleton's inputs but `given`, for inference only.

    Inference follows the contents of vectors, lest they be shapes: of inputs it writes out every element, some 100 bytes
    each, again for every node that reads them. Of initialisers it reads integers alone.
    """
    kept = []
    for info in graph.input:
        kind, shape = info.type.tensor_type.elem_type, proto_shape(info)
        if info.name not in given and kind in FLOATS and shape is not None and len(shape) == 1:
            graph.initializer.add(name=info.name, data_type=kind, dims=shape)
        else:
            kept.append(info)
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


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

    def known(self, i: int) -> np.ndarray | None:
        """The contents of input `i` where another node computed them from shapes; as `value`."""
        return self.value(i) if self.node.inputs[i].name in self.analysis.values else None

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

    def tie(self, a: Axis, b: Axis, i: int | None, d: int) -> None:
        """Axis `d` of input `i`, which is `a`, and `b` are one. i: None where no input holds `a`."""
        try:
            tie(a, b, f"axes that do not factor alike at {self.node.name}")
        except Conflict as e:
            name = self.node.inputs[i].name if i is not None else None
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

    def join(self, *parts: Axis) -> Axis:
        """These axes one behind the other: sums among them are taken apart, so that a chain of joins does not nest."""
        flat: list[Axis] = []
        for a in map(find, parts):
            flat += a.parts if type(a) is Sum else [a]
        joined = flat[0] if len(flat) == 1 else Sum(flat)
        return self.fixed(extent(joined), MANY) if self._too_many(len(flat), joined) else joined

    def cut(self, a: Axis, *sizes: int) -> tuple[Axis, ...] | None:
        """Consecutive ranges of `a` of these sizes; None where a cut would split a product."""
        pieces = split_sum(a, sizes)
        if pieces is None or len(sizes) == 1:
            return pieces
        depth = max(p.cuts if isinstance(p, Atom) else len(p.parts) for p in map(find, pieces))
        return tuple(self.fixed(s, MANY) for s in sizes) if self._too_many(depth, a) else pieces

    def _too_many(self, parts: int, a: Axis) -> bool:
        """Whether so many parts of a sum are not followed any more: `a` is frozen then."""
        self.analysis.parts += parts
        if parts <= PARTS and (parts <= FEW or self.analysis.parts <= ALL_PARTS):
            return False
        self.fix(a, why=MANY)
        return True

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
