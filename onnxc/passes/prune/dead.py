"""prune.dead: channels that give nothing go, exactly.

    Conv 3->8 (two kernels all zero, biases 0), Relu, Conv 8->4        ->   Conv 3->6, Relu, Conv 6->4
    BatchNormalization (scale 0, shift 2), Relu, Conv without padding  ->   one channel less, 2 W in the bias

Trained networks have such channels (batch normalisations with scale 0, depthwise kernels that weight decay has emptied). A
channel is dead where every layer that sums over it either has only zeros for it, or reads a constant there: zero, or
another one where no padding stands beside it, which then goes into that layer's bias. In an
8-bit network it is the constant that the quantiser makes, and goes into the integer bias as whole numbers.
"""

from __future__ import annotations

from math import prod
from typing import Annotated

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Aligned, Atom, atoms, find
from ...ir.masks import apply_masks, mask
from ...ir.model import Model, Tensor
from .. import options
from ..base import Claim, Context, Pass, Report, register
from ..quant.placement import clip_bounds
from .coupling import Group, Member, groups, places
from .dead_products import Range, dequantised, product, quantised
from .select import masks

STILL = ("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "Identity", "Dropout")
"""Operators whose results lie between the values of their channel."""


@register("prune.dead")
class PruneDead(Pass):
    """Remove the channels that give nothing to any layer: the outputs stay what they are.

    threshold: weights of at most this magnitude count as zero; above 0 the outputs change a little.
    """

    requires = ("clean",)
    claim = Claim.EXACT

    threshold: Annotated[float, options.Range(0)] = 0.0

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
            if m.role == "contracts" and not _passes_on(analysis, g, m)
            if (shift := _shift(model, analysis, g, m, known, ~keep[g.atom])) is not None
        ]
        for g in found:
            if g.atom in keep:
                report.edit(g.name, f"{g.size} -> {int(keep[g.atom].sum())} channels: the others gave nothing")
        apply_masks(model, analysis, keep)
        for layer, shift in shifts:
            axes = analysis.axes[layer.node.outputs[0].name] or ()
            layer.add_to_bias(model, shift, mask(axes[1 if layer.node.op == "Conv" else -1], keep))
        return report

    def _dead(self, model: Model, analysis: Analysis, g: Group, known: dict[int, np.ndarray]) -> np.ndarray:
        """Which channels of the group give nothing, bool [size]."""
        dead = np.ones(g.size, bool)
        readers = [m for m in g.members if m.role == "contracts" and not _passes_on(analysis, g, m)]
        for m in readers:
            columns = _columns(analysis, g, m)
            if columns is None:
                return np.zeros(g.size, bool)
            weights = np.abs(np.moveaxis(m.values, m.d, 0)).reshape(m.values.shape[m.d], -1).max(1, initial=0)
            unread = (weights <= self.threshold)[columns].all(1)
            constant = _at(analysis, g, m, known)
            still = (constant == 0).all(1)
            layer = product(model, m.layer)
            if layer is not None and layer.takes_constants(model, np.nanmax(np.abs(constant), initial=0.0)):
                still = np.isfinite(constant).all(1)
            dead &= unread | still
        return dead if readers else np.zeros(g.size, bool)


def _passes_on(analysis: Analysis, g: Group, m: Member) -> bool:
    """Whether a layer makes of each channel of the group one of its own, as depthwise layers do: who reads that one decides."""
    axes = analysis.axes.get(m.layer.outputs[0].name)
    return axes is not None and any(g.atom in atoms(axis) for axis in axes)


def _shift(model: Model, analysis: Analysis, g: Group, m: Member, known, gone: np.ndarray):
    """(layer, what its outputs lose with the constants [outputs]) where a layer read constants that are not zero."""
    constant = _at(analysis, g, m, known)
    values = np.where(np.isfinite(constant), constant, 0.0)[gone]
    columns = _columns(analysis, g, m)
    layer = product(model, m.layer)
    if not values.any() or columns is None or layer is None:
        return None
    taps = layer.columns // m.values.shape[m.d]
    x = np.zeros((m.values.shape[m.d], taps))
    x[columns[gone].ravel()] = values.reshape(-1, 1)
    return layer, np.einsum("ok,k->o", layer.matrix[0], x.ravel())


def _held(model: Model, analysis: Analysis) -> set[Atom]:
    """Channels that are summed over by something else than a layer, or of which groups must keep equally many."""
    held = {a for parts in analysis.balanced for axis in parts for a in atoms(axis)}
    for node in model.nodes:
        for i, d in analysis.facts[node.name].contracted:
            axes = analysis.of(node, i)
            if axes is not None and product(model, node) is None:
                held.update(atoms(axes[d]))
    return held


def _columns(analysis: Analysis, g: Group, m: Member) -> np.ndarray | None:
    """Where the group's channels stand on the weight axis of a member, [size, n]; None where blocks have axes of their own."""
    axis = find(analysis.uses[m.node.name, m.i][m.d])
    return None if isinstance(axis, Aligned) else places(axis)[g.atom]


def _at(analysis: Analysis, g: Group, m: Member, known: dict[int, np.ndarray]) -> np.ndarray:
    """The constants of the group's channels where a layer reads them, [size, n]; nan where they vary."""
    columns = _columns(analysis, g, m)
    x = m.layer.inputs[0]
    values = known.get(id(x))
    axes = analysis.axes.get(x.name)
    if values is None or columns is None or axes is None or len(values) != m.values.shape[m.d]:
        return np.full((g.size, 1 if columns is None else columns.shape[1]), np.nan)
    return values[columns]


def constants(model: Model, analysis: Analysis, threshold: float = 0.0) -> dict[int, np.ndarray]:
    """id of a tensor -> the value of each of its channels (axis 1) that is the same for all inputs and positions, else nan."""
    ranges: dict[int, Range] = {}
    for node in model.nodes:
        made = _range(model, analysis, node, ranges, threshold)
        if made is not None and len(made[0]) in _extents(analysis, node.outputs[0]):
            ranges[id(node.outputs[0])] = made
    same = {key: np.where(low == high, low, np.nan) for key, (low, high) in ranges.items()}
    return {key: values for key, values in same.items() if np.isfinite(values).any()}


def _range(model: Model, analysis: Analysis, node: gs.Node, ranges: dict[int, Range], threshold: float) -> Range | None:
    """Between what values each channel of the result lies, of all positions; None where nothing is known."""
    x = ranges.get(id(node.inputs[0])) if node.inputs else None
    if model.is_standard(node, "Conv", "Gemm") and (layer := product(model, node)) is not None:
        return layer.range(x, threshold)
    if model.is_standard(node, "QuantizeLinear"):
        return quantised(node, x, _extents(analysis, node.inputs[0])[0])
    if model.is_standard(node, "BatchNormalization") and all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
        gamma, beta, mean, var = (t.values.astype(np.float64) for t in node.inputs[1:5])
        gamma = np.where(np.abs(gamma) <= threshold, 0.0, gamma)
        scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        low, high = x if x is not None else (np.full(len(gamma), -np.inf), np.full(len(gamma), np.inf))
        with np.errstate(invalid="ignore"):  # infinity times zero, which `where` leaves out
            ends = [np.where(scale == 0, beta, (v - mean) * scale + beta) for v in (low, high)]
        return np.minimum(*ends), np.maximum(*ends)
    if model.is_standard(node, "Add") and len(node.inputs) == 2:
        both = [ranges.get(id(t)) for t in node.inputs]
        same = analysis.shape(node.inputs[0].name) == analysis.shape(node.inputs[1].name)
        if not same or both[0] is None or both[1] is None:
            return None
        return both[0][0] + both[1][0], both[0][1] + both[1][1]
    return None if x is None else _moved(model, analysis, node, x)


def _moved(model: Model, analysis: Analysis, node: gs.Node, x: Range) -> Range | None:
    """The range behind an operator of one input that leaves channels where they are."""
    low, high = x
    if model.is_standard(node, "DequantizeLinear"):
        return dequantised(node, x)
    if model.is_standard(node, "Relu"):
        return np.maximum(low, 0), np.maximum(high, 0)
    if model.is_standard(node, "Clip"):
        bounds = clip_bounds(node)
        return None if bounds is None else (np.clip(low, *bounds), np.clip(high, *bounds))
    if model.is_standard(node, "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"):
        return (
            x if _extents(analysis, node.inputs[0])[1:] == [len(low)] else None
        )  # values in a row stay in their order
    if len(low) != _extents(analysis, node.inputs[0])[0]:
        return None
    if model.is_standard(node, "AveragePool"):
        beside = node.attrs.get("count_include_pad", 0) or node.attrs.get("ceil_mode", 0)
        return (np.minimum(low, 0), np.maximum(high, 0)) if beside else x
    return x if model.is_standard(node, *STILL) else None


def _extents(analysis: Analysis, t: Tensor) -> list[int]:
    """The channels of a tensor, and its elements where they are known and all but one axis are 1; [0] for one without channels."""
    shape = analysis.shape(t.name)
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return [0]
    known = [extent for extent in shape if isinstance(extent, int)]
    row = len(known) == len(shape) and sum(extent != 1 for extent in known) == 1
    return [shape[1], prod(known)] if row else [shape[1]]
