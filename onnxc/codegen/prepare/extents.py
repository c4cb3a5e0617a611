"""Tensors whose lengths data decide: held at the most that they can be, beside numbers that say how much of it counts.

    y = NonZero(x [n])   ->   y [1, n], of which the first m columns count; m is a scalar of the program
    Gather(t, y)         ->   Gather(t, Where(column < m, y, 0)), of which m count too

What counts of an axis comes first. Operators that take elements one by one compute the rest too, and nobody looks at it; where the rest
would matter (sums, indices) it is masked. So all kernels stay those of static shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.build import Build
from onnxc.codegen.prepare.numbers import Num
from onnxc.codegen.prepare.walk import EXTENTS, MOST_ELEMENTS, STANDARD, Scope, Walk
from onnxc.ir.errors import Unsupported

Result = Sequence[str | None] | None


class Undecided(Unsupported):
    """A refusal for a length that data decide: no number that is fixed makes it known."""


@dataclass(frozen=True)
class Extent:
    """How much of an axis counts: what is known of the number, and the scalar of int64 that it is."""

    num: Num
    scalar: str = field(compare=False)


Extents = tuple[Extent | None, ...]
"""For each axis of a tensor; None where all of it counts."""
RULES: dict[str, Callable[[Sized], Result]] = {}
"""By operator: the outputs of a node that reads or makes such tensors, or None where it makes none and is to stay as it is."""


def rule(*operators: str) -> Callable:
    """Enters a function into the table for these operators."""

    def enter(made: Callable[[Sized], Result]) -> Callable:
        RULES.update(dict.fromkeys(operators, made))
        return made

    return enter


def open_extents(walk: Walk, node: onnx.NodeProto) -> Result:
    """What stands for the outputs of a node that reads or makes tensors whose lengths data decide; None for others."""
    if walk.bare or walk.trial or node.domain == EXTENTS:
        return None
    found = RULES.get(node.op_type) if node.domain in STANDARD else None
    sized = [name for name in node.input if name in walk.actual]
    if found is None and not sized:
        return None
    build = Sized(walk, node)
    if found is None:
        raise build.refusal("it reads a tensor whose length data decide", tensor=sized[0])
    return found(build)


@contextmanager
def bare(walk: Walk) -> Iterator[None]:
    """Nodes that are visited within take tensors as they are held."""
    walk.bare += 1
    try:
        yield
    finally:
        walk.bare -= 1


class Sized(Build):
    """Makes what stands for a node, of tensors as they are held."""

    def several(self, op: str, count: int, *inputs: str | None, **attributes) -> list[str]:
        """The `count` outputs of a new node."""
        with bare(self.walk):
            return super().several(op, count, *inputs, **attributes)

    def own(self, op: str, *inputs: str, types: Sequence[tuple[int, Sequence[int]]]) -> list[str]:
        """The results, of these types, of an operator of ours (`operators/extents.py`)."""
        kinds = [helper.make_tensor_type_proto(kind, list(shape)) for kind, shape in types]
        outputs = [self.walk.fresh(f"{self.node.name}/{op}") for _ in types]
        self.walk.keep(helper.make_node(op, list(inputs), outputs, name=self.node.name, domain=EXTENTS, types=kinds))
        return outputs

    def refusal(self, why: str, tensor: str | None = None, remedy: str | None = None) -> Unsupported:
        """The error that names the node."""
        made = super().refusal(why, tensor, remedy or "compile the part of the model before this node")
        return (
            Undecided(made.what, node=made.node, tensor=tensor, remedy=made.remedy)
            if tensor in self.walk.actual
            else made
        )

    # extents

    def extents(self, name: str) -> Extents:
        """How much of each axis of a tensor counts."""
        found = self.walk.actual.get(name)
        return (None,) * len(self.shape(name)) if found is None else found

    def mark(self, name: str, extents: Sequence[Extent | None]) -> str:
        """`name`, of which this much counts; of an operand another tensor, as what counts of that stays what it is."""
        if name in self.node.input and tuple(extents) != self.extents(name):
            source, name = name, self.walk.fresh(f"{self.node.name}/cut")
            self.walk.keep(helper.make_node("Identity", [source], [name], name=self.node.name))
        if any(one is not None for one in extents):
            self.walk.actual[name] = tuple(extents)
        return name

    def node_as_it_is(
        self, extents: Sequence[Sequence[Extent | None]], inputs: Sequence[str] | None = None
    ) -> list[str]:
        """The node on its inputs as they are held (or on others), and how much counts of its results."""
        made = onnx.NodeProto()
        made.CopyFrom(self.node)
        if inputs is not None:
            made.input[:] = inputs
        made.output[:] = [self.walk.fresh(name) if name else "" for name in self.node.output]
        inner: dict[str, str] = {}
        with bare(self.walk):
            self.walk.visit(made, inner)
        self.read.update(a.name for a in self.node.attribute)
        return [self.mark(inner.get(name, name), one) for name, one in zip(made.output, extents)]

    def nums(self, name: str | None) -> tuple[Num, ...] | None:
        """What is known of the elements of a small tensor."""
        return self.walk.numbers.of(self.walk, name) if name else None

    def scalar(self, n: Num) -> str:
        """A scalar of int64 with this value."""
        if not n.symbol:
            return self.constant(n.offset, np.int64)
        name, i = self.walk.numbers.sources[n.symbol]
        flat = self.cast(self.reshape(name, (prod(self.shape(name)),)), "int64")
        one = self("Gather", flat, self.constant(i, np.int64), axis=0)
        return one if not n.offset else self("Add", one, self.constant(n.offset, np.int64))

    def extent(self, n: Num, bound: int) -> Extent:
        """An extent that is a number of the model, which is told to be out of range above `bound`."""
        numbers = self.walk.numbers
        numbers.most[self.node.name] = max(bound, numbers.most.get(self.node.name, 0))
        if numbers.low(n) >= 0 and numbers.high(n) <= bound:
            return Extent(n, self.scalar(n))
        one, none, over = self.scalar(n), self.constant(0, np.int64), self.constant(bound + 1, np.int64)
        one = one if numbers.low(n) >= 0 else self("Where", self("Less", one, none), over, one)
        held = self("Gather", self.constant(np.arange(bound + 1), np.int64), one, axis=0)
        if n.symbol and not numbers.within:
            numbers.narrow(n.symbol, -n.offset, bound - n.offset)
        return Extent(n, held)

    def counted(self, scalar: str, bound: int) -> Extent:
        """An extent that is a new scalar between 0 and `bound`."""
        self.walk.numbers.most[self.node.name] = bound
        return Extent(self.walk.numbers.fresh(scalar, 1, [(0, bound)])[0], scalar)

    def bound(self, n: Num, most: int | None = None) -> int:
        """The most that an extent can be. Raises Unsupported where that is not known."""
        high = self.walk.numbers.high(n)
        high = high if most is None else min(high, most)
        if high > MOST_ELEMENTS:
            raise self.refusal("how large its result can be is computed at run time, and has no bound")
        return max(high, 0)

    def larger(self, a: str, b: str) -> str:
        """The larger of two numbers of int64; Max knows floats alone before opset 12."""
        return self("Where", self("Less", a, b), b, a)

    def smaller(self, a: str, b: str) -> str:
        """The smaller of two numbers of int64."""
        return self("Where", self("Less", a, b), a, b)

    def whole(self, name: str | None, why: str = "operands") -> list[int]:
        """Constant whole numbers. Raises Unsupported where they are computed."""
        found = self.nums(name)
        if found is None or any(n.symbol for n in found):
            raise self.refusal(f"its {why} are computed at run time", tensor=name)
        return [n.offset for n in found]

    def whole_numbers(self, name: str) -> bool:
        """Whether a tensor holds whole numbers or truth values, which have no infinity."""
        return helper.tensor_dtype_to_np_dtype(self.walk.element(name)).kind in "biu"

    # masks

    def column(self, axis: int, rank: int, bound: int) -> str:
        """The index along an axis, as int64 with the other axes of extent 1."""
        return self.constant(np.arange(bound).reshape([-1 if a == axis else 1 for a in range(rank)]), np.int64)

    def counts(self, name: str, axes: Sequence[int] | None = None) -> str | None:
        """Which elements of a tensor count, along some axes or all: booleans that broadcast to it. None for all."""
        shape, mask = self.shape(name), None
        for axis, extent in enumerate(self.extents(name)):
            if extent is not None and (axes is None or axis in axes):
                one = self("Less", self.column(axis, len(shape), shape[axis]), extent.scalar)
                mask = one if mask is None else self("And", mask, one)
        return mask

    def masked(self, name: str, fill: float, axes: Sequence[int] | None = None) -> str:
        """A tensor with `fill` where nothing counts."""
        mask = self.counts(name, axes)
        return name if mask is None else self("Where", mask, name, self.like(fill, name))

    def vector(self, shape: Sequence[int], extents: Sequence[Extent | None]) -> str:
        """The extents of a tensor as a vector of int64."""
        parts = [
            self.constant([bound], np.int64) if extent is None else self.reshape(extent.scalar, (1,))
            for bound, extent in zip(shape, extents)
        ]
        made = self("Concat", *parts, axis=0) if parts else self.constant(np.zeros(0), np.int64)
        numbers = self.walk.numbers
        if made not in self.walk.constants:
            numbers.known[made] = tuple(Num("", b) if e is None else e.num for b, e in zip(shape, extents))
        return made

    def product(self, shape: Sequence[int], extents: Sequence[Extent | None]) -> Extent:
        """How many elements of a tensor count."""
        moving = [extent for extent in extents if extent is not None]
        still = prod(bound for bound, extent in zip(shape, extents) if extent is None)
        if len(moving) == 1 and still == 1:
            return moving[0]
        total = self.constant(still, np.int64)
        for extent in moving:
            total = self("Mul", total, extent.scalar)
        key = " * ".join([str(still), *sorted(str(extent.num) for extent in moving)])
        made = self.walk.numbers.composed(key, (total, 0), 0, prod(shape))
        self.walk.numbers.known[total] = (made,)
        return Extent(made, total)

    def packed(self, name: str) -> tuple[str, Extent]:
        """The elements of a tensor that count, side by side in a vector, and how many they are."""
        shape, extents = self.shape(name), self.extents(name)
        first = next(i for i, extent in enumerate(extents) if extent is not None)
        total = self.product(shape, extents)
        if prod(shape[:first]) == 1 and all(extent is None for extent in extents[first + 1 :]):
            return self.reshape(name, (prod(shape),)), total
        (flat,) = self.own("Pack", name, self.vector(shape, extents), types=[(self.walk.element(name), (prod(shape),))])
        return flat, total


def give_outputs(walk: Walk, graph: onnx.GraphProto, outer: Scope) -> dict[str, str]:
    """Makes the outputs of a graph that has been visited, where `outer` says what its names mean: by the names of those whose lengths
    data decide new outputs that hold their extents. What counts of them comes first, side by side."""
    lengths = {}
    for value in list(graph.output):
        source = outer.get(value.name, value.name)
        if source in walk.actual:
            build = Sized(walk, onnx.NodeProto(name=f"output {value.name}", op_type="Identity"))
            shape, extents = walk.shape(source) or (), walk.actual[source]
            lengths[value.name] = walk.fresh(f"{value.name}.shape")
            found, most = build.vector(shape, extents), build.constant(shape, np.int64)
            kept = build("Where", build("Less", found, most), found, most)  # whatever a run finds, within the tensor
            walk.keep(helper.make_node("Identity", [kept], [lengths[value.name]], name=f"shape of {value.name}"))
            source = build.reshape(build.packed(source)[0], shape)
        if source in walk.constants:
            walk.constants[value.name] = walk.constants[source]
        elif source != value.name:
            walk.keep(helper.make_node("Identity", [source], [value.name], name=f"output {value.name}"))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in lengths.values())
    return lengths
