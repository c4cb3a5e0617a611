"""Loops and branches that stay such: a body becomes a model of its own, whose program is called in a loop or a branch of C.

    Loop(m, c, state) {body}   ->   Region "Loop" (m, c, state, what the body reads of the outside)
    If(c) {a} {b}              ->   Region "If" (c, what a and b read)

The body is visited once. States that it hands on as they are belong to the outside; those that nobody reads are left out. A state
that the body does not read, of a loop that certainly begins, has what the last round makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.build import Build
from onnxc.codegen.prepare.extents import Sized
from onnxc.codegen.prepare.numbers import FAR, WHOLE, rounds
from onnxc.codegen.prepare.walk import MOST_ELEMENTS, REGION, Scope, Walk
from onnxc.ir.errors import Unsupported

SMALL = 1 << 23
"""Up to here numbers that a Loop counts are followed through floats."""
REMEDY = "compile the body and call it from a loop of your own"


@dataclass
class Body:
    """Nodes that a region computes with: `inputs` and `outputs` are names of its tensors, in the order of its callers."""

    inputs: list[str]
    outputs: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)


@dataclass
class Region:
    """What a node of the domain REGION stands for. `kind` "Loop": operands are the limit, the condition (each may be left out), the
    states, and what the one body reads besides; the body takes the number of the round, the condition, states and the rest, and gives
    the condition, states, and a row for each gathered result. `kind` "If": operands are the condition and what the bodies
    (then, else) read.

    `states`: how many there are. `rows`: of how many rounds the gathered results have place; where how many there are is computed, that
    number is another result.
    """

    kind: str
    bodies: list[Body]
    states: int = 0
    rows: int = 0


@contextmanager
def apart(walk: Walk, body: Body) -> Iterator[None]:
    """What is visited within becomes nodes of `body`."""
    outer, walk.nodes = walk.nodes, body.nodes
    walk.numbers.within += 1
    try:
        yield
    finally:
        walk.nodes = outer
        walk.numbers.within -= 1


def captured(walk: Walk, bodies: Sequence[Body]) -> list[str]:
    """What bodies read that they do not make, beside constants; it joins the inputs of each."""
    found: dict[str, None] = {}
    for body in bodies:
        own = {*body.inputs, *(name for node in body.nodes for name in node.output)}
        read = [*(name for node in body.nodes for name in node.input), *body.outputs]
        found.update((name, None) for name in read if name and name not in own and name not in walk.constants)
    for body in bodies:
        body.inputs += found
    return list(found)


def keep(
    walk: Walk, node: onnx.NodeProto, region: Region, operands: list[str], types: list[onnx.TypeProto]
) -> list[str]:
    """The results of a new node that stands for `region`; `types` are theirs."""
    outputs = [walk.fresh(f"{node.name}/result") for _ in types]
    made = helper.make_node(region.kind, operands, outputs, name=node.name, domain=REGION, types=types)
    walk.keep(made)
    walk.regions[made.name] = region
    return outputs


def _input(walk: Walk, kind: onnx.TypeProto, stem: str) -> str:
    """A new tensor that a body is given."""
    name = walk.fresh(stem)
    walk.types[name] = kind
    return name


def scalar(walk: Walk, value: onnx.ValueInfoProto, element: int, stem: str) -> str:
    """The number of a round or the condition as the body declares it: with an axis of 1 or none."""
    rank = len(value.type.tensor_type.shape.dim)
    return _input(walk, helper.make_tensor_type_proto(element, [1] * min(rank, 1)), stem)


def kept_loop(
    walk: Walk, node: onnx.NodeProto, scope: Scope, most: int | None, states: Sequence[str], begins: bool
) -> list[str | None]:
    """What stands for the outputs of a Loop that is not unrolled. `most`: its limit where that is known; `begins`: whether it runs once
    at least. Raises Unsupported where it carries or gathers what has no bounded shape."""
    graph = next(a.g for a in node.attribute if a.name == "body")
    limit, condition = ([*node.input, "", ""][i] for i in range(2))
    number = scalar(walk, graph.input[0], onnx.TensorProto.INT64, f"{node.name}/trip")
    flag = scalar(walk, graph.input[1], onnx.TensorProto.BOOL, f"{node.name}/go_on")
    body = Body([number, flag])
    given = []
    for state, value, result in zip(states, graph.input[2:], graph.output[1:]):
        same = handed_on(graph, result.name) == value.name or 0 in _known_shape(walk, node, state)
        given.append(state if same else _input(walk, walk.type_of(state), f"{node.name}/{value.name}"))
    last: list[tuple[int, ...] | None] = []
    asked = walk.numbers.of(walk, limit) if limit else None
    top = walk.numbers.high(asked[0]) if asked and len(asked) == 1 else FAR
    top = _induced(walk, node, scope, [number, flag, *given], states, max(top, 0))
    with apart(walk, body):
        found = walk.open_body(graph, [number, flag, *given], scope, node.name)
        for i, state in enumerate(states):
            last.append(walk.shape(found[1 + i]))
            if all(shape is not None and prod(shape) == 1 for shape in (walk.shape(state), last[i])):
                found[1 + i] = Build(walk, node).reshape(
                    found[1 + i], walk.shape(state)
                )  # a number is one with any axes
    rows = found[1 + len(states) :]
    goes_on = handed_on(graph, graph.output[0].name) == graph.input[1].name or _certain(walk, found[0])
    counted = bool(rows) and not (most is not None and goes_on and (not condition or _certain(walk, condition)))
    if counted and top > MOST_ELEMENTS:
        raise Unsupported(
            "Loop that gathers results for a number of rounds that is computed and has no bound", node=node.name,
            tensor=node.output[len(states)], remedy=REMEDY,
        )  # fmt: skip
    top = top if counted else most or 0
    carried = _carried(walk, node, body, states, given, found, begins)
    types = [_type(walk, node, found[1 + i]) for i in carried]
    body.inputs += [given[i] for i in carried]
    body.outputs = [found[0], *(found[1 + i] for i in carried), *rows]
    for row in rows:
        kind = _type(walk, node, row).tensor_type
        extents = [d.dim_value for d in kind.shape.dim]
        types.append(helper.make_tensor_type_proto(kind.elem_type, [top, *extents]))
    if counted:
        types.append(helper.make_tensor_type_proto(onnx.TensorProto.INT64, []))
    operands = [limit, condition, *(states[i] for i in carried), *captured(walk, [body])]
    names = keep(walk, node, Region("Loop", [body], len(carried), top), operands, types)
    results: list[str | None] = [state if state == inside else None for state, inside in zip(states, given)]
    for i, name in zip(carried, names):
        shape = last[i]
        results[i] = Build(walk, node).reshape(name, shape) if begins and shape is not None else name
    gathered = names[len(carried) : len(carried) + len(rows)]
    if counted:
        extent = Sized(walk, node).counted(names[-1], top)
        walk.actual.update((name, (extent, *([None] * (len(walk.shape(name) or ()) - 1)))) for name in gathered)
    return results + gathered


def _induced(
    walk: Walk, node: onnx.NodeProto, scope: Scope, given: Sequence[str], states: Sequence[str], most: int
) -> int:
    """Finds bounds of whole numbers that a Loop carries and that grow by a constant in each round: how far, the condition or the limit
    says. Returns how many rounds there are at most; `most`: by the limit.

    They are tried on a body that nobody keeps: assumed to be small, they are if each is after a round that goes on. Without those
    that are not, all is tried again.
    """
    graph = next(a.g for a in node.attribute if a.name == "body")
    numbers, number = walk.numbers, f"{given[0]}[0]"
    numbers.fresh(given[0], 1, [(0, most - 1)])
    known = {name: numbers.of(walk, state) for name, state in zip(given[2:], states) if name != state}
    starts = {name: of[0].offset for name, of in known.items() if of and len(of) == 1 and not of[0].symbol}
    assumed = {name: start for name, start in starts.items() if abs(start) < SMALL and walk.element(name) in WHOLE}
    while True:
        before = dict(numbers.bounds)
        for name, start in assumed.items():
            numbers.fresh(name, 1, [(start, SMALL)])
        trial, proven = Body([]), {}
        walk.trial += 1
        try:
            with apart(walk, trial):
                found = walk.open_body(graph, given, scope, node.name)
        except Unsupported:  # then nothing is known of them
            numbers.bounds = before
            return most
        finally:
            walk.trial -= 1
        last = rounds(numbers, walk, trial.nodes, found[0], number)  # the number of a round that another follows
        least = most if last is None else min(most, max(last, -1) + 2)
        for name, new in zip(given[2:], found[1:]):
            symbol = f"{name}[0]"
            of = numbers.of(walk, new) if name in assumed else None
            if not of or len(of) != 1 or of[0].symbol != symbol or of[0].offset < 0:
                continue
            step = of[0].offset
            until = rounds(numbers, walk, trial.nodes, found[0], symbol)
            ends = [assumed[name] + step * (most - 1), *([] if until is None else [max(until + step, assumed[name])])]
            if min(ends) <= SMALL:
                proven[name] = min(ends)
                least = min(least, (min(ends) - assumed[name]) // step + 1 if step else least)
        numbers.bounds = before
        if proven.keys() == assumed.keys():
            for name, end in proven.items():
                numbers.fresh(name, 1, [(assumed[name], end)])
            numbers.fresh(given[0], 1, [(0, least - 1)])
            return least
        assumed = {name: start for name, start in assumed.items() if name in proven}


def _carried(
    walk: Walk,
    node: onnx.NodeProto,
    body: Body,
    states: Sequence[str],
    given: Sequence[str],
    found: Sequence[str],
    begins: bool,
) -> list[int]:
    """Which states a Loop has buffers for: not those that are handed on as they are, nor those that nobody reads."""
    read, carried = {name for inner in body.nodes for name in inner.input} | set(found), []
    for i, (state, inside) in enumerate(zip(states, given)):
        if inside == state or not (inside in read or node.output[i] in walk.read):
            continue
        kind = _type(walk, node, found[1 + i])
        if _text(kind) != _text(walk.type_of(state)) and (inside in read or not begins):
            raise Unsupported(
                "Loop that carries a tensor whose shape is another after a round", node=node.name, tensor=state,
                expected=_text(walk.type_of(state)), found=_text(kind), remedy=REMEDY,
            )  # fmt: skip
        carried.append(i)
    return carried


def kept_if(walk: Walk, node: onnx.NodeProto, bodies: list[Body]) -> list[str]:
    """What stands for those outputs of an If that its branches, which have been visited, make differently."""
    pairs = [pair for pair in zip(*(body.outputs for body in bodies)) if pair[0] != pair[1]]
    for body, outputs in zip(bodies, zip(*pairs)):
        body.outputs = list(outputs)
    types = [_type(walk, node, name) for pair in pairs for name in pair][::2]
    return keep(walk, node, Region("If", bodies), [node.input[0], *captured(walk, bodies)], types)


def handed_on(graph: onnx.GraphProto, name: str) -> str:
    """What an output of a body is, through Identity."""
    makers = {out: n for n in graph.node for out in n.output}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name


def _certain(walk: Walk, name: str) -> bool:
    """Whether a condition is known to hold."""
    known = walk.constants.get(name)
    return known is not None and bool(np.asarray(known).reshape(-1)[0])


def _known_shape(walk: Walk, node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    shape = walk.shape(name)
    if shape is None or name in walk.actual:
        raise Unsupported(
            f"{node.op_type} that carries or makes a tensor whose length data decide",
            node=node.name,
            tensor=name,
            remedy=REMEDY,
        )
    return shape


def _type(walk: Walk, node: onnx.NodeProto, name: str) -> onnx.TypeProto:
    _known_shape(walk, node, name)
    return walk.type_of(name)


def _text(kind: onnx.TypeProto) -> str:
    tensor = kind.tensor_type
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {[d.dim_value for d in tensor.shape.dim]}"
