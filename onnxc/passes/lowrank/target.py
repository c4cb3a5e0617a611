"""A layer that may be factored: its weight as w [g, o, c, i, j], where its MACs go, and how its stages enter the graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.cost import node_macs, number
from ...ir.model import Model
from ...ir.numbers import read
from ..layers.layout import RECURRENT, Layout, layout
from .forms import Form, Rank, Stage

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
_SPATIAL = ("strides", "dilations", "pads", "output_padding")


@dataclass
class Target:
    """nodes: those that read one weight. spots: output positions of each kind of stage, summed over the nodes."""

    nodes: list[gs.Node]
    w: np.ndarray
    spots: dict[str, int]
    macs: int

    @property
    def node(self) -> gs.Node:
        return self.nodes[0]

    @property
    def is_conv(self) -> bool:
        return self.node.op in CONVOLUTIONS

    @property
    def is_pointwise(self) -> bool:
        return prod(self.w.shape[3:]) == 1

    @property
    def params(self) -> int:
        return self.w.size

    def cost(self, form: Form, rank: Rank) -> tuple[int, int]:
        """(MACs, parameters) in this form at this rank."""
        sizes = form.sizes(self.w.shape, rank)
        return sum(n * self.spots[place] for n, place in sizes), sum(n for n, _ in sizes)

    def forms(self, wanted: list[Form]) -> tuple[list[Form], str]:
        """Those of the forms that apply here, and why the others do not. Matrices know one: SVD, which `channel` is."""
        spatial_axes = self.node.inputs[1].values.ndim - 2 if self.is_conv else 0
        kept, why = [], []
        for form in wanted:
            if self.is_pointwise and form.name != "channel":
                why.append(f"{form.name} needs a kernel larger than 1x1")
            elif form.planar and spatial_axes != 2:
                why.append(f"{form.name} needs a kernel of two axes, not {spatial_axes}")
            else:
                kept.append(form)
        return kept, ", ".join(why)


def refusal(model: Model, analysis: Analysis, users: list[gs.Node]) -> str | None:
    """Why the nodes that share a weight cannot be factored, or None."""
    for node in users:
        if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
            return _no_weight(node)
        w = node.inputs[1].values
        if isinstance(node.inputs[0], gs.Constant):
            return "both sides are constants"
        if analysis.axes.get(node.inputs[0].name) is None or analysis.axes.get(node.outputs[0].name) is None:
            return "the rank of what it reads is not known"
        if w.dtype.kind != "f":
            return f"its weight is {w.dtype.name}, not of floating point"
        if node.op in RECURRENT and len(users) > 1:
            return "its weight is shared by recurrent layers"
        if node.op in PRODUCTS and w.ndim != 2:
            return f"its weight has rank {w.ndim}"
        with np.errstate(over="ignore", invalid="ignore"):
            single = w.astype(np.float32, copy=False)
            squares = np.vdot(single, single)
        if w.size == 0 or not np.isfinite(squares):
            return "its weight is empty, not finite, or too large to be squared"
        if node.op == "ConvTranspose" and node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            return "it pads by auto_pad, which does not split over the stages of a transposed convolution"
        if node.op == "ConvTranspose" and "output_shape" in node.attrs:
            return "it gives its output's shape, which does not split over stages"
    t, first = users[0].inputs[1], users[0]
    if len(t.outputs) > len(users) or model.is_output(t):
        other = next((n.name for n in t.outputs if all(n is not u for u in users)), "a graph output")
        return f"its weight must stay for {other}"
    keys = ("group", "transB")
    if any(u.op != first.op or any(u.attrs.get(k) != first.attrs.get(k) for k in keys) for u in users):
        return "its weight is shared with another kind of layer"
    return None


def _no_weight(node: gs.Node) -> str:
    maker = node.inputs[1].inputs[0] if len(node.inputs) > 1 and node.inputs[1].inputs else None
    if maker is None:
        return "its weight is no constant"
    if maker.op == "DequantizeLinear" or (maker.op in ("Mul", "Cast") and read(node.inputs[1]) is not None):
        return f"its weight is quantised ({maker.op}): take the float model"
    return f"its weight is computed ({maker.op} {maker.name})"


def target(analysis: Analysis, users: list[gs.Node]) -> Target:
    """From nodes without refusal."""
    spots = dict.fromkeys(("pre", "k0", "k1", "k", "post"), 0)
    w = weight(users[0])
    for node in users:
        if node.op in PRODUCTS:
            for place in spots:
                spots[place] += node_macs(analysis, node) // w.size
            continue
        if node.op in RECURRENT:  # W sees each position once, whatever the state costs
            positions = node_macs(analysis, node) // (w.size + node.inputs[2].values.size)
            return Target(users, w, dict.fromkeys(spots, positions), positions * w.size)
        before, after = (
            [number(a, analysis.sizes) for a in analysis.known(t.name)[2:]] for t in (node.inputs[0], node.outputs[0])
        )
        batch = number(analysis.known(node.outputs[0].name)[0], analysis.sizes)
        grids = {"pre": before, "post": after, "k": after, "k0": [after[0], *before[1:]], "k1": after}
        if node.op == "ConvTranspose":
            grids |= {"k": before, "k0": before, "k1": [after[0], *before[1:]]}
        for place, grid in grids.items():
            spots[place] += batch * prod(grid)
    return Target(users, w, spots, sum(node_macs(analysis, n) for n in users))


def weight(node: gs.Node) -> np.ndarray:
    """The weight as float64 [g, o, c, i, j]; i holds all kernel axes but the last. Both directions of a recurrent layer read
    the same, so they are one group there."""
    stored = node.inputs[1].values
    if node.op in RECURRENT:
        return stored.astype(np.float64).reshape(1, -1, stored.shape[2], 1, 1)
    view = layout(node).view(stored).astype(np.float64)
    return view.reshape(*view.shape[:3], -1, stored.shape[-1] if node.op in CONVOLUTIONS else 1)


def replace(model: Model, at: Target, form: Form, factors: list[np.ndarray]) -> None:
    """Put the stages into the graph; each node stays as the last of its stages, with its bias, output and name."""
    node = at.node
    dtype = node.inputs[1].values.dtype
    if node.op in RECURRENT:
        _ahead(model, node, *(f.reshape(f.shape[1:3]).astype(dtype) for f in factors))
        return
    if not at.is_conv:
        rows_lead = layout(node).output_axis == 0
        stored = (f.reshape(f.shape[1:3]) for f in factors)
        weights = [
            model.constant(f"{node.inputs[1].name}_{part}", np.ascontiguousarray(f if rows_lead else f.T, dtype))
            for part, f in zip(("first", "second"), stored, strict=True)
        ]
        for user in at.nodes:
            _split(model, user, *weights)
        return
    stages = form.stages(factors)
    kernel = node.inputs[1].values.shape[2:]
    stem = node.inputs[1].name
    weights = [model.constant(f"{stem}_{n + 1}", _stored(s, node, kernel, dtype)) for n, s in enumerate(stages)]
    for user in at.nodes:
        _chain(model, user, stages, weights)


def _ahead(model: Model, node: gs.Node, first: np.ndarray, second: np.ndarray) -> None:
    """Put x first' ahead of a recurrent layer, which reads that by `second`: [rank, inputs] and [d·g·h, rank]."""
    stem, shape = node.inputs[1].name, node.inputs[1].values.shape
    weight = model.constant(f"{stem}_first", np.ascontiguousarray(first.T))
    new = model.node("MatMul", [node.inputs[0], weight], name=f"{node.name}_first", before=node)
    node.inputs[0] = new.outputs[0]
    node.inputs[1] = model.constant(f"{stem}_second", np.ascontiguousarray(second).reshape(*shape[:2], -1))


def _split(model: Model, node: gs.Node, first: gs.Constant, second: gs.Constant) -> None:
    """Put a product by the first factor ahead of `node`, which goes on with the second; bias, alpha and beta stay there."""
    ahead: dict = {}
    if node.op == "Gemm":
        ahead = {k: node.attrs[k] for k in ("transA", "transB") if k in node.attrs}
        node.attrs.pop("transA", None)
    new = model.node(node.op, [node.inputs[0], first], name=f"{node.name}_first", attrs=ahead, before=node)
    node.inputs[0], node.inputs[1] = new.outputs[0], second


def _chain(model: Model, node: gs.Node, stages: list[Stage], weights: list[gs.Constant]) -> None:
    attrs = dict(node.attrs)
    source = node.inputs[0]
    for n, (stage, w) in enumerate(zip(stages, weights, strict=True)):
        op = "Conv" if stage.place in ("pre", "post") else node.op
        mine = _attributes(attrs, stage, w.values.shape[2:])
        if n < len(stages) - 1:
            new = model.node(op, [source, w], name=f"{node.name}_{n + 1}", attrs=mine, before=node)
            source = new.outputs[0]
        else:
            node.op = op
            node.attrs.clear()
            node.attrs.update(mine)
            node.inputs[0], node.inputs[1] = source, w


def _attributes(attrs: dict, stage: Stage, kernel: tuple[int, ...]) -> dict:
    """Strides, dilations, pads and output padding of the axes that the stage's kernel covers; 1 and 0 on the others."""
    mine: dict = {"kernel_shape": list(kernel)}
    if stage.groups != 1:
        mine["group"] = stage.groups
    if stage.place in ("pre", "post"):
        return mine
    d = len(kernel)
    covered = {"k": range(d), "k0": (0,), "k1": (1,)}[stage.place]
    for key in _SPATIAL:
        if key in attrs:
            rest = 1 if key in ("strides", "dilations") else 0
            mine[key] = [v if n % d in covered else rest for n, v in enumerate(attrs[key])]
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        mine["auto_pad"] = attrs["auto_pad"]
        mine.pop("pads", None)
    return mine


def _stored(stage: Stage, node: gs.Node, kernel: tuple[int, ...], dtype) -> np.ndarray:
    """The stage's weight as its node stores it."""
    w = stage.weight
    shape = {"k": kernel, "k0": (*kernel[:1], 1), "k1": (1, *kernel[1:])}.get(stage.place, (1,) * len(kernel))
    op = "Conv" if stage.place in ("pre", "post") else node.op
    return Layout.of(op, stage.groups, w.shape[0] // stage.groups, w.shape[1], shape).store(w, dtype)
