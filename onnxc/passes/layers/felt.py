"""What the outputs feel of a change in one layer, measured on a few samples.

A layer's own error, as a part of the power of what it puts out, is one thing; what the outputs make of it is another, which
differs by orders of magnitude from layer to layer. Noises of different layers hardly correlate, so that the sum of what
each gives alone estimates what they give together.

An output that a Concat joins (boxes beside classes) is looked at part by part, and a part of three axes or more channel by
channel, each by its own variance: the part of large numbers would hide what the others lose, and sizes of boxes their places.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import analyse
from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context
from .capture import Stream
from .linear import Linear, add_to_bias, bias_home

SAMPLES = 16
EVEN = 0.01
"""Added to the variance of each channel, in parts of the channels' mean: what hardly varies on few samples is no measure."""


def parts_of_outputs(model: Model) -> list[str]:
    """The tensors that outputs are looked at by: what a Concat joins, else the output itself."""
    names: dict[str, None] = {}
    for t in model.outputs:
        maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
        if maker is not None and model.is_standard(maker, "Concat"):
            parts = [u for u in maker.inputs if isinstance(u, gs.Variable)]
        else:
            parts = [t]
        names |= dict.fromkeys(u.name for u in parts)
    return list(names)


def even(power: np.ndarray) -> np.ndarray:
    """Variances [channels] to divide errors by: none is nought, or much less than the others."""
    level = power + EVEN * power.mean()
    return np.where(level > 0, level, 1.0)


def noise(reference: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    """Error power by variance, each channel (axis 1) of a map by its own, of the worst of the floating tensors of `reference`."""
    shares = []
    for name, y in reference.items():
        if y.dtype.kind == "f" and y.size:
            rest = tuple(k for k in range(y.ndim) if k != 1 or y.ndim < 3)
            wide = y.astype(np.float64)
            variance = wide.var(rest)
            spread = even(variance if (variance > 0).any() else np.square(wide).mean(rest))
            shares.append(float((np.square(got[name] - wide).mean(rest) / spread).mean()))
    return max(shares, default=0.0)


class Felt:
    """Compares changed copies of `model` with it, on SAMPLES samples; its own outputs are run once."""

    def __init__(self, model: Model, ctx: Context):
        if ctx.runner is None:
            raise BadOption("this pass looks at activations, and was given no runner")
        self.model, self.runner = model, ctx.runner
        self.names = parts_of_outputs(model)
        self.feeds = list(Stream(ctx, analyse(model), self.names, SAMPLES))  # a model may take one sample at a time
        self.real = self._run(model)

    def _run(self, model: Model) -> dict[str, np.ndarray]:
        run = self.runner.prepare(model.to_proto(), self.names)
        each = [run(feeds) for feeds in self.feeds]
        return {name: np.concatenate([got[name] for got in each]) for name in self.names} if len(each) > 1 else each[0]

    def __call__(self, changes: list[tuple[Linear, np.ndarray, np.ndarray]]) -> float:
        """The noise of the outputs where layers have other matrices [g, o, k]: (layer, matrix, the mean [g, k] of its
        rows, for which the bias makes up)."""
        work = self.model.copy()
        nodes = {n.name: n for n in work.nodes}
        for old, matrix, mean in changes:
            layer = replace(old, node=nodes[old.node.name])
            shift = np.einsum("gok,gk->go", layer.matrix() - matrix, mean)
            work.set_weight(layer.node, layer.i, layer.as_weight(matrix))
            if bias_home(work, layer.node) is not None:
                add_to_bias(work, layer.node, shift.ravel())
        return noise(self.real, self._run(work))
