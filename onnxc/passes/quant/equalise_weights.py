"""Cross-layer equalisation of weights alone, and absorption of biases (Nagel 2019, sections 4.1.1 and 4.1.3).

For a pair of layers the ranges of a channel in the weight that makes it, r1, and in the one that reads it, r2, are made equal:

    s = sqrt(r1 / r2),    W1 / s,  b1 / s,    W2 s,

pair after pair until nothing moves. A class of tensors with several makers or readers has the largest of their ranges. What a
channel is above 0 at all times then moves on: b1 - c, b2 + W2 c, where no padding of the reader puts zeros beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...ir.model import Model
from ..layers.layout import layout
from ..layers.linear import add_to_bias, bias_home
from .scaling import Class

SWEEPS, STILL = 50, 1e-3


def by_weights(found: list[Class], least: float) -> list[np.ndarray]:
    """For each class the scales s, float64 [channels], the largest of them 1; none below `least`."""
    nodes = {n.name: n for c in found for n in (*c.makers, *(r for r, _ in c.readers))}
    views = {name: np.abs(layout(n).view(n.inputs[1].values).astype(np.float64)) for name, n in nodes.items()}
    scales = [np.ones(c.channels) for c in found]
    for _ in range(SWEEPS):
        moved = 0.0
        for k, c in enumerate(found):
            made = np.max([views[n.name].max((2, 3)).ravel() for n in c.makers], axis=0)
            read = np.max([views[n.name].max((1, 3)).reshape(c.channels, -1).max(1) for n, _ in c.readers], axis=0)
            s = np.sqrt(np.where((made > 0) & (read > 0), made / np.where(read > 0, read, 1.0), 1.0))
            s = np.maximum(scales[k] * s / (scales[k] * s).max(), least) / scales[k]
            for n in c.makers:
                g, o, *_ = views[n.name].shape
                views[n.name] = views[n.name] / s.reshape(g, o, 1, 1)
            for n, repeat in c.readers:
                g, _, columns, _ = views[n.name].shape
                views[n.name] = views[n.name] * np.repeat(s, repeat).reshape(g, 1, columns, 1)
            scales[k] = scales[k] * s
            moved = max(moved, float(np.abs(np.log(s)).max()))
        if moved < STILL:
            break
    return scales


def absorb(model: Model, c: Class, nodes: Mapping, low: np.ndarray) -> int:
    """Let the readers' biases take what the channels are at least, `low` [channels]; how many channels that moves."""
    readers = [(nodes[n.name], repeat) for n, repeat in c.readers]
    lift = np.maximum(low, 0.0)
    if len(c.makers) != 1 or not lift.any() or any(_padded(n) or bias_home(model, n) is None for n, _ in readers):
        return 0
    add_to_bias(model, nodes[c.makers[0].name], -lift)
    for n, repeat in readers:
        view = layout(n).view(n.inputs[1].values).astype(np.float64)
        wide = np.repeat(lift, repeat).reshape(view.shape[0], view.shape[2])
        add_to_bias(model, n, np.einsum("gocp,gc->go", view, wide).ravel())
    return int(np.count_nonzero(lift))


def _padded(node) -> bool:
    return bool(np.any(node.attrs.get("pads", 0))) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
