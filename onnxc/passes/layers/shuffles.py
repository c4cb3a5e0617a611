"""Channel shuffles resolved: what a shuffle hands on is a Concat of parts of what was made.

    p, q -> Concat, Reshape, Transpose, Reshape -> Gather 0 -> Conv a        p -> Split p0, p1;  q -> Split q0, q1
                                               -> Gather 1 -> Conv b    ->   Concat p0, q0 -> Conv a;  Concat p1, q1 -> Conv b

ShuffleNet (Ma et al. 2018) interleaves the channels of two branches, so that every second one goes on each way. As axes
that would be a factor that repeats, in which nothing can go alone. But the order of channels is free: each maker puts
those that go the same ways side by side, and each reader takes its columns in that order. The products sum the same
numbers in another order. Every part may then be cut by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.evaluate import CannotFold, evaluate
from ...ir.model import Model, Tensor

MOVERS = ("Concat", "Reshape", "Transpose", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity")
BY_CHANNEL = (
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus", "Erf",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Dropout", "Identity",
)  # fmt: skip
"""Operators that make each channel from itself, alike for all, of what they read first."""
LARGEST = 2**24
"""Elements of the tensors of one region, at most: their places are followed one by one."""
SOME = 2
"""Samples that stand for any number of them."""

Edit = tuple[gs.Node, int, int, np.ndarray]
"""(node, input, axis, order): the constant there gets the indices of that axis in this order."""


class _Not(Exception):
    """Why a region stays as it is."""


@dataclass
class _Region:
    """Nodes that only move numbers, the tensors that they read, and those that others read (of these and of their own)."""

    nodes: list[gs.Node]
    sources: list[Tensor]
    results: list[Tensor]


def resolve_shuffles(model: Model) -> int:
    """Resolve the shuffles of `model` wherever all that a shuffle's parts meet can follow; how many nodes went."""
    analysis = analyse(model)
    before = len(model.nodes)
    for region in _regions(model, analysis):
        try:
            _resolve(model, analysis, region)
        except _Not:
            continue
    return before - len(model.nodes)


def _regions(model: Model, analysis: Analysis) -> list[_Region]:
    """The connected parts of `model` that only move numbers and hold a Transpose."""
    home: dict[int, list[gs.Node]] = {}
    for node in model.nodes:
        if not model.is_standard(node, *MOVERS) or any(not _numbers(analysis, t) for t in node.outputs):
            continue
        mine = [node]
        for t in _data(node):
            for maker in t.inputs:
                other = home.get(id(maker))
                if other is not None and other is not mine:
                    other.extend(mine)
                    for n in mine:
                        home[id(n)] = other
                    mine = other
        home[id(node)] = mine
    order = {id(n): k for k, n in enumerate(model.nodes)}
    found = []
    for nodes in {id(part): part for part in home.values()}.values():
        if any(n.op == "Transpose" for n in nodes):
            nodes.sort(key=lambda n: order[id(n)])
            inside = {id(n) for n in nodes}
            reads = {id(t): t for n in nodes for t in _data(n) if not t.inputs or id(t.inputs[0]) not in inside}
            tensors = [*reads.values(), *(t for n in nodes for t in n.outputs)]
            gives = [t for t in tensors if model.is_output(t) or any(id(n) not in inside for n in t.outputs)]
            found.append(_Region(nodes, list(reads.values()), gives))
    return found


def _numbers(analysis: Analysis, t: Tensor) -> bool:
    shape = analysis.shape(t.name)
    return shape is not None and len(shape) >= 3 and all(isinstance(n, int) for n in shape[1:])


def _extents(analysis: Analysis, t: Tensor) -> tuple[int, ...]:
    """Of samples (SOME where any number may come), channels and positions."""
    shape = analysis.shape(t.name)
    if shape is None or len(shape) < 3:
        raise _Not("a rank below three, or none that is known")
    first, *rest = shape
    extents = tuple(n for n in rest if isinstance(n, int))
    if len(extents) < len(rest):
        raise _Not("extents that are not known")
    return first if isinstance(first, int) else SOME, *extents


def _data(node: gs.Node) -> list[Tensor]:
    return list(node.inputs) if node.op == "Concat" else [node.inputs[0]]


def _resolve(model: Model, analysis: Analysis, region: _Region) -> None:
    """Put a Concat of parts in the place of each result. Raises _Not, with nothing changed, where that cannot be."""
    first, routes = _routes(model, analysis, region)
    parts = _parts(first, routes)
    edits: list[Edit] = []
    for k, t in enumerate(region.sources):
        order = np.concatenate(parts[k]) - first[k]
        if not _steady(order):
            _backwards(model, t, order, edits)
    made: list[list[tuple[int, int]]] = []
    for t, route in zip(region.results, routes):
        place = {int(c): i for i, c in enumerate(route)}
        wanted = [(k, j) for k, pieces in enumerate(parts) for j, p in enumerate(pieces) if int(p[0]) in place]
        order = np.array([place[int(c)] for k, j in wanted for c in parts[k][j]])
        if not _steady(order):
            _forwards(model, analysis, t, order, edits)
        made.append(wanted)
    _write(model, region, parts, made)
    for node, i, axis, order in edits:
        model.set_weight(node, i, np.take(node.inputs[i].values, order, axis))
    model.sort()
    model.drop_dead()


def _write(model: Model, region: _Region, parts: list[list[np.ndarray]], made: list[list[tuple[int, int]]]) -> None:
    """A Split of each source in several parts, and a Concat for each result, which its readers read from now on."""
    pieces: list[list[Tensor]] = []
    for t, of_source in zip(region.sources, parts):
        if len(of_source) == 1:
            pieces.append([t])
            continue
        sizes = [len(p) for p in of_source]
        late = model.opset >= 13
        inputs = [t, model.constant(f"{t.name}_sizes", np.array(sizes, np.int64))] if late else [t]
        outputs = [model.variable(f"{t.name}_part") for _ in sizes]
        model.node("Split", inputs, outputs, attrs={"axis": 1} | ({} if late else {"split": sizes}))
        pieces.append(outputs)
    for t, wanted in zip(region.results, made):
        whole = [(k, j) for k in {k for k, _ in wanted} for j in range(len(parts[k]))]
        if wanted == whole and len({k for k, _ in wanted}) == 1:
            new = region.sources[wanted[0][0]]
        elif len(wanted) == 1:
            new = pieces[wanted[0][0]][wanted[0][1]]
        else:
            new = model.node("Concat", [pieces[k][j] for k, j in wanted], attrs={"axis": 1}).outputs[0]
        inside = {id(n) for n in region.nodes}
        for node in {id(n): n for n in t.outputs if id(n) not in inside}.values():
            for i, u in enumerate(node.inputs):
                if u is t and new is not t and node.op != "Split":
                    node.inputs[i] = new


def _steady(order: np.ndarray) -> bool:
    return bool((np.diff(order) == 1).all())


def _routes(model: Model, analysis: Analysis, region: _Region) -> tuple[list[int], list[np.ndarray]]:
    """Where each source's channels begin in one numbering of all (and the end), and which channels each result holds."""
    whole = [_extents(analysis, t) for t in region.sources]
    if len({s[0] for s in whole}) > 1 or len({tuple(s[2:]) for s in whole}) > 1:
        raise _Not("sources of unlike extents")
    if sum(prod(_extents(analysis, t)) for n in region.nodes for t in n.outputs) > LARGEST:
        raise _Not("too many numbers to follow")
    batch, positions = whole[0][0], prod(whole[0][2:])
    channels = sum(s[1] for s in whole)
    if not batch * channels * positions:
        raise _Not("no numbers to follow")
    first = np.cumsum([0, *(s[1] for s in whole)]).tolist()
    numbers = np.arange(batch * channels * positions).reshape(batch, channels, *whole[0][2:])
    known = {id(t): numbers[:, a:b] for t, (a, b) in zip(region.sources, pairwise(first))}
    for node in region.nodes:
        inputs = [known.get(id(t), t.values if isinstance(t, gs.Constant) else None) for t in node.inputs]
        if any(v is None and t.name for v, t in zip(inputs, node.inputs)):
            raise _Not("a computed operand")
        try:
            made = evaluate(node, inputs, model.opset)
        except CannotFold as e:
            raise _Not(str(e)) from None
        known |= {id(t): v for t, v in zip(node.outputs, made)}
    routes = []
    for t in region.results:
        places = known[id(t)]
        if model.is_output(t) or places.shape[:1] + places.shape[2:] != numbers.shape[:1] + numbers.shape[2:]:
            raise _Not("a result of another form")
        route = places[0].reshape(places.shape[1], positions)[:, 0] // positions
        if route.max(initial=0) >= channels or not np.array_equal(places, numbers[:, route]):
            raise _Not("samples or positions are moved, not only channels")
        if len(set(route.tolist())) < len(route):
            raise _Not("a result holds a channel twice")
        routes.append(route)
    return first, routes


def _parts(first: list[int], routes: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The channels of each source in parts: those that go into the same results stand together."""
    goes: dict[int, list[int]] = {}
    for r, route in enumerate(routes):
        for c in route.tolist():
            goes.setdefault(c, []).append(r)
    found = []
    for begin, end in pairwise(first):
        by: dict[tuple[int, ...], list[int]] = {}
        for c in range(begin, end):
            by.setdefault(tuple(goes.get(c, ())), []).append(c)
        found.append([np.array(p) for _, p in sorted(by.items())])
    return found


def _backwards(model: Model, t: Tensor, order: np.ndarray, edits: list[Edit]) -> None:
    """Let what makes `t` make its channels in this order."""
    while True:
        maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
        if maker is None:
            raise _Not("a source that no layer makes")
        if model.is_standard(maker, "Conv"):
            if maker.attrs.get("group", 1) != 1 or not isinstance(maker.inputs[1], gs.Constant):
                raise _Not("a source of a grouped convolution")
            edits.append((maker, 1, 0, order))
            edits.extend(_vectors(maker, (2,), order))
            return
        if model.is_standard(maker, "BatchNormalization"):
            edits.extend(_vectors(maker, (1, 2, 3, 4), order))
        elif not model.is_standard(maker, *BY_CHANNEL):
            raise _Not(f"a source that {maker.op} makes")
        t = maker.inputs[0]
        if len(t.outputs) != 1 or model.is_output(t):
            raise _Not("what makes a source has other readers")


def _forwards(model: Model, analysis: Analysis, t: Tensor, order: np.ndarray, edits: list[Edit]) -> None:
    """Let all that read `t` take its channels in this order."""
    if model.is_output(t):
        raise _Not("a graph output")
    for node in {id(n): n for n in t.outputs}.values():
        out = node.outputs[0]
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if model.is_standard(node, "Conv") and node.inputs[0] is t and isinstance(weight, gs.Constant):
            if node.attrs.get("group", 1) == 1:
                edits.append((node, 1, 1, order))
            elif weight.values.shape[:2] == (len(order), 1):
                edits.append((node, 1, 0, order))
                edits.extend(_vectors(node, (2,), order))
                _forwards(model, analysis, out, order, edits)
            else:
                raise _Not("a grouped convolution reads it")
        elif model.is_standard(node, "BatchNormalization") and node.inputs[0] is t:
            edits.extend(_vectors(node, (1, 2, 3, 4), order))
            _forwards(model, analysis, out, order, edits)
        elif model.is_standard(node, "Concat") and node.attrs.get("axis") in (1, 1 - len(_extents(analysis, t))):
            at = [k for k, u in enumerate(node.inputs) if u is t]
            if len(at) > 1:
                raise _Not("a Concat reads it twice")
            begin = sum(_extents(analysis, u)[1] for u in node.inputs[: at[0]])
            longer = np.arange(_extents(analysis, out)[1])
            longer[begin : begin + len(order)] = order + begin
            _forwards(model, analysis, out, longer, edits)
        elif model.is_standard(node, *BY_CHANNEL) or _leaves_channels(model, node, t):
            if any(u.name and u.outputs for u in node.outputs[1:]):
                raise _Not("a second output is read")
            _forwards(model, analysis, out, order, edits)
        else:
            raise _Not(f"{node.op} reads it")


def _leaves_channels(model: Model, node: gs.Node, t: Tensor) -> bool:
    """A Pad or a Resize of positions alone."""
    if node.inputs[0] is not t or any(not isinstance(u, gs.Constant) for u in node.inputs[1:] if u.name):
        return False
    if model.is_standard(node, "Pad") and len(node.inputs) > 1 and len(node.inputs) < 4:
        pads = node.inputs[1].values
        return not pads[:2].any() and not pads[len(pads) // 2 :][:2].any()
    if model.is_standard(node, "Resize") and len(node.inputs) > 2 and "axes" not in node.attrs:
        scales = node.inputs[2].values if node.inputs[2].name else np.zeros(0)
        return bool(len(scales) > 2 and (scales[:2] == 1).all())
    return False


def _vectors(node: gs.Node, which: Iterable[int], order: np.ndarray) -> list[Edit]:
    given = [i for i in which if i < len(node.inputs) and node.inputs[i].name]
    if any(not isinstance(node.inputs[i], gs.Constant) for i in given):
        raise _Not("a computed operand")
    return [(node, i, 0, order) for i in given]
