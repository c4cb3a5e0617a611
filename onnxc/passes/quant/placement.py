"""Where quantisers go, so that whole chains of operators run on integers: which nodes, tensors, common scales.

- *Products* (Conv, ConvTranspose, Gemm, MatMul with a constant side) are always quantised.
- *Followers* (Add, Mul, average pooling, activations) join where all their inputs are there as integers and a product,
  or another follower that joins, reads the result; they start no chain of their own.
  So does a sum of them and a float tensor that a product reads as integers anyway, such as an input of the model.
- *Movers* (MaxPool, Reshape, Transpose, Slice, Concat, ...) only move or pick numbers: input and output share a scale,
  and the runtime drops the pair of conversions around them.

A Relu or Clip that alone reads the output of a product or a sum is *folded*: the quantiser stands behind it, its range
starts at zero, and the runtime finds the activation redundant. With `*` for QuantizeLinear, DequantizeLinear:

    x - Conv - Relu - Conv - Add - Relu - Conv   ->   x * Conv - Relu * Conv * Add - Relu * Conv *
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, Tensor
from ..layers.layout import PRODUCTS

INTEGER_OUT = ("Conv",)
"""Products with no integer kernel that gives floats: their output is quantised whoever reads it."""
SUMS = ("Add", "Sum", "Mul")
FOLLOWERS = (
    *SUMS, "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
    "AveragePool", "GlobalAveragePool",
)  # fmt: skip
MOVERS = (
    "MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather",
    "DepthToSpace", "SpaceToDepth", "Concat", "Identity", "Dropout", "Expand", "Tile", "Pad", "Resize",
)  # fmt: skip
KNOWN = (*PRODUCTS, *FOLLOWERS, *MOVERS)


@dataclass
class Placement:
    """What is to become integer.

    nodes: the nodes that read integers, in graph order: name -> "product", "follower" or "mover". folded: activations
    that a quantiser swallows. tensors: names of the tensors that get a quantiser, in graph order. whole: those of them
    that every reader sees quantised (the others for the sake of `nodes` alone). group: tensor -> the name of its group,
    which has one scale. sources: group -> the tensors whose values make its range.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)
    tensors: list[str] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    group: dict[str, str] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)


def place(model: Model, takes: Callable[[gs.Node], bool]) -> Placement:
    """Decide for `model`; `takes` says of a node whether it may be quantised (products: whether it can be, too)."""
    plan = Placement()
    behind = _forwards(model, takes, plan)
    wanted = _backwards(model, plan, behind)
    for name, t in model.tensors().items():
        if id(t) in wanted and isinstance(t, gs.Variable):
            plan.tensors.append(name)
            maker = t.inputs[0].name if t.inputs else None
            if maker in plan.nodes or maker in plan.folded:
                plan.whole.add(name)
    _groups(model, plan)
    return plan


def numbers_of(node: gs.Node) -> list[Tensor]:
    """The inputs that carry numbers: no weights, biases, shapes or pads."""
    return list(node.inputs) if node.op in (*SUMS, "Concat") else list(node.inputs[:1])


def single_reader(model: Model, t: Tensor) -> gs.Node | None:
    """The one node that reads `t`, once, where `t` is no graph output."""
    return t.outputs[0] if len(t.outputs) == 1 and not model.is_output(t) else None


def _forwards(model: Model, takes: Callable[[gs.Node], bool], plan: Placement) -> dict[int, Tensor]:
    """Enter all nodes that could join; returns id of a tensor ahead of a folded activation -> the tensor behind it."""
    # tensors whose numbers may be had as integers
    there = {id(n.inputs[0]) for n in model.nodes if model.is_standard(n, *PRODUCTS) and takes(n)}
    behind: dict[int, Tensor] = {}
    for node in model.nodes:
        if not model.is_standard(node, *KNOWN) or not takes(node):
            continue
        if node.op in PRODUCTS:
            plan.nodes[node.name] = "product"
        elif not all(id(t) in there for t in numbers_of(node)):
            continue
        elif node.op in MOVERS and movable(node):
            plan.nodes[node.name] = "mover"
        elif node.op in FOLLOWERS and (node.op != "Sum" or len(node.inputs) == 2):
            plan.nodes[node.name] = "follower"
        else:
            continue
        if node.op in (*PRODUCTS, *SUMS):
            out = node.outputs[0]
            reader = single_reader(model, out)
            if reader is not None and reader.inputs[0] is out and foldable(model, reader) and takes(reader):
                plan.folded.add(reader.name)
                behind[id(out)] = reader.outputs[0]
            there.add(id(behind.get(id(out), out)))
        else:
            there.update(id(t) for t in node.outputs if t.name)
    return behind


def _backwards(model: Model, plan: Placement, behind: dict[int, Tensor]) -> set[int]:
    """Drop followers and movers whose result nobody wants as integers; returns the ids of the tensors to quantise."""
    wanted: set[int] = set()
    for node in reversed(model.nodes):
        kind = plan.nodes.get(node.name)
        if kind is None:
            continue
        outs = {id(behind.get(id(t), t)) for t in node.outputs if t.name}
        if kind == "product":
            wanted.update(outs if node.op in INTEGER_OUT else ())
        elif outs & wanted:
            wanted |= outs
        else:
            del plan.nodes[node.name]
            continue
        wanted.update(id(t) for t in numbers_of(node))
    return wanted


def _groups(model: Model, plan: Placement) -> None:
    """Let movers share scales. A branch with other readers keeps its own ahead of Concat, which can convert."""
    parent = {name: name for name in plan.tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]  # chains of movers are long
            name = parent[name]
        return name

    inside: set[str] = set()  # tensors whose values stand in another tensor of the group as well
    for node in model.nodes:
        if plan.nodes.get(node.name) != "mover":
            continue
        concat = node.op == "Concat"
        for t in numbers_of(node):
            if concat and single_reader(model, t) is None:
                continue
            for out in node.outputs:
                if out.name in parent:
                    parent[root(out.name)] = root(t.name)
            if concat:
                inside.add(t.name)
        if not concat:
            inside.update(t.name for t in node.outputs)
    for name in plan.tensors:
        plan.group[name] = root(name)
        if name not in inside:
            plan.sources.setdefault(root(name), []).append(name)


def foldable(model: Model, node: gs.Node) -> bool:
    """A Relu, or a Clip to a constant range around zero."""
    bounds = clip_bounds(node) if model.is_standard(node, "Clip") else None
    return model.is_standard(node, "Relu") or (bounds is not None and bounds[0] <= 0 <= bounds[1])


def clip_bounds(node: gs.Node) -> tuple[float, float] | None:
    """The bounds of a Clip, or None where they are computed."""
    bounds = [node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)]
    for i, t in enumerate(node.inputs[1:3]):
        if t.name:
            if not isinstance(t, gs.Constant) or t.values.size != 1:
                return None
            bounds[i] = t.values.item()
    return bounds[0], bounds[1]


def movable(node: gs.Node) -> bool:
    """Whether the outputs hold nothing but numbers of the inputs, and zeros."""
    if node.op in ("MaxPool", "Dropout") and len(node.outputs) > 1 and node.outputs[1].name:
        return False
    if node.op == "Resize":
        cropped = (
            node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        )  # fills in a value of its own
        return node.attrs.get("mode", "nearest") == "nearest" and not cropped
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        fill = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        return fill is None or (isinstance(fill, gs.Constant) and not np.any(fill.values))
    return True
