"""Quantisers in front of products: their numbers from calibration values, and the nodes that they become.

With c the centre (0 where the input has both signs), s a scale or scales, all of the whole tensor:

    sign      x ~ c + s Binarize(x - c)                 the scale goes into the weights, c into the bias
    xnor      x ~ c + K Binarize(x - c), K = the mean magnitude of what the window sees (Rastegari 2016)
    horq      x ~ c + ResidualBinarize(x - c, s)        static, or measured on each sample
    uniform   x ~ Quantize(x, s, low, high), the scale of least squared error on what was seen
    hwgq      x ~ Quantize(x, s, 0, high), the scale that is best for half a Gaussian of the same power (Cai 2017)

hwgq and two_step may be sparse: what is at most t becomes 0, all above it at least one step, with t the quantile of the
Gaussian that `sparsity` names and the step that is best for what is above. A half is the published grid of HWGQ (t = 0;
steps of 0.538 deviations at 2 bits), more are the sparse codes of two-step quantisation (Wang 2018):

    x ~ Quantize([x > t] max(x, s), s, 0, high)

More planes of horq than the function takes are those of one call and, of what it leaves, those of another.

What would be padding of a Conv is padded first, with zeros or with what zero becomes, by a Pad of its own: so +-1 data
are padded with +-1. Zero is a level of the uniform ones, and their Conv pads by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions, quantisers
from ...ir.model import Model, Tensor
from ..layers.linear import Linear, bias_home

KINDS = ("none", "sign", "xnor", "horq", "hwgq", "uniform", "two_step")
TURNS = 12
SEEN = 1 << 13
"""Values that scales of planes are fitted to."""


@dataclass(frozen=True)
class Quantiser:
    """kind: one of KINDS ("two_step" is uniform). scales: [order] of horq, [1] else. low, high: of the uniform kinds.

    above: of the sparse ones, the greatest input that becomes 0; None where the nearest level is taken.
    """

    kind: str
    centre: float = 0.0
    scales: tuple[float, ...] = (1.0,)
    low: float = 0.0
    high: float = 0.0
    above: float | None = None

    @property
    def gain(self) -> float:
        """What the weights are to be multiplied by: Binarize has lost the scale."""
        return self.scales[0] if self.kind == "sign" else 1.0

    def __str__(self) -> str:
        if self.kind in ("sign", "xnor"):
            return f"input by {self.kind}"
        if self.kind.startswith("horq"):
            return f"input by {len(self.scales)} planes{' measured' if self.kind == 'horq dynamic' else ''}"
        sparse = "" if self.above is None else f", 0 up to {self.above:.4g}"
        return f"input {self.low:g} .. {self.high:g} times {self.scales[0]:.4g}{sparse}"


def calibrate(
    kind: str, bits: int, dynamic: bool, x: np.ndarray, centred: bool | None, sparsity: float | None = None
) -> Quantiser:
    """The quantiser for a tensor of which the values `x` were seen. centred: None to centre what is never negative.

    sparsity: share of a Gaussian, 0.5 to 1, that hwgq and two_step make 0 in what is never negative.
    """
    x = x.ravel().astype(np.float64)
    least = float(x.min(initial=0))
    if kind in ("uniform", "two_step", "hwgq"):
        low = 0.0 if least >= 0 else -(2.0 ** (bits - 1))
        high = 2.0**bits - 1 if least >= 0 else 2.0 ** (bits - 1) - 1
        if sparsity is not None and least >= 0:
            deviation = max(float(np.sqrt(2 * (x * x).mean())), 1e-12)
            above = NormalDist().inv_cdf(sparsity)
            step = half_gaussian(int(high), above)
            return Quantiser(kind, 0.0, (deviation * step,), 0.0, high, deviation * above)
        if kind == "hwgq" and least >= 0:
            scale = float(np.sqrt(2 * (x * x).mean())) * half_gaussian(int(high))
        else:
            scale = best_scale(x, low, max(high, 1.0) if least < 0 else high)
        return Quantiser(kind, 0.0, (max(scale, 1e-12),), low, max(high, 1.0) if low == 0 else high)
    centred = least >= 0 if centred is None else centred
    order = bits if kind == "horq" else 1
    centre, scales = planes(x, order, centred)
    if kind == "horq" and dynamic:
        return Quantiser("horq dynamic", centre, (1.0,) * order)
    return Quantiser(kind, centre, tuple(scales))


def planes(x: np.ndarray, order: int, centred: bool) -> tuple[float, list[float]]:
    """(centre, scales) of the residual form, scales falling.

    From several starts, planes and the least squares of centre and scales given the planes take turns; the best is kept.
    The starts are the greedy scales as published and, for ranges of several widths, scales that halve from plane to plane:
    a uniform quantiser of 2^order levels.
    """
    x = x if x.size <= SEEN else x[:: -(-x.size // SEEN)]
    mean = float(x.mean()) if centred else 0.0
    starts = [(mean, quantisers.residual(x - mean, order)[0])]
    for share in (0.5, 0.9, 0.99, 1.0) if order > 1 else ():
        low, high = np.quantile(x, [1 - share, share]) if centred else (-(q := float(np.quantile(np.abs(x), share))), q)
        halving = (high - low) / 2 * 0.5 ** np.arange(1, order + 1) * (2**order / (2**order - 1))
        starts.append((float(low + high) / 2 if centred else 0.0, halving))
    best = min((_turns(x, c, s, centred) for c, s in starts), key=lambda found: found[0])
    return best[1], [float(s) for s in best[2]]


def _turns(x: np.ndarray, centre: float, scales: np.ndarray, centred: bool) -> tuple[float, float, np.ndarray]:
    """(mean squared error, centre, scales) after a few turns, the best of them."""
    best = (np.inf, centre, scales)
    for _ in range(TURNS):
        scales = np.maximum(-np.sort(-np.abs(scales)), 1e-12)
        left, parts = x - centre, []
        for s in scales:
            parts.append(np.where(left >= 0, 1.0, -1.0))
            left = left - s * parts[-1]
        error = float((left**2).mean())
        if error >= best[0] * (1 - 1e-4):
            break
        best = (error, centre, scales)
        columns = np.stack([*parts, *([np.ones_like(x)] if centred else [])], 1)
        solved = np.linalg.pinv(columns.T @ columns) @ (columns.T @ x)
        centre, scales = (float(solved[-1]), solved[:-1]) if centred else (0.0, solved)
    return best


def best_scale(x: np.ndarray, low: float, high: float, steps: int = 60) -> float:
    """The scale of least squared error: a grid over the range, and a finer one around its best."""
    top = max(float(x.max(initial=0)) / max(high, 1), -float(x.min(initial=0)) / max(-low, 1), 1e-12)
    x = x if x.size <= 1 << 15 else x[:: x.size >> 15]

    def error(s: float) -> float:
        return float(((np.clip(np.rint(x / s), low, high) * s - x) ** 2).mean())

    coarse = min(top * np.arange(1, steps + 1) / steps, key=error)
    return float(min(coarse * np.linspace(0.9, 1.1, 21), key=error))


def half_gaussian(levels: int, above: float | None = None) -> float:
    """The step of the uniform quantiser 0 .. levels that is best for max(0, z), z normal: by quadrature.

    above: what is greater becomes at least one step, the rest 0, and only the former counts; None: the nearest level.
    """
    z = np.linspace(0 if above is None else above, 6, 6001)
    weight = np.exp(-z * z / 2)
    steps = np.linspace(0.02, 2.0, 400 if above is None else 1981)
    level = np.clip(np.rint(z[None] / steps[:, None]), 0 if above is None else 1, levels) * steps[:, None]
    return float(steps[np.argmin((((level - z) ** 2) * weight).sum(1))])


class Inserter:
    """Puts quantisers into a model; one tensor quantised alike for two readers is quantised once."""

    def __init__(self, model: Model):
        self.model = model
        self.made: dict[tuple, gs.Variable] = {}

    def insert(self, layer: Linear, q: Quantiser, pads: list[int] | None) -> tuple[gs.Node, int] | None:
        """Let the layer read its quantised input; returns where its bias stands then, (node, input), or None.

        pads: of a Conv, as its attribute has them; None for other products.
        """
        node = layer.node
        edges = tuple(pads or ())
        padded = any(edges)
        x, home = node.inputs[0], bias_home(self.model, node)
        if q.kind == "none":
            return home
        if q.kind in ("uniform", "two_step", "hwgq"):
            bounds = [np.float32(v) for v in (q.scales[0], q.low, q.high)]
            node.inputs[0] = self._once(x, q, (), lambda: self._call("Quantize", self._sparse(x, q), bounds))
            return home
        if q.kind == "sign":
            bits = self._once(x, q, (), lambda: self._call("Binarize", self._moved(x, q), []))
            edge = 1.0 if q.centre <= 0.0 else -1.0
            node.inputs[0] = self._once(bits, q, edges, lambda: self._pad(bits, edges, edge)) if padded else bits
        else:
            outer = self._once(x, Quantiser("pad"), edges, lambda: self._pad(x, edges, 0.0)) if padded else x
            if q.kind == "xnor":
                home = self._xnor(layer, self._moved(outer, q))
            else:
                node.inputs[0] = self._once(outer, q, (), lambda: self._planes(self._moved(outer, q), q))
        if padded:
            node.attrs["pads"] = [0] * len(edges)
            node.attrs.pop("auto_pad", None)
        return home

    def _once(self, x: Tensor, q: Quantiser, pads: tuple, make) -> gs.Variable:
        key = (x.name, q, pads)
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def _call(self, name: str, x: Tensor, rest: list) -> gs.Variable:
        return functions.call(
            self.model, name, [x, *rest], stem=f"{x.name}_{name.lower()}", before=self._at(x)
        ).outputs[0]

    def _planes(self, x: Tensor, q: Quantiser) -> gs.Variable:
        """The sum of all planes; those past the function's order are planes of what the first call leaves."""
        name = "DynamicResidualBinarize" if q.kind == "horq dynamic" else "ResidualBinarize"
        scales, most = np.array(q.scales, np.float32), quantisers.MAX_ORDER
        made = self._call(name, x, [scales[:most]])
        if len(scales) == len(scales[:most]):
            return made
        return self._node("Add", made, self._call(name, self._node("Sub", x, made), [scales[most:]]))

    def _sparse(self, x: Tensor, q: Quantiser) -> Tensor:
        """[x > above] max(x, scale), which rounds to at least one step where it is not zero."""
        if q.above is None:
            return x
        over = self._node("Greater", x, self.model.constant(f"{x.name}_above", np.float32(q.above)))
        over = self.model.node("Cast", [over], attrs={"to": 1}, before=self._at(over)).outputs[0]
        raised = self._node("Max", x, self.model.constant(f"{x.name}_step", np.float32(q.scales[0])))
        return self._node("Mul", raised, over)

    def _node(self, op: str, *inputs: Tensor) -> gs.Variable:
        """A node behind the makers of all that it reads."""
        made = [t for t in inputs if t.inputs]
        last = max(
            made, key=lambda t: next(i for i, n in enumerate(self.model.nodes) if n is t.inputs[0]), default=inputs[0]
        )
        return self.model.node(op, list(inputs), before=self._at(last)).outputs[0]

    def _moved(self, x: Tensor, q: Quantiser) -> Tensor:
        if q.centre == 0.0:
            return x
        c = self.model.constant(f"{x.name}_centre", np.float32(q.centre))
        return self.model.node("Sub", [x, c], before=self._at(x)).outputs[0]

    def _pad(self, x: Tensor, pads: Sequence[int], value: float) -> gs.Variable:
        half = len(pads) // 2
        widths = self.model.constant(f"{x.name}_pads", np.array([0, 0, *pads[:half], 0, 0, *pads[half:]]))
        c = self.model.constant(f"{x.name}_edge", np.float32(value))
        return self.model.node("Pad", [x, widths, c], before=self._at(x)).outputs[0]

    def _at(self, x: Tensor) -> gs.Node | None:
        """The first node behind the maker of `x`."""
        nodes = self.model.nodes
        if not x.inputs:
            return nodes[0]
        at = next(i for i, n in enumerate(nodes) if n is x.inputs[0]) + 1
        return nodes[at] if at < len(nodes) else None

    def _xnor(self, layer: Linear, x: Tensor) -> tuple[gs.Node, int]:
        """y = conv(Binarize(x), w) * K + bias: K = conv(mean over channels of |x|, 1 / positions)."""
        model, node = self.model, layer.node
        bits = self._call("Binarize", x, [])
        size = model.node("Abs", [x], before=node).outputs[0]
        axis = layer.channel_axis
        if model.opset >= 18:
            axes = model.constant(f"{node.name}_axes", np.array([axis]))
            mean = model.node("ReduceMean", [size, axes], attrs={"keepdims": 1}, before=node).outputs[0]
        else:
            mean = model.node("ReduceMean", [size], attrs={"axes": [axis], "keepdims": 1}, before=node).outputs[0]
        if layer.is_conv:
            kernel = layer.weight.shape[2:]
            box = model.constant(f"{node.name}_box", np.full((1, 1, *kernel), 1 / np.prod(kernel), np.float32))
            attrs = {k: node.attrs[k] for k in ("strides", "dilations") if k in node.attrs}
            mean = model.node("Conv", [mean, box], attrs=attrs, before=node).outputs[0]
        node.inputs[0] = bits
        out, bias = node.outputs[0], list(node.inputs[2:])
        while len(node.inputs) > 2:
            node.inputs.pop()
        node.outputs[0] = model.variable(f"{node.name}_bits")
        following = self._at(node.outputs[0])
        product = model.node("Mul", [node.outputs[0], mean], before=following).outputs[0]
        values = bias[0].values if bias else np.zeros(layer.outputs, np.float32)
        shape = (-1, *[1] * (layer.weight.ndim - 2)) if layer.is_conv else (-1,)
        values = np.broadcast_to(values.ravel(), (layer.outputs,)).reshape(shape)
        return model.node("Add", [product, model.constant(f"{node.name}_bias", values)], [out], before=following), 1
