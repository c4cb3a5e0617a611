"""What is known of whole numbers that are computed at run time: which differ by a constant, and between which bounds they lie.

    i in [0, 500]:  min(i + 1, 501) = i + 1,  (i + 1) - i = 1

An element of a small tensor is a symbol plus an offset. Symbols have bounds, and say which element of which tensor they are. What is
learnt of a node's results follows from its operands alone, so that it holds wherever the node is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    from onnxc.codegen.prepare.walk import Walk

FAR = 1 << 62
FEW = 16
"""Elements of a tensor that are told apart."""
EXACT: dict[int, int] = {onnx.TensorProto.FLOAT: 1 << 24, onnx.TensorProto.DOUBLE: 1 << 53}
"""Up to which magnitude a float type has all whole numbers."""
WHOLE: dict[int, int] = {onnx.TensorProto.INT32: 1 << 31, onnx.TensorProto.INT64: 1 << 63}
SAME = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class Num:
    """The value of a symbol, 0 for "", plus an offset."""

    symbol: str
    offset: int

    def plus(self, more: int) -> Num:
        """This number and a constant."""
        return Num(self.symbol, self.offset + more)


@dataclass
class Numbers:
    """What is known: the elements of tensors by name, the bounds of symbols, and the tensors and elements that symbols are. `within`:
    how many bodies deep the nodes are that are visited, which may never be computed."""

    known: dict[str, tuple[Num, ...]] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    sources: dict[str, tuple[str, int]] = field(default_factory=dict)
    within: int = 0
    most: dict[str, int] = field(default_factory=dict)  # by nodes: how long data can make what they make

    def low(self, n: Num) -> int:
        """The least that a number can be."""
        return n.offset + (self.bounds.get(n.symbol, (-FAR, FAR))[0] if n.symbol else 0)

    def high(self, n: Num) -> int:
        """The most that a number can be."""
        return n.offset + (self.bounds.get(n.symbol, (-FAR, FAR))[1] if n.symbol else 0)

    def narrow(self, symbol: str, low: int, high: int) -> None:
        """The value of a symbol lies within these bounds too."""
        old = self.bounds.get(symbol, (-FAR, FAR))
        self.bounds[symbol] = (max(low, old[0]), min(high, old[1]))

    def of(self, walk: Walk, name: str) -> tuple[Num, ...] | None:
        """The elements of a small tensor of whole numbers, in their order; None where it is none."""
        if name in walk.constants:
            array = np.asarray(walk.constants[name])
            if array.size > FEW or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
                return None
            whole = array.astype(np.int64)
            return tuple(Num("", int(v)) for v in whole.reshape(-1)) if (whole == array).all() else None
        if name in self.known:
            return self.known[name]
        shape = walk.shape(name)
        if shape is None or prod(shape) > FEW or walk.element(name) not in WHOLE:
            return None
        return self.fresh(name, prod(shape))

    def fresh(self, name: str, count: int, bounds: Sequence[tuple[int, int]] = ()) -> tuple[Num, ...]:
        """New symbols for the elements of a tensor."""
        symbols = [f"{name}[{i}]" for i in range(count)]
        for i, symbol in enumerate(symbols):
            self.sources[symbol] = (name, i)
            if bounds:
                self.narrow(symbol, *bounds[i])
        self.known[name] = tuple(Num(symbol, 0) for symbol in symbols)
        return self.known[name]

    def composed(self, key: str, source: tuple[str, int], low: int, high: int) -> Num:
        """The number that a key of others stands for, here an element of a tensor. In a body each such tensor is a number of its own, as
        what is computed there is not there outside."""
        symbol = f"{key} of {source[0]}" if self.within else key
        self.sources[symbol] = source
        self.narrow(symbol, low, high)
        return Num(symbol, 0)

    def learn(self, walk: Walk, node: onnx.NodeProto) -> None:
        """Notes what the first result of a node is."""
        rule = _RULES.get(node.op_type)
        if rule is None or node.domain not in ("", "ai.onnx") or node.output[0] in walk.constants:
            return
        shape = walk.shape(node.output[0])
        if shape is None or prod(shape) > FEW:
            return
        given = [self.of(walk, name) if name else None for name in node.input]
        if not given or any(one is None for one, name in zip(given, node.input) if name):
            return
        made = rule(self, walk, node, given)
        if made is not None and len(made) == prod(shape):
            self.known[node.output[0]] = tuple(made)


Elements = list[tuple[Num, ...]]


def _same(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    return given[0]


def _cast(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    """Whole numbers stay what they are in types that have them all."""
    to = next(a.i for a in node.attribute if a.name == "to")
    limit = EXACT.get(to, WHOLE.get(to))
    if limit is None or any(max(-numbers.low(n), numbers.high(n)) > limit - (to in WHOLE) for n in given[0]):
        wide = to == onnx.TensorProto.INT64 and walk.element(node.input[0]) in WHOLE
        return given[0] if wide else None
    return given[0]


def _pairs(one: Sequence[Num], two: Sequence[Num]) -> list[tuple[Num, Num]]:
    count = max(len(one), len(two))
    return [(one[i % len(one)], two[i % len(two)]) for i in range(count)] if 0 not in (len(one), len(two)) else []


def _exact(numbers: Numbers, walk: Walk, node: onnx.NodeProto, made: list[Num]) -> list[Num] | None:
    """What a sum is, if its type has the whole numbers that it can be."""
    kind = walk.element(node.output[0])
    limit = EXACT.get(kind, WHOLE.get(kind, 0))
    if kind == onnx.TensorProto.INT64 or all(max(-numbers.low(n), numbers.high(n)) < limit for n in made):
        return made
    return None


def _add(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    made = []
    for a, b in _pairs(*given):
        a, b = (a, b) if not b.symbol else (b, a)
        if b.symbol:
            return None
        made.append(a.plus(b.offset))
    return _exact(numbers, walk, node, made)


def _sub(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    made = []
    for a, b in _pairs(*given):
        if a.symbol == b.symbol:
            made.append(Num("", a.offset - b.offset))
        elif not b.symbol:
            made.append(a.plus(-b.offset))
        else:
            return None
    return _exact(numbers, walk, node, made)


def _extreme(largest: bool) -> Callable:
    def rule(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
        made: list[Num] = list(given[0])
        for other in given[1:]:
            pairs, made = _pairs(made, other), []
            for a, b in pairs:
                small, large = numbers.high, numbers.low
                if a.symbol == b.symbol:
                    made.append(max(a, b, key=lambda n: n.offset) if largest else min(a, b, key=lambda n: n.offset))
                elif small(a) <= large(b):
                    made.append(b if largest else a)
                elif small(b) <= large(a):
                    made.append(a if largest else b)
                else:
                    return None
        return made

    return rule


def _bounded(pick: Callable) -> Callable:
    """A rule beside which, where it does not apply, bounds of the result are known."""

    def rule(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
        made = _extreme(pick is max)(numbers, walk, node, given)
        if made is None and walk.element(node.output[0]) in WHOLE and len(given) == 2:
            pairs = _pairs(*given)
            limits = [tuple(pick(end(a), end(b)) for end in (numbers.low, numbers.high)) for a, b in pairs]
            made = list(numbers.fresh(node.output[0], len(pairs), limits))
        return made

    return rule


def _gather(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    rank = len(walk.shape(node.input[0]) or ())
    if rank != 1 or any(n.symbol or not -len(given[0]) <= n.offset < len(given[0]) for n in given[1]):
        return None
    return [given[0][n.offset] for n in given[1]]


def _concat(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    if any(len(walk.shape(name) or ()) != 1 for name in node.input):
        return None
    return [n for one in given for n in one]


def _slice(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    if (
        len(given) < 3
        or any(n.symbol for one in given[1:] if one for n in one)
        or len(walk.shape(node.input[0]) or ()) != 1
    ):
        return None
    start, end = given[1][0].offset, given[2][0].offset
    step = given[4][0].offset if len(given) > 4 and given[4] else 1
    return given[0][start:end:step] if step > 0 else None


def _mul(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    """Products by one, and of positive numbers, whose bounds are known."""
    made = []
    for i, (a, b) in enumerate(_pairs(*given)):
        a, b = (a, b) if not b.symbol else (b, a)
        if b == Num("", 1) or not (a.symbol or b.symbol):
            made.append(a if b == Num("", 1) else Num("", a.offset * b.offset))
        elif walk.element(node.output[0]) in WHOLE and min(numbers.low(a), numbers.low(b)) >= 0:
            top = numbers.high(a) * numbers.high(b)
            made.append(
                numbers.composed(f"{a} * {b}", (node.output[0], i), numbers.low(a) * numbers.low(b), min(top, FAR))
            )
        else:
            return None
    return made


def _one_hot(numbers: Numbers, walk: Walk, node: onnx.NodeProto, given: Elements):
    at, depth, (off, on) = given
    last = not node.attribute or node.attribute[0].i in (-1, len(walk.shape(node.input[0]) or ()))
    if not last or any(n.symbol for n in (*at, *depth)):
        return None
    count = depth[0].offset
    return [on if i == n.offset % count else off for n in at for i in range(count)] if count > 0 else None


_RULES: dict[str, Callable] = {
    **dict.fromkeys(SAME, _same),
    "Cast": _cast, "Add": _add, "Sub": _sub, "Min": _bounded(min), "Max": _bounded(max), "Gather": _gather,
    "Concat": _concat, "Slice": _slice, "Mul": _mul, "OneHot": _one_hot,
}  # fmt: skip


def rounds(numbers: Numbers, walk: Walk, nodes: Sequence[onnx.NodeProto], condition: str, symbol: str) -> int | None:
    """The most that `symbol` is in a round behind which `condition` still holds; None where it says nothing of it."""
    makers = {name: node for node in nodes for name in node.output}
    stack, best = [condition], None
    while stack:
        node = makers.get(stack.pop())
        if node is None:
            continue
        zero = node.op_type == "Add" and any(
            (of := numbers.of(walk, name)) is not None and set(of) == {Num("", 0)} for name in node.input
        )
        if node.op_type == "And":
            stack += node.input
        elif node.op_type == "Cast" or node.op_type in SAME:
            stack.append(node.input[0])
        elif zero:
            stack += node.input
        elif node.op_type in _LESS:
            pair = [numbers.of(walk, name) for name in node.input]
            a, b = pair if node.op_type.startswith("Less") else pair[::-1]
            if a and b and len(a) == len(b) == 1 and a[0].symbol == symbol and b[0].symbol != symbol:
                most = numbers.high(b[0]) - a[0].offset - (not node.op_type.endswith("OrEqual"))
                best = most if best is None else min(best, most)
    return best


_LESS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def kinds_of(walk: Walk, name: str) -> np.dtype:
    """The NumPy type of a tensor's elements."""
    return helper.tensor_dtype_to_np_dtype(walk.element(name))
