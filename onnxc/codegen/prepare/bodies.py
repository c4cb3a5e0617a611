"""If, Loop and Scan: a branch is chosen or both are computed, loops are unrolled or stay loops.

If(known) {a} {b}      ->   the branch that is taken
If(c) {a} {b}          ->   a branch of C; Where(c, a, b), both computed, where that is next to nothing
Loop(n, true) {body}   ->   body n times; one that runs a number of times that is computed, or too often, stays a loop
Scan {body}            ->   body once for each element, results put together
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.build import Build
from onnxc.codegen.prepare.loops import REMEDY, Body, apart, handed_on, kept_if, kept_loop
from onnxc.codegen.prepare.walk import STANDARD, Scope, Walk, attributes_of
from onnxc.ir.errors import Unsupported

MOST_TRIPS = 4096
FEWEST = 16
"""Nodes of both branches of an If that are computed both, if they are `PLAIN`."""
PLAIN = {
    *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Greater"),
    *("Identity", "Less", "Max", "Min", "Mul", "Neg", "Not", "Or", "Relu", "Reshape", "Round", "Sigmoid", "Slice", "Sqrt", "Squeeze"),
    *("Sub", "Tanh", "Transpose", "Unsqueeze", "Where", "Xor"),
}  # fmt: skip
"""Operators that take little time, and no index that could be out of range where their branch is not taken."""
FEW, MOST_UNROLLED = 2048, 4096
"""Nodes that a Loop may become at once, and where it cannot stay a loop."""


def open_bodies(walk: Walk, node: onnx.NodeProto, scope: Scope) -> Sequence[str | None] | None:
    """What stands for the outputs of an If, Loop or Scan; None for any other node. Raises Unsupported with the reason."""
    opened = {"If": _if, "Loop": _loop, "Scan": _scan}.get(node.op_type) if node.domain in STANDARD else None
    if opened is None:
        return None
    if node.op_type == "Scan" and walk.opset < 9:
        opened = _scan_of_batches
    return opened(walk, node, scope)


def _known(walk: Walk, name: str) -> np.ndarray | None:
    return walk.constants.get(name)


def _if(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    branches = [next(a.g for a in node.attribute if a.name == name) for name in ("then_branch", "else_branch")]
    condition = _known(walk, node.input[0])
    if condition is not None:
        return walk.open_body(branches[0 if condition.reshape(-1)[0] else 1], [], scope, node.name)
    bodies = [Body([]), Body([])]
    for body, graph, which in zip(bodies, branches, ("then", "else")):
        with apart(walk, body):
            body.outputs = walk.open_body(graph, [], scope, f"{node.name}/{which}")
    for i, pair in enumerate(zip(*(body.outputs for body in bodies))):
        ranks = [len(shape) for name in pair if (shape := walk.shape(name)) is not None and prod(shape) == 1]
        if len(ranks) == 2:  # a number is one with any axes
            for body, name in zip(bodies, pair):
                with apart(walk, body):
                    body.outputs[i] = Build(walk, node).reshape(name, (1,) * max(ranks))
    pairs = list(zip(*(body.outputs for body in bodies)))
    for a, b in pairs:
        shapes = [walk.shape(name) for name in (a, b)]
        if a != b and (shapes[0] is None or shapes[0] != shapes[1]):
            found = " and ".join("unknown" if shape is None else str(list(shape)) for shape in shapes)
            raise Unsupported(
                f"{node.op_type} with a computed condition whose branches give different shapes", node=node.name,
                found=found, remedy="pad the smaller one in the model",
            )  # fmt: skip
    nodes = [one for body in bodies for one in body.nodes]
    if len(nodes) <= FEWEST and all(one.op_type in PLAIN for one in nodes):
        walk.nodes += nodes
        build = Build(walk, node)
        known = build.reshape(node.input[0], ())
        return [a if a == b else build("Where", known, a, b) for a, b in pairs]
    names = iter(kept_if(walk, node, bodies))
    return [a if a == b else next(names) for a, b in pairs]


def _stacked(walk: Walk, node: onnx.NodeProto, items: Sequence[str], axis: int, like: onnx.ValueInfoProto) -> str:
    """The tensors `items` along a new axis; no items: an empty tensor of the declared type."""
    if not items:
        kind = like.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
            raise Unsupported(
                f"{node.op_type} that never runs gives a tensor of unknown shape", node=node.name, remedy=REMEDY
            )
        axis = axis % (len(dims) + 1)
        empty = np.zeros([*dims[:axis], 0, *dims[axis:]], helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return walk.constant(empty, f"{node.name}/{like.name}")
    shape = walk.shape(items[0])
    if shape is None or any(walk.shape(item) != shape for item in items):
        raise Unsupported(f"{node.op_type} whose body gives tensors of different shapes", node=node.name, remedy=REMEDY)
    axis = axis % (len(shape) + 1)
    build = Build(walk, node)
    parts = [build.reshape(item, (*shape[:axis], 1, *shape[axis:])) for item in items]
    return parts[0] if len(parts) == 1 else build("Concat", *parts, axis=axis)


def _trips(walk: Walk, node: onnx.NodeProto, count: int) -> int:
    if count > MOST_TRIPS:
        raise Unsupported(
            f"{node.op_type} runs {count} times, unrolled are {MOST_TRIPS} at most", node=node.name, remedy=REMEDY
        )
    return count


def _loop(walk: Walk, node: onnx.NodeProto, scope: Scope) -> Sequence[str | None]:
    """A Loop: unrolled where it is known how often it runs, and that makes few nodes; else it stays one, if it can."""
    limit = node.input[0] if node.input else ""
    go_on = node.input[1] if len(node.input) > 1 else ""
    known = _known(walk, limit) if limit else None
    most = None if known is None else max(0, int(known.reshape(-1)[0]))
    begins = _certain(walk, go_on) and (not limit or bool(most))
    start, refusal = len(walk.nodes), None
    try:
        made = _unrolled(walk, node, scope, most, go_on, FEW) if not limit or most is not None else None
        if made is not None:
            return made
        del walk.nodes[start:]
        return kept_loop(walk, node, scope, most, node.input[2:], begins)
    except Unsupported as error:
        refusal = error
    del walk.nodes[start:]
    made = _unrolled(walk, node, scope, most, go_on, MOST_UNROLLED) if not limit or most is not None else None
    if made is None:
        raise refusal
    return made


def _unrolled(
    walk: Walk, node: onnx.NodeProto, scope: Scope, most: int | None, go_on: str, room: int
) -> Sequence[str | None] | None:
    """The body once a round; None where it is not known how often it runs, or what comes of it is over `room` nodes."""
    body = next(a.g for a in node.attribute if a.name == "body")
    state, active = list(node.input[2:]), go_on
    gathered: list[list[str]] = [[] for _ in body.output[1 + len(state) :]]
    trip, start, unchanged = 0, len(walk.nodes), handed_on(body, body.output[0].name) == body.input[1].name
    while most is None or trip < most:
        if active:
            known = _known(walk, active)
            if known is None:
                return None
            if not known.reshape(-1)[0]:
                break
        rounds = most if most is not None and (unchanged or most <= MOST_TRIPS) else trip + 1
        if rounds > MOST_TRIPS or (len(walk.nodes) - start) * rounds > room * trip > 0:
            return None
        number = walk.constant(np.asarray(trip, np.int64), f"{node.name}/trip")
        flag = walk.constant(np.asarray(True), f"{node.name}/go_on")
        given = [number, flag, *state][: len(body.input)]
        found = walk.open_body(body, given, scope, f"{node.name}/{trip}")
        state, active = found[1 : 1 + len(state)], found[0]
        for items, item in zip(gathered, found[1 + len(state) :]):
            items.append(item)
        trip += 1
    declared = body.output[1 + len(state) :]
    return state + [_stacked(walk, node, items, 0, like) for items, like in zip(gathered, declared)]


def _certain(walk: Walk, condition: str) -> bool:
    """Whether a condition is left out or known to hold."""
    if not condition:
        return True
    known = _known(walk, condition)
    return known is not None and bool(known.reshape(-1)[0])


def _scan(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    own = attributes_of(node)
    count = own["num_scan_inputs"]
    scanned = list(node.input[len(node.input) - count :])
    return _scanned(walk, node, scope, list(node.input[: len(node.input) - count]), scanned, own, node.name)


def _scanned(walk, node, scope: Scope, state: list[str], scanned: list[str], own: dict, stem: str) -> list[str]:
    """The final states, then the results of each output put together."""
    body = next(a.g for a in node.attribute if a.name == "body")
    results = len(body.output) - len(state)

    def attribute(name: str, size: int) -> list[int]:
        found = own.get(name)
        return list(found) if isinstance(found, list) and found else [0] * size

    shapes = [walk.shape(name) for name in scanned]
    axes = attribute("scan_input_axes", len(scanned))
    if any(shape is None for shape in shapes):
        raise Unsupported("Scan over a tensor of unknown shape", node=node.name, remedy=REMEDY)
    trips = _trips(walk, node, shapes[0][axes[0]])
    backward = attribute("scan_input_directions", len(scanned))
    gathered: list[list[str]] = [[] for _ in range(results)]
    for trip in range(trips):
        items = []
        for name, axis, back in zip(scanned, axes, backward):
            at = walk.constant(np.asarray(trips - 1 - trip if back else trip, np.int64), f"{stem}/at")
            items.append(Build(walk, node)("Gather", name, at, axis=axis))
        found = walk.open_body(body, [*state, *items], scope, f"{stem}/{trip}")
        state = found[: len(state)]
        for items, item in zip(gathered, found[len(state) :]):
            items.append(item)
    out_axes, reverse = attribute("scan_output_axes", results), attribute("scan_output_directions", results)
    declared = body.output[len(state) :]
    made = [
        _stacked(walk, node, items[::-1] if back else items, axis, like)
        for items, axis, back, like in zip(gathered, out_axes, reverse, declared)
    ]
    return state + made


def _scan_of_batches(walk: Walk, node: onnx.NodeProto, scope: Scope) -> list[str]:
    """Scan of opset 8: a batch axis ahead of everything, lengths in front of the states."""
    own = attributes_of(node)
    if node.input[0]:
        raise Unsupported("Scan of opset 8 with sequence lengths", node=node.name, remedy="use opset 9")
    own = {"num_scan_inputs": own["num_scan_inputs"], "scan_input_directions": own.get("directions")}
    given, count = list(node.input[1:]), own["num_scan_inputs"]
    shape = walk.shape(given[-1])
    if shape is None:
        raise Unsupported("Scan over a tensor of unknown shape", node=node.name, remedy=REMEDY)
    body = next(a.g for a in node.attribute if a.name == "body")
    batches = []
    for b in range(shape[0]):
        at = walk.constant(np.asarray(b, np.int64), f"{node.name}/batch")
        parts = [Build(walk, node)("Gather", name, at, axis=0) for name in given]
        split = len(parts) - count
        batches.append(_scanned(walk, node, scope, parts[:split], parts[split:], own, f"{node.name}/{b}"))
    return [_stacked(walk, node, list(items), 0, like) for items, like in zip(zip(*batches), body.output)]
