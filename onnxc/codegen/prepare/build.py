"""New nodes in the place of one: each is visited at once, so that its type is known and constants are computed.

b = Build(walk, node)
y = b("Mul", x, b("Sigmoid", x))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.stored import Lazy
from onnxc.codegen.prepare.walk import Scope, Walk, attributes_of
from onnxc.ir.errors import Unsupported


@dataclass
class Build:
    """Makes what stands for `node`."""

    walk: Walk
    node: onnx.NodeProto
    read: set[str] = field(default_factory=set)  # names of the attributes that were asked for

    def __call__(self, op: str, *inputs: str | None, **attributes) -> str:
        """The output of a new node of a standard operator. An attribute None is left out."""
        return self.several(op, 1, *inputs, **attributes)[0]

    def several(self, op: str, count: int, *inputs: str | None, **attributes) -> list[str]:
        """The `count` outputs of a new node."""
        stem = f"{self.node.name}/{op}"
        given = {name: value for name, value in attributes.items() if value is not None}
        outputs = [self.walk.fresh(stem) for _ in range(count)]
        made = helper.make_node(op, [name or "" for name in inputs], outputs, name=stem, **given)
        inner: Scope = {}
        self.walk.visit(made, inner)
        return [inner.get(name, name) for name in outputs]

    def constant(self, values, dtype=None) -> str:
        """A new constant."""
        held = values if isinstance(values, Lazy) and dtype is None else np.asarray(values, dtype)
        return self.walk.constant(held, f"{self.node.name}/constant")

    def like(self, values, other: str) -> str:
        """A new constant of the type of the tensor `other`."""
        return self.constant(values, helper.tensor_dtype_to_np_dtype(self.walk.element(other)))

    def attribute(self, name: str, default=None):
        """The value of an attribute of the node."""
        self.read.add(name)
        return attributes_of(self.node).get(name, default)

    def attributes(self) -> dict:
        """All attributes of the node, for an operator that knows them."""
        found = attributes_of(self.node)
        self.read.update(found)
        return found

    def unread(self) -> list[str]:
        """The attributes that nobody has asked for."""
        return [a.name for a in self.node.attribute if a.name not in self.read]

    def input(self, i: int) -> str | None:
        """An input of the node, None where it is left out."""
        return (self.node.input[i] or None) if i < len(self.node.input) else None

    def needs(self, i: int) -> str:
        """An input that the operator cannot do without. Raises Unsupported where it is left out."""
        name = self.input(i)
        if name is None:
            raise self.refusal(f"input {i} is left out", remedy="give it: ONNX Runtime refuses the model too")
        return name

    def wants(self, i: int) -> bool:
        """Whether the node names output `i`."""
        return i < len(self.node.output) and bool(self.node.output[i])

    def known(self, name: str | None) -> np.ndarray | None:
        """The values of a tensor if it is constant."""
        return None if name is None else self.walk.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor. Raises Unsupported where they depend on data."""
        found = self.walk.shape(name)
        if found is None:
            raise self.refusal("a tensor that it reads has a shape that depends on data", tensor=name)
        return found

    def refusal(self, why: str, tensor: str | None = None, remedy: str | None = None) -> Unsupported:
        """The error that names the node."""
        remedy = remedy or "compile the part of the model without this node"
        return Unsupported(f"operator {self.node.op_type}: {why}", node=self.node.name, tensor=tensor, remedy=remedy)

    def reshape(self, x: str, shape) -> str:
        """x in another shape."""
        return x if self.walk.shape(x) == tuple(shape) else self("Reshape", x, self.constant(shape, np.int64))

    def transpose(self, x: str, *perm: int) -> str:
        """x with its axes in another order."""
        return x if list(perm) == list(range(len(perm))) else self("Transpose", x, perm=list(perm))

    def cut(self, x: str, axis: int, start: int, end: int) -> str:
        """x[..., start:end, ...] on one axis."""
        extents = self.shape(x)
        if (start, end) == (0, extents[axis]):
            return x
        if self.walk.opset < 10:
            return self("Slice", x, starts=[start], ends=[end], axes=[axis])
        return self("Slice", x, *(self.constant([v], np.int64) for v in (start, end, axis)))

    def mean(self, x: str, axis: int) -> str:
        """The mean along an axis, which stays with extent 1."""
        if self.walk.opset < 18:
            return self("ReduceMean", x, axes=[axis], keepdims=1)
        return self("ReduceMean", x, self.constant([axis], np.int64), keepdims=1)

    def equal(self, x: str, number: float) -> str:
        """Whether elements are a number, which no NaN is. Equal knows no floats before opset 11."""
        other = self.like(number, x)
        if self.walk.opset >= 11 or helper.tensor_dtype_to_np_dtype(self.walk.element(x)).kind != "f":
            return self("Equal", x, other)
        apart = self("Or", self("Less", x, other), self("Greater", x, other))
        return self("Not", apart if self.walk.opset < 9 else self("Or", apart, self("IsNaN", x)))

    def cast(self, x: str, dtype: str | int) -> str:
        """x in another type, given by name or as ONNX's number."""
        kind = dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return x if self.walk.element(x) == kind else self("Cast", x, to=kind)


Rewrite = Callable[[Build], "str | Sequence[str | None] | None"]
REWRITES: dict[tuple[str, str], Rewrite] = {}
"""(domain, operator) -> what makes its outputs of standard operators, or None where the node is to stay as it is."""


def rewrites(*operators: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    """Enters a function into the table for these operators."""

    def enter(made: Rewrite) -> Rewrite:
        for operator in operators:
            REWRITES[domain, operator] = made
        return made

    return enter
