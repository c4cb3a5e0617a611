"""Integer weights and biases of products fitted to what they read on data, for `quant.int8(rounding=...)`.

The quantisers of activations stand in the model already. `gptq` takes each product by itself; the others, and bias
correction alone, go through them in graph order, so that each makes up for those ahead of it (see `refine`). The latter
leaves the steps of weights as they are without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, read_only
from ...ir.qtype import QType
from ...ir.verify import verify
from ..base import Context
from ..layers.inturn import InTurn
from ..layers.linear import Linear, bias_home, linear
from ..layers.moments import Moments, moments
from . import affine, refine, rounding

SHRINK = np.linspace(1.0, 0.4, 31)
"""Steps tried below eight bits, as shares of the one that covers the largest weight."""


@dataclass(frozen=True)
class Fitted:
    """stored: int8, of the weight's shape; scale: float32 [channels], or [] for all; bias: float32 [outputs] or None."""

    stored: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Request:
    """A product to fit: its layer in the float model, the quantiser of its input, bits, one scale or one by channel."""

    layer: Linear
    x: QType
    bits: int
    per_channel: bool

    def quantise(self, x: np.ndarray) -> np.ndarray:
        """What the product reads instead of `x`."""
        return affine.dequantise(affine.quantise(x, self.x), self.x)

    def solved(self, seen: Moments, how: str, biased: bool) -> Fitted:
        """The integers for these moments; biased: whether the product may have a bias."""
        layer = self.layer
        bias = None
        if biased:
            bias = np.zeros(layer.outputs) if layer.bias is None else np.broadcast_to(layer.bias, layer.outputs)
            bias = np.asarray(bias, np.float64).ravel()
        top = (1 << (self.bits - 1)) - 1
        stored, scale, bias = refine.solve(layer.matrix(), bias, seen, self._scales(bias, top, how), top, how)
        stored = layer.as_weight(stored).astype(np.int8)
        scale = np.asarray(scale.ravel() if self.per_channel else scale.max(), np.float32)
        return Fitted(read_only(stored), scale, None if bias is None else bias.astype(np.float32))

    def _scales(
        self, bias: np.ndarray | None, top: int, how: str
    ) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        x_scale, _ = affine.parameters(self.x)

        def scales(u: np.ndarray, goal: np.ndarray, h: np.ndarray) -> np.ndarray:
            full = np.maximum(np.abs(u).max(2, keepdims=True) / top, float(affine.TINY))
            if how == "seqmse":
                full = _least(u, full, top, lambda v: rounding.error(v, goal, h))
            elif self.bits < 8 and how != "nearest":
                diagonal = np.einsum("gii->gi", h)
                full = _least(u, full, top, lambda v: np.einsum("gok,gk->go", np.square(u - v), diagonal))
            full = full if self.per_channel else np.full_like(full, full.max())
            flat = full.ravel().astype(np.float32)
            if bias is not None:
                flat = affine.room_for_bias(flat, bias if self.per_channel else np.abs(bias).max(), x_scale)
            return flat.astype(np.float64).reshape(full.shape)

        return scales


def _least(u: np.ndarray, full: np.ndarray, top: int, error: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Of each output the step [g, o, 1] of least error [g, o], where each weight is rounded by itself."""
    best, least = full, np.full(full.shape, np.inf)
    for share in SHRINK:
        scale = full * share
        now = error(rounding.nearest(u, scale, top) * scale)[:, :, None]
        best, least = np.where(now < least, scale, best), np.minimum(now, least)
    return best


def requests(real: Model, wanted: dict[str, tuple[QType, int]], per_channel: bool) -> tuple[list[Request], dict]:
    """What can be fitted of the products `wanted` (name -> quantiser of its input, bits); name -> reason for the rest."""
    found, refused = [], {}
    for node in real.nodes:
        if node.name in wanted:
            layer = linear(real, node)
            why = refine.refusal(layer) or ("others use its weight" if len(node.inputs[1].outputs) > 1 else None)
            if why is None and layer is not None:
                found.append(Request(layer, *wanted[node.name], per_channel))
            else:
                refused[node.name] = why
    return found, refused


def fit(real: Model, done: Model, asked: list[Request], how: str, ctx: Context) -> Iterator[tuple[str, Fitted]]:
    """(name, integers) product by product. `done` is the model that the caller quantises on the way: but with `gptq` it
    must hold each product's integers before the next is asked for."""
    analysis = verify(real).analysis
    layers = [r.layer for r in asked]
    if how != "gptq":
        walk = InTurn(real, done, analysis, layers, ctx, targets="inputs")
        seen: Iterator[Moments] = (walk.next() for _ in layers)
    else:
        seen = moments(real, analysis, [[x] for x in layers], ctx, instead=[r.quantise for r in asked])
    for request in asked:
        node = request.layer.node
        yield node.name, request.solved(next(seen), how, _biased(real, node))


def _biased(model: Model, node: gs.Node) -> bool:
    return node.op != "MatMul" or bias_home(model, node) is not None
