"""The static plan: TVM's flat, memory-planned main as a list of C calls over inputs, outputs, arena and weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxc.codegen.tvm_api import name_of, tvm_modules
from onnxc.ir.errors import Unsupported

ALIGN = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor lives: `space` is input, output, arena or weight; `offset` a number of it, or bytes into it."""

    space: str
    offset: int


@dataclass
class Plan:
    """`calls`: (function, places) in order. `copies`: (output, place, bytes) that no kernel writes itself."""

    calls: list[tuple[str, list[Place]]] = field(default_factory=list)
    copies: list[tuple[int, Place, int]] = field(default_factory=list)
    arena: int = 0
    weights: list[np.ndarray] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    weight_bytes: int = 0

    def add_weight(self, array: np.ndarray) -> Place:
        """Places an array, 64-byte aligned."""
        offset = aligned(self.weight_bytes)
        self.weights.append(array)
        self.offsets.append(offset)
        self.weight_bytes = offset + array.nbytes
        return Place("weight", offset)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes of the weights, in order, with the padding between them."""
        end = 0
        for array, offset in zip(self.weights, self.offsets, strict=True):
            yield b"\0" * (offset - end)
            yield memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            end = offset + array.nbytes


def aligned(count: int) -> int:
    """`count` bytes rounded up to the alignment."""
    return -(-count // ALIGN) * ALIGN


def make_plan(main, inputs: int, arrays: list[np.ndarray]) -> Plan:
    """The plan of a finished Relax main whose parameters are `inputs` inputs and then `arrays`.

    Raises Unsupported for run-time operators that a library without TVM cannot call.
    """
    return _Planner(main, inputs, arrays).run()


class _Planner:
    def __init__(self, main, inputs: int, arrays: list[np.ndarray]):
        self.main, self.inputs, self.arrays = main, inputs, arrays
        self.plan = Plan()
        self.places: dict = {}
        self.storages: dict = {}
        self.tuples: dict = {}
        self.aliases: dict = {}

    def run(self) -> Plan:
        relax = tvm_modules().relax
        for i, param in enumerate(self.main.params):
            array = None if i < self.inputs else self.arrays[i - self.inputs]
            self.places[param] = Place("input", i) if array is None else self.plan.add_weight(array)
        bindings = [b for block in self.main.body.blocks for b in block.bindings]
        for binding in bindings:
            if isinstance(binding.value, relax.Tuple):
                self.tuples[binding.var] = list(binding.value.fields)
            elif self._alias(binding.value) is not None:
                self.aliases[binding.var] = self._alias(binding.value)
        outputs = self._outputs()
        fresh = {b.var for b in bindings if self._is(b.value, "relax.builtin.alloc_tensor")}
        for number, out in enumerate(outputs):  # an output that a kernel makes is made in place
            root = self._root(out)
            if root in fresh and root not in self.places:
                self.places[root] = Place("output", number)
        for binding in bindings:
            self._binding(binding.var, binding.value)
        for number, out in enumerate(outputs):
            place = self._place(out)
            if place != Place("output", number):
                self.plan.copies.append((number, place, _bytes(out.ty)))
        return self.plan

    def _outputs(self) -> list:
        body = self.main.body.body
        while body in self.aliases:
            body = self.aliases[body]
        relax = tvm_modules().relax
        if isinstance(body, relax.Tuple):
            return list(body.fields)
        return self.tuples.get(body, [body])

    @staticmethod
    def _is(value, name: str) -> bool:
        return getattr(getattr(value, "op", None), "name", None) == name

    def _alias(self, value):
        relax = tvm_modules().relax
        if isinstance(value, relax.Var):
            return value
        if self._is(value, "relax.reshape"):
            return value.args[0]
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            return self.tuples[value.tuple_value][value.index]
        return None

    def _root(self, expr):
        while expr in self.aliases:
            expr = self.aliases[expr]
        return expr

    def _place(self, expr) -> Place:
        expr = self._root(expr)
        if expr not in self.places and isinstance(expr, tvm_modules().ir.GenericConst):
            self.places[expr] = self.plan.add_weight(expr.value.numpy())
        return self.places[expr]

    def _binding(self, var, value) -> None:
        if var in self.aliases or var in self.tuples or var in self.places:
            return
        ir = tvm_modules().ir
        if self._is(value, "relax.memory.alloc_storage"):
            self.storages[var] = self.plan.arena
            self.plan.arena += aligned(int(value.args[0].values[0]))
        elif self._is(value, "relax.memory.alloc_tensor"):
            self.places[var] = Place("arena", self.storages[value.args[0]] + _number(value.args[1]))
        elif self._is(value, "relax.builtin.alloc_tensor"):
            self.places[var] = Place("arena", self.plan.arena)
            self.plan.arena += aligned(_bytes(var.ty))
        elif isinstance(getattr(value, "op", None), ir.GlobalVar):
            self.plan.calls.append((name_of(value.op), [self._place(arg) for arg in value.args]))
        elif not self._is(value, "relax.memory.kill_tensor") and not self._is(value, "relax.memory.kill_storage"):
            name = getattr(getattr(value, "op", None), "name", None) or str(value)[:80]
            raise Unsupported(
                f"{name} needs TVM's runtime",
                remedy="replace the operator, or compile the part of the model without it",
            )


def _number(expr) -> int:
    value = expr.value if hasattr(expr, "value") else expr
    return int(value.value if hasattr(value, "value") else value)


def _bytes(ty) -> int:
    count = 1
    for extent in ty.shape.values:
        count *= int(extent)
    return count * np.dtype(str(ty.dtype)).itemsize
