"""Nodes that hold others: functions that hide products are opened, constant Ifs decided, small loops unrolled.

    Lin(x, w), a function                 ->  its body
    If(true) {a} {b}                      ->  a
    Loop(3, true) {body}, Scan {body}     ->  body, body, body          (FEW nodes at most)

Loops of more nodes, of a computed trip count or with a condition that the body computes stay.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.bodies import Body, hides_products, opened, read_body
from ...ir.files import load
from ...ir.model import CAPTURED, Model, Tensor
from ...ir.values import attribute_array
from ...ir.verify import Verified, verify
from ..base import Report
from ..opset import reattach

FEW = 64
"""Nodes that an unrolled loop may become."""


def open_functions(model: Model, report: Report) -> bool:
    """Put the bodies of functions that hide products in the place of their calls, in the outer graph and in bodies."""
    calls: dict[tuple[str, str], list[str]] = {}
    for node in model.nodes:
        if hides_products(model, node):
            calls.setdefault((node.domain or "", node.op), []).append(node.name)
    if not calls:
        return False
    inlined = reattach(load(opened(model.to_proto(weights=False), list(calls))), model)
    verify(inlined, like=model)
    inlined.shapes = model.shapes
    model.adopt(inlined)
    for (domain, op), names in calls.items():
        for name in names:
            report.edit(name, f"function {domain}.{op} is opened: products stand in it")
    return True


def open_bodies(model: Model, verified: Verified, report: Report) -> bool:
    """Decide every constant If and unroll small loops of `model`, of which `verified` is; whether there was one."""
    found = False
    for node in list(model.nodes):
        if not model.is_standard(node, "If", "Loop", "Scan"):
            continue
        found |= {"If": _if, "Loop": _loop, "Scan": _scan}[node.op](model, verified, node, report)
    return found


def _if(model: Model, verified: Verified, node: gs.Node, report: Report) -> bool:
    if not isinstance(node.inputs[0], gs.Constant):
        report.refuse(node.name, "its condition is computed")
        return False
    key = "then_branch" if node.inputs[0].values.reshape(-1)[0] else "else_branch"
    body = read_body(model, verified, node, key)
    if body is None:
        report.refuse(node.name, f"its {key} cannot be read by itself")
        return False
    name, results = node.name, _splice(model, body, [])
    _give(model, node, results)
    report.edit(name, f"its condition is constant: its {key} takes its place")
    return True


def _loop(model: Model, verified: Verified, node: gs.Node, report: Report) -> bool:
    limit, go_on = (_known(node.inputs[i]) if i < len(node.inputs) else None for i in (0, 1))
    if limit is None:
        report.refuse(node.name, "its trip count is computed")
        return False
    body = read_body(model, verified, node, "body")
    asked = len(node.inputs) > 1 and bool(node.inputs[1].name)
    if body is None or (asked and (go_on is None or not go_on.all())) or not _goes_on(body):
        report.refuse(node.name, "whether it goes on is computed")
        return False
    trips = max(int(limit.reshape(-1)[0]), 0)
    states = [t for t in node.inputs[2 : len(body.node.inputs) - _captures(node)] if t.name]
    results = len(node.outputs) - len(states)
    if not _small(node, body, trips, results, report):
        return False
    gathered: list[list[Tensor]] = [[] for _ in range(results)]
    for trip in range(trips):
        again = body if trip == 0 else _again(model, verified, node)
        number = model.constant(f"{node.name}_trip", np.array(trip, np.int64))
        true = model.constant(f"{node.name}_true", np.array(True))
        made = _splice(model, again, [number, true, *states])
        states = made[1 : 1 + len(states)]
        for items, t in zip(gathered, made[1 + len(states) :], strict=True):
            items.append(t)
    stacked = [_stack(model, node, items, 0) for items in gathered]
    _give(model, node, [*states, *stacked])
    report.edit(node.name, f"unrolled: it runs {trips} times")
    return True


def _scan(model: Model, verified: Verified, node: gs.Node, report: Report) -> bool:
    if model.opset < 9:
        report.refuse(node.name, "Scan of opset 8 counts batches")
        return False
    body = read_body(model, verified, node, "body")
    count = int(node.attrs.get("num_scan_inputs", 0))
    given = list(node.inputs[: len(node.inputs) - _captures(node)])
    states, scanned = given[: len(given) - count], given[len(given) - count :]
    results = len(node.outputs) - len(states)
    axes = _list(node, "scan_input_axes", count)
    shape = verified.analysis.shape(scanned[0].name) if isinstance(scanned[0], gs.Variable) else scanned[0].values.shape
    trips = None if shape is None else shape[axes[0]]
    if body is None or not isinstance(trips, int):
        report.refuse(node.name, "how often it runs is known only at run time")
        return False
    if not _small(node, body, trips, results, report):
        return False
    back = _list(node, "scan_input_directions", count)
    gathered: list[list[Tensor]] = [[] for _ in range(results)]
    for trip in range(trips):
        again = body if trip == 0 else _again(model, verified, node)
        items = []
        for t, axis, backwards in zip(scanned, axes, back, strict=True):
            at = model.constant(f"{node.name}_at", np.array(trips - 1 - trip if backwards else trip, np.int64))
            items.append(model.node("Gather", [t, at], name=f"{node.name}_item", attrs={"axis": axis}, before=node))
        made = _splice(model, again, [*states, *(n.outputs[0] for n in items)])
        states = made[: len(states)]
        for parts, t in zip(gathered, made[len(states) :], strict=True):
            parts.append(t)
    out_axes, reverse = _list(node, "scan_output_axes", results), _list(node, "scan_output_directions", results)
    stacked = [
        _stack(model, node, parts[::-1] if r else parts, axis)
        for parts, axis, r in zip(gathered, out_axes, reverse, strict=True)
    ]
    _give(model, node, [*states, *stacked])
    report.edit(node.name, f"unrolled: it runs {trips} times")
    return True


def _again(model: Model, verified: Verified, node: gs.Node) -> Body:
    """The body once more, with nodes and tensors of its own."""
    body = read_body(model, verified, node, "body")
    assert body is not None, "it was read before"
    return body


def _captures(node: gs.Node) -> int:
    return len(node.attrs[CAPTURED])


def _list(node: gs.Node, name: str, count: int) -> list[int]:
    got = node.attrs.get(name)
    return list(got) if isinstance(got, list) and got else [0] * count


def _known(t: Tensor) -> np.ndarray | None:
    return t.values if isinstance(t, gs.Constant) else None


def _goes_on(body: Body) -> bool:
    """Whether the body of a Loop surely asks for another round, wherever it was asked to run."""
    out = body.model.outputs[0]
    while isinstance(out, gs.Variable) and out.inputs and out.inputs[0].op in ("Identity", "Cast"):
        out = out.inputs[0].inputs[0]
    if isinstance(out, gs.Constant):
        return bool(out.values.all())
    if out.inputs and out.inputs[0].op == "Constant":
        value = out.inputs[0].attrs.get("value")
        return value is not None and bool(np.all(attribute_array(value)))
    return any(out is t for t in body.model.inputs[1:2])


def _small(node: gs.Node, body: Body, trips: int, results: int, report: Report) -> bool:
    if trips == 0 and results:
        report.refuse(node.name, "it never runs, and its results are empty")
        return False
    if trips * len(body.model.nodes) > FEW:
        report.refuse(node.name, f"unrolled it would be {trips * len(body.model.nodes)} nodes, {FEW} at most are")
        return False
    return True


def _splice(model: Model, body: Body, given: list[Tensor]) -> list[Tensor]:
    """Move the nodes of `body` ahead of its node, reading `given` for its own inputs; what its outputs are now."""
    inside = body.model
    names = [t.name for t in inside.inputs]
    stands = dict(zip(names, given)) | {n: t for n, t in body.passed.items() if n in names}
    outer = {n: t for n, t in body.passed.items() if isinstance(t, gs.Constant)}
    constants = inside.constants()
    stands |= {n: t for n, t in outer.items() if n in constants}
    results: list[Tensor] = [stands.get(t.name, t) for t in inside.outputs]
    for name, t in inside.tensors().items():
        if name in stands:
            inside.replace_uses(t, stands[name])
        else:
            t.name = model.fresh(name)
    moved = list(inside.nodes)
    at = next(i for i, n in enumerate(model.nodes) if n is body.node)
    for n in moved:
        n.name = model.fresh(n.name)
    model.nodes[at:at] = moved
    return results


def _stack(model: Model, node: gs.Node, items: list[Tensor], axis: int) -> Tensor:
    """The tensors along a new axis."""
    parts = []
    for t in items:
        if model.opset < 13:
            made = model.node("Unsqueeze", [t], attrs={"axes": [axis]}, name=f"{node.name}_part", before=node)
        else:
            at = model.constant(f"{node.name}_axis", np.array([axis], np.int64))
            made = model.node("Unsqueeze", [t, at], name=f"{node.name}_part", before=node)
        parts.append(made.outputs[0])
    if len(parts) == 1:
        return parts[0]
    return model.node("Concat", parts, attrs={"axis": axis}, name=f"{node.name}_stacked", before=node).outputs[0]


def _give(model: Model, node: gs.Node, results: list[Tensor]) -> None:
    """Let what reads `node` read `results`, by way of Identity, which is removed where it can be."""
    outputs = list(node.outputs)
    at = next(i for i, n in enumerate(model.nodes) if n is node)
    node.inputs.clear()
    node.outputs.clear()
    del model.nodes[at]
    made = []
    for t, result in zip(outputs, results, strict=True):
        if t.name:
            made.append(gs.Node("Identity", model.fresh(f"{node.name}_result"), {}, [result], [t]))
    model.nodes[at:at] = made
