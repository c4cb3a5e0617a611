"""prune.dead: channels that give nothing go, exactly.

    Conv 3->8 (two kernels all zero, biases 0), Relu, Conv 8->4        ->   Conv 3->6, Relu, Conv 6->4
    BatchNormalization (scale 0, shift 2), Relu, Conv without padding  ->   one channel less, 2 W in the bias

Trained networks have such channels (batch normalisations with scale 0, depthwise kernels that weight decay has emptied). A
channel is dead where every layer that sums over it either has only zeros for it, or reads a constant there: zero, or
another one where no padding stands beside it, which then goes into that layer's bias.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Aligned, Atom, atoms, find
from ...ir.masks import apply_masks
from ...ir.model import Model, Tensor
from ..base import Claim, Context, Pass, Report, register
from ..layers.linear import add_to_bias, bias_home, linear
from ..options import Range
from ..quant.placement import clip_bounds
from .coupling import Group, Member, groups, places
from .select import masks

STILL = ("Relu", "Clip", "MaxPool", "GlobalMaxPool", "GlobalAveragePool", "Identity", "Dropout")
"""Operators that make of a constant channel a constant one."""


@register("prune.dead")
class PruneDead(Pass):
    """Remove the channels that give nothing to any layer: the outputs stay what they are.

    threshold: weights of at most this magnitude count as zero; above 0 the outputs change a little.
    """

    requires = ("clean",)
    claim = Claim.EXACT

    threshold: Annotated[float, Range(0)] = 0.0

    def __post_init__(self) -> None:
        if self.threshold > 0:
            self.claim = Claim.LOSSY

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        analysis = analyse(model, alike=True)
        known = constants(model, analysis, self.threshold)
        held = _held(model, analysis)
        found = [g for g in groups(model, analysis, "none") if g.atom not in held]
        alive = {g.atom: ~self._dead(model, analysis, g, known) for g in found}
        counts = {g.atom: max(1, int(alive[g.atom].sum())) for g in found}
        keep = masks(found, {a: m.astype(np.float64) for a, m in alive.items()}, counts)
        shifts = [
            shift
            for g in found
            if g.atom in keep
            for m in g.members
            if m.role == "contracts" and (shift := self._shift(model, analysis, g, m, known, ~keep[g.atom])) is not None
        ]
        for g in found:
            if g.atom in keep:
                report.edit(g.name, f"{g.size} -> {int(keep[g.atom].sum())} channels: the others gave nothing")
        apply_masks(model, analysis, keep)
        for node, shift in shifts:
            if shift.any():
                add_to_bias(model, node, shift)
        return report

    def _dead(self, model: Model, analysis: Analysis, g: Group, known: dict[int, np.ndarray]) -> np.ndarray:
        """Which channels of the group give nothing, bool [size]."""
        dead = np.ones(g.size, bool)
        readers = [m for m in g.members if m.role == "contracts"]
        for m in readers:
            columns = _columns(analysis, g, m)
            if columns is None or m.layer is not m.node:
                return np.zeros(g.size, bool)
            weights = np.abs(np.moveaxis(m.values, m.d, 0)).reshape(m.values.shape[m.d], -1).max(1, initial=0)
            unread = (weights <= self.threshold)[columns].all(1)
            constant = _at(analysis, g, m, known)
            still = (constant == 0).all(1)
            if _takes_constants(model, m.node):
                still = np.isfinite(constant).all(1)
            dead &= unread | still
        return dead if readers else np.zeros(g.size, bool)

    def _shift(self, model: Model, analysis: Analysis, g: Group, m: Member, known, gone: np.ndarray):
        """(layer, what its outputs lose with the constants [outputs]) where a layer read constants that are not zero."""
        constant = _at(analysis, g, m, known)
        values = np.where(np.isfinite(constant), constant, 0.0)[gone]
        columns = _columns(analysis, g, m)
        layer = linear(model, m.node)
        if not values.any() or columns is None or layer is None:
            return None
        taps = layer.columns // m.values.shape[m.d]
        x = np.zeros((m.values.shape[m.d], taps))
        x[columns[gone].ravel()] = values.reshape(-1, 1)
        return m.node, np.einsum("ok,k->o", layer.matrix()[0], x.ravel())


def _held(model: Model, analysis: Analysis) -> set[Atom]:
    """Channels that are summed over by something else than a layer, or of which groups must keep equally many."""
    held = {a for parts in analysis.balanced for axis in parts for a in atoms(axis)}
    for node in model.nodes:
        for i, d in analysis.facts[node.name].contracted:
            axes = analysis.of(node, i)
            if axes is not None and linear(model, node) is None:
                held.update(atoms(axes[d]))
    return held


def _columns(analysis: Analysis, g: Group, m: Member) -> np.ndarray | None:
    """Where the group's channels stand on the weight axis of a member, [size, n]; None where blocks have axes of their own."""
    axis = find(analysis.uses[m.node.name, m.i][m.d])
    return None if isinstance(axis, Aligned) else places(axis)[g.atom]


def _at(analysis: Analysis, g: Group, m: Member, known: dict[int, np.ndarray]) -> np.ndarray:
    """The constants of the group's channels where a layer reads them, [size, n]; nan where they vary."""
    columns = _columns(analysis, g, m)
    x = m.node.inputs[0]
    values = known.get(id(x))
    axes = analysis.axes.get(x.name)
    if values is None or columns is None or axes is None or len(values) != m.values.shape[m.d]:
        return np.full((g.size, 1 if columns is None else columns.shape[1]), np.nan)
    return values[columns]


def _takes_constants(model: Model, node: gs.Node) -> bool:
    """Whether a constant input is the same sum at each position, and there is a bias to take it."""
    layer = linear(model, node)
    if layer is None or layer.groups != 1 or bias_home(model, node) is None:
        return False
    padded = node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(node.attrs.get("pads", ()))
    return node.op != "Conv" or not padded


def constants(model: Model, analysis: Analysis, threshold: float = 0.0) -> dict[int, np.ndarray]:
    """id of a tensor -> the value of each of its channels (axis 1) that is the same for all inputs and positions, else nan."""
    known: dict[int, np.ndarray] = {}
    for node in model.nodes:
        made = _made(model, analysis, node, known, threshold)
        if made is not None and np.isfinite(made).any():
            known[id(node.outputs[0])] = made
    return known


def _made(model: Model, analysis: Analysis, node: gs.Node, known: dict, threshold: float) -> np.ndarray | None:
    x = known.get(id(node.inputs[0])) if node.inputs else None
    if model.is_standard(node, "Conv", "Gemm") and (layer := linear(model, node)) is not None:
        w = np.where(np.abs(layer.matrix()) <= threshold, 0.0, layer.matrix())
        channels = layer.columns // layer.layout.positions
        seen = np.full((layer.groups, channels), np.nan) if x is None else x.reshape(layer.groups, channels)
        varies = np.repeat(seen != 0, layer.layout.positions, axis=1)
        still = ~((w != 0) & varies[:, None]).any(2).reshape(-1)
        bias = 0.0 if layer.bias is None else layer.bias.reshape(-1).astype(np.float64)
        return np.where(still, bias, np.nan)
    if model.is_standard(node, "BatchNormalization") and all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
        gamma, beta, mean, var = (t.values.astype(np.float64) for t in node.inputs[1:5])
        gamma = np.where(np.abs(gamma) <= threshold, 0.0, gamma)
        scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        through = np.nan if x is None else (x - mean) * scale + beta
        return np.where(gamma == 0, beta, through)
    if model.is_standard(node, "Add") and len(node.inputs) == 2:
        both = [known.get(id(t)) for t in node.inputs]
        same = analysis.shape(node.inputs[0].name) == analysis.shape(node.inputs[1].name)
        return both[0] + both[1] if same and both[0] is not None and both[1] is not None else None
    if x is None or not model.is_standard(node, *STILL) or not _ranked(analysis, node.inputs[0]):
        return None
    if node.op == "Relu":
        return np.maximum(x, 0)
    if node.op == "Clip":
        bounds = clip_bounds(node)
        return None if bounds is None else np.clip(x, *bounds)
    return x


def _ranked(analysis: Analysis, t: Tensor) -> bool:
    shape = analysis.shape(t.name)
    return shape is not None and len(shape) >= 2
