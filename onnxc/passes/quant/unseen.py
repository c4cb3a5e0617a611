"""Levels for weights whose inputs nobody has seen: chosen so that the outputs, as far as can be guessed, change least.

Weights of a layer y = W x that change by d change its outputs by d x, of mean square d E[x x'] d'. Without data the moments
are guessed, up to a factor:

    E[x x']  =  T between taps of one channel, 0 between channels,  +  m between all

T: what stands side by side is alike, by NEAR^distance along each axis of the kernel. m: inputs behind a Relu are above zero
together. For z of mean 0 and variance 1, E[max(z, 0)]^2 = 1/2π and var(max(z, 0)) = 1/2 - 1/2π, so m = 1 / (π - 1).
Then errors of neighbouring taps should cancel, and so should those of all weights of an output, which levels next to each
weight leave to chance (SQuant, Guo 2022, for integers and a kernel whose taps are wholly alike).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Tensor
from ..layers.stored import Layer
from .placement import clip_bounds

NEAR = 0.5
"""Correlation of neighbours: what the layers of trained image networks have, about (0.3 to 0.9, median 0.53, in ResNet-20)."""
MEAN = 1 / (np.pi - 1)
SWEEPS = 4
STRIP = 1 << 22
"""Weights that are held in float64 at once."""
ABOVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Abs", "Sqrt")
OF_ONE = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape", "Transpose", "Identity", "Dropout",
    "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth", "ReduceMean", "ReduceSum", "ReduceMax",
)  # fmt: skip
"""Nothing below zero comes out where nothing below zero goes in."""
OF_ALL = ("Concat", "Add", "Mul", "Max")


def above_zero(t: Tensor) -> bool:
    """Whether the operators that make `t` leave nothing below zero."""
    todo, seen = [t], set()
    while todo:
        t = todo.pop()
        if id(t) in seen:
            continue
        seen.add(id(t))
        if isinstance(t, gs.Constant):
            if t.values.size and t.values.min() < 0:
                return False
            continue
        node = t.inputs[0] if t.inputs else None
        if node is None or node.op not in (*OF_ONE, *OF_ALL, "Clip", *ABOVE):
            return False
        if node.op == "Clip" and ((bounds := clip_bounds(node)) is None or bounds[0] < 0):
            return False
        todo += node.inputs[:1] if node.op in OF_ONE else node.inputs if node.op in OF_ALL else ()
    return True


def moments(layer: Layer) -> tuple[np.ndarray, float]:
    """(T float64 [positions, positions], m) of what the layer reads."""
    near: np.ndarray = np.ones((1, 1))
    if layer.nodes[0].op == "Conv":
        for k in layer.layout.stored[2:]:
            near = np.kron(near, NEAR ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))))
    else:  # the taps of a transposed convolution fall on outputs of their own
        near = np.eye(layer.layout.positions)
    reads = [n.inputs[0 if layer.i else 1] for n in layer.nodes] if not layer.recurrent else []
    return near, MEAN if reads and all(map(above_zero, reads)) else 0.0


def dense(layer: Layer) -> np.ndarray:
    """E[x x'] float64 [groups, columns, columns]."""
    near, mean = moments(layer)
    whole = np.kron(np.eye(layer.layout.channels), near) + mean
    return np.repeat(whole[None], layer.layout.groups, 0)


def settle(layer: Layer, w: np.ndarray, indices: np.ndarray, levels: np.ndarray, *, zeros: bool = False) -> np.ndarray:
    """Indices that change the outputs less than `indices` do, if any: each weight in turn to its best level given all others.

    w: [..., channels, positions], outputs of the layer. indices: integers of that shape, into the ascending `levels`.
    zeros: weights that are zero keep their index.
    """
    near, mean = moments(layer)
    columns = w.shape[-2] * w.shape[-1]
    flat, at = w.reshape(-1, columns), indices.reshape(-1, columns).copy()
    if mean == 0 and len(near) == 1:
        return at.reshape(indices.shape)
    step = max(1, STRIP // columns)
    for i in range(0, len(flat), step):
        rows = slice(i, i + step)
        at[rows] = _descend(flat[rows].T, at[rows].T, levels.astype(np.float64), near, mean, zeros).T
    return at.reshape(indices.shape)


def _descend(
    w: np.ndarray, at: np.ndarray, levels: np.ndarray, near: np.ndarray, mean: float, zeros: bool
) -> np.ndarray:
    """w and at: [channels·positions, outputs]."""
    w, at = np.ascontiguousarray(w, np.float64), np.ascontiguousarray(at)
    bounds, positions = (levels[1:] + levels[:-1]) / 2, len(near)
    off = w - levels[at]
    total = off.sum(0)
    for _ in range(SWEEPS):
        moved = False
        for j in range(len(w)):
            c, p = divmod(j, positions)
            slope = near[p] @ off[c * positions : (c + 1) * positions] + mean * total
            new = np.searchsorted(bounds, w[j] - off[j] + slope / (near[p, p] + mean)).astype(at.dtype)
            if zeros:
                new = np.where(w[j] == 0, at[j], new)
            if (new != at[j]).any():
                left = w[j] - levels[new]
                total += left - off[j]
                off[j], at[j], moved = left, new, True
        if not moved:
            break
    return at


def error(layer: Layer, change: np.ndarray) -> float:
    """The sum over outputs of d E[x x'] d' for a change d of the weights, of the common view's shape."""
    near, mean = moments(layer)
    d = change.reshape(-1, *change.shape[-2:]).astype(np.float64)
    return float(((d @ near) * d).sum() + mean * np.square(d.sum((1, 2))).sum())
