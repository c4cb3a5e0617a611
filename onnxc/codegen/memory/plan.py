"""The static plan: TVM's flat main as a list of C calls over inputs, outputs, arena and weights.

    t = alloc; kernel0(x, w, t); u = alloc; mean(t, u)   ->   kernel0(input 0, weight 0, arena 64), mean(...)

Buffers get their places in the arena by lifetime, and so do the workspaces of kernels, which live for one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxc.codegen.memory.arena import ALIGN, Overlap, Tenant, assign, largest_live_set, live_bytes
from onnxc.codegen.memory.contract import check_assignment
from onnxc.codegen.memory.order import best_order
from onnxc.codegen.micro.calls import Over
from onnxc.codegen.prepare.record import StaticModel
from onnxc.codegen.tvm_api import name_of, tvm_modules
from onnxc.ir.errors import Unsupported, VerificationError
from onnxc.runtime.elements import stored


@dataclass(frozen=True)
class Place:
    """Where a tensor lives: `space` is input, output, buffer, arena or weight; `offset` a number of it, or bytes into it.

    A buffer is a tensor that `MemoryPlan.settle` has not yet given its bytes of the arena.
    """

    space: str
    offset: int


@dataclass
class MemoryPlan:
    """`calls`: (function, places) in order. `copies`: (output, place, bytes) that no kernel writes itself.

    `ends`: where inputs and outputs are, if they are in the arena.

    `flags` are int32 scalars that kernels leave at other than 0 where an index was out of range.

    `buffers` are the bytes of the tensors between kernels. `arena` is their place with the workspaces, in bytes, and
    `live` the least that any assignment could take, the most of `during`, the bytes that live at each call.
    """

    calls: list[tuple[str, list[Place]]] = field(default_factory=list)
    copies: list[tuple[int, Place, int]] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    arena: int = 0
    live: int = 0
    during: list[int] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    flags: list[Place] = field(default_factory=list)
    ends: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def take_ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Makes buffers of the inputs and outputs, whose bytes these are: `ends` has their numbers, and their places once settled."""
        first = len(self.buffers)
        self.buffers += [*inputs, *outputs]
        begin = {"input": first, "output": first + len(inputs)}
        self.ends = (list(range(first, begin["output"])), list(range(begin["output"], len(self.buffers))))

        def moved(place: Place) -> Place:
            return Place("buffer", begin[place.space] + place.offset) if place.space in begin else place

        self.calls = [(function, [moved(p) for p in places]) for function, places in self.calls]
        self.copies = [(n, moved(p), size) for n, p, size in self.copies]
        self.flags = [moved(p) for p in self.flags]

    def add_weight(self, array: np.ndarray) -> Place:
        """The place of a constant array: its number among `weights`."""
        self.weights.append(array)
        return Place("weight", len(self.weights) - 1)

    def settle(
        self,
        workspaces: Mapping[str, int],
        start: int,
        over: Mapping[str, Sequence[Over]] | None = None,
        align: int = ALIGN,
    ) -> None:
        """Gives every buffer, and every call its workspace of `workspaces[function]` bytes, a place from `start` on.

        `over[function]` says which operands the result of a call may lie over. With it the calls are first brought into the
        order for which the least is live.
        """
        if over:
            self._reorder(workspaces)
        uses: dict[int, list[int]] = {}
        for i, (_, places) in enumerate(self.calls):
            for place in places:
                if place.space == "buffer":
                    uses.setdefault(place.offset, []).append(i)
        for place in self._kept():
            uses.setdefault(place.offset, []).append(len(self.calls))
        for number in self.ends[0]:
            uses.setdefault(number, []).append(0)
        numbers = sorted(uses)
        tenants = [Tenant(self.buffers[n], min(uses[n]), max(uses[n])) for n in numbers]
        overlaps = self._overlaps(over or {}, numbers, tenants)
        needy = [i for i, (function, _) in enumerate(self.calls) if workspaces[function]]
        tenants += [Tenant(workspaces[self.calls[i][0]], i, i) for i in needy]
        offsets, self.arena = assign(tenants, overlaps, align)
        check_assignment(tenants, offsets, self.arena, overlaps, align)
        self.live = largest_live_set(tenants, overlaps)
        self.during = live_bytes(tenants, overlaps, len(self.calls))
        where = {n: Place("arena", start + offset) for n, offset in zip(numbers, offsets)}
        for i, (function, places) in enumerate(self.calls):
            self.calls[i] = (function, [where[p.offset] if p.space == "buffer" else p for p in places])
        for i, offset in zip(needy, offsets[len(numbers) :], strict=True):
            self.calls[i][1].append(Place("arena", start + offset))
        self.copies = [(n, where[p.offset] if p.space == "buffer" else p, size) for n, p, size in self.copies]
        self.flags = [where[p.offset] if p.space == "buffer" else p for p in self.flags]
        self.ends = ([where[n].offset for n in self.ends[0]], [where[n].offset for n in self.ends[1]])

    def _kept(self) -> list[Place]:
        """The buffers that are read after the last call."""
        own = [Place("buffer", n) for n in self.ends[1]]
        return own + [place for place in (*(p for _, p, _ in self.copies), *self.flags) if place.space == "buffer"]

    def _overlaps(self, over: Mapping[str, Sequence[Over]], numbers: list[int], tenants: list[Tenant]) -> list[Overlap]:
        """Pairs of tenants of which the second may lie over the first: its call is the last to read that, in one operand."""
        rank = {n: i for i, n in enumerate(numbers)}
        found = []
        for i, (function, places) in enumerate(self.calls):
            y = places[-1]
            for rule in over.get(function, ()):
                x = places[rule.operand]
                if x.space != "buffer" or y.space != "buffer" or places.count(x) > 1:
                    continue
                a, b = rank[x.offset], rank[y.offset]
                if tenants[a].last == i and tenants[b].first == i:
                    found.append(Overlap(a, b, rule.same, rule.ahead))
        return found

    def _reorder(self, workspaces: Mapping[str, int]) -> None:
        written = set(self.ends[0])
        reads, writes = [], []
        for _, places in self.calls:
            mine = [p.offset for p in places if p.space == "buffer"]
            reads.append(frozenset(n for n in mine if n in written))
            writes.append(frozenset(n for n in mine if n not in written))
            written.update(mine)
        kept = {p.offset for p in self._kept()}
        sizes = {n: 0 if n in kept else size for n, size in enumerate(self.buffers)}
        order = best_order(reads, writes, sizes, [workspaces[function] for function, _ in self.calls])
        self.calls = [self.calls[i] for i in order]


def make_plan(main, static: StaticModel, arrays: list[np.ndarray]) -> MemoryPlan:
    """The plan of a finished Relax main: its parameters are the inputs of `static` and then `arrays`.

    It returns the outputs of `static`, and after them as many int32 scalars as it likes, which say with another value than 0
    that an index was out of range (`MemoryPlan.flags`).

    Raises Unsupported for run-time operators that a library without TVM cannot call, VerificationError where inputs or
    outputs have other shapes or types than `static` says: kernels would write past what the caller has given.
    """
    _check_interface(main, static)
    return _Planner(main, len(static.inputs), len(static.outputs), arrays).run()


def _check_interface(main, static: StaticModel) -> None:
    outputs = _fields(main.ret_ty)
    if len(outputs) < len(static.outputs):
        raise VerificationError("lowering has lost an output", tensor=static.outputs[len(outputs)][0])
    flag = ("an index flag", (), "int32")
    sides = (
        ([param.ty for param in main.params], static.inputs),
        (outputs, [*static.outputs, *[flag] * (len(outputs) - len(static.outputs))]),
    )
    for types, tensors in sides:
        for ty, (name, shape, dtype) in zip(types, tensors):
            found = (tuple(int(extent) for extent in ty.shape.values), str(ty.dtype))
            if found != stored(shape, dtype):
                raise VerificationError(
                    "lowering has made a tensor of another kind", tensor=name,
                    expected=f"{dtype} {list(shape)}", found=f"{found[1]} {list(found[0])}",
                    remedy="report it with the model",
                )  # fmt: skip


def _fields(ty) -> list:
    return list(ty.fields) if isinstance(ty, tvm_modules().ir.TupleType) else [ty]


class _Planner:
    def __init__(self, main, inputs: int, outputs: int, arrays: list[np.ndarray]):
        self.main, self.inputs, self.outputs, self.arrays = main, inputs, outputs, arrays
        self.plan = MemoryPlan()
        self.places: dict = {}
        self.tuples: dict = {}
        self.aliases: dict = {}

    def run(self) -> MemoryPlan:
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
        results = self._outputs()
        outputs, flags = results[: self.outputs], results[self.outputs :]
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
        self.plan.flags = [self._place(flag) for flag in flags]
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
        if self._is(value, "relax.builtin.alloc_tensor"):
            self.places[var] = Place("buffer", len(self.plan.buffers))
            self.plan.buffers.append(_bytes(var.ty))
        elif isinstance(getattr(value, "op", None), ir.GlobalVar):
            self.plan.calls.append((name_of(value.op), [self._place(arg) for arg in value.args]))
        else:
            name = getattr(getattr(value, "op", None), "name", None) or str(value)[:80]
            raise Unsupported(
                f"{name} needs TVM's runtime",
                remedy="replace the operator, or compile the part of the model without it",
            )


def _bytes(ty) -> int:
    count = 1
    for extent in ty.shape.values:
        count *= int(extent)
    return count * np.dtype(str(ty.dtype)).itemsize
