"""Compact blocks that come nearest to a convolution w [o, c, i, j], in closed form: stages of plain convolutions.

A Relu between two stages is passed unharmed by pairs of opposite signs, as z = relu(z) - relu(-z); training makes two filters
of each pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..lowrank.forms import halves, pair


@dataclass(frozen=True)
class Stage:
    """One convolution of a block. weight: [outputs, inputs of one group, i, j].

    place: "pre" 1 x 1 on the input's grid, "k" with the old strides and pads, "centre" 1 x 1 with the old strides, "post" 1 x 1
    on the output's grid. relu: behind it. shuffle: groups whose channels are dealt out behind it.
    """

    weight: np.ndarray
    groups: int
    place: str
    relu: bool = False
    shuffle: int = 1


@dataclass(frozen=True)
class Block:
    """stages in turn; `ends`: the last ones, side by side, whose outputs are joined. like: the weight that it stands for."""

    stages: list[Stage]
    ends: list[Stage]
    like: np.ndarray
    shortcut: bool = False

    def macs(self, strides: int) -> int:
        """MACs for each output position; `strides`: input positions by output positions."""
        return sum(s.weight.size * (strides if s.place == "pre" else 1) for s in [*self.stages, *self.ends])


def _channels(w: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise [c, rank, i, j] and pointwise [c, o, rank]: for each input channel the nearest of that rank."""
    o, c, i, j = w.shape
    first, second = halves(pair(w.transpose(1, 0, 2, 3).reshape(c, o, i * j))[0], min(rank, o, i * j))
    return first.reshape(c, -1, i, j), second


def separable(w: np.ndarray, multiplier: int) -> Block:
    """Depthwise, `multiplier` filters of each channel, then 1 x 1 (Howard 2017)."""
    depth, point = _channels(w, multiplier)
    c, m, i, j = depth.shape
    made = [Stage(depth.reshape(c * m, 1, i, j), c, "k")]
    end = Stage(point.transpose(1, 0, 2).reshape(len(w), c * m, 1, 1), 1, "post")
    return Block(made, [end], np.einsum("cmij,com->ocij", depth, point))


def inverted_residual(w: np.ndarray, pairs: int, shortcut: bool) -> Block:
    """1 x 1 to 2 `pairs` times the channels, Relu, depthwise, Relu, 1 x 1 (Sandler 2018), around it a shortcut if asked for.

    The first Relu harms nothing where the input is never negative.
    """
    o, c, i, j = w.shape
    middle = np.zeros_like(w)
    if shortcut:
        middle[np.arange(c), np.arange(c), i // 2, j // 2] = 1
    depth, point = _channels(w - middle, pairs)
    like = np.einsum("cmij,com->ocij", depth, point) + middle
    both, signed = np.concatenate([depth, -depth], 1), np.concatenate([point, -point], 2)
    m = both.shape[1]
    wide = np.repeat(np.eye(c), m, 0).reshape(c * m, c, 1, 1)
    made = [Stage(wide, 1, "pre", relu=True), Stage(both.reshape(c * m, 1, i, j), c * m, "k", relu=True)]
    end = Stage(signed.transpose(1, 0, 2).reshape(o, c * m, 1, 1), 1, "post")
    return Block(made, [end], like, shortcut)


def shuffled(w: np.ndarray, groups: int, rank: int) -> Block:
    """1 x 1 in groups, a shuffle of the channels, 1 x 1 in groups (Zhang 2018, ShuffleNet).

    Each group of outputs meets each group of inputs through `rank` channels: the nearest such matrix has the nearest block
    of that rank in each place (Dao 2022, Monarch, theorem 1).
    """
    o, c = w.shape[:2]
    blocks = w.reshape(groups, o // groups, groups, c // groups).transpose(0, 2, 1, 3)  # [q, i, o/g, c/g]
    first, second = halves(pair(blocks.reshape(groups * groups, o // groups, c // groups))[0], rank)
    first = first.reshape(groups, groups, -1, c // groups)
    second = second.reshape(groups, groups, o // groups, -1)
    like = np.einsum("qiot,qitc->qoic", second, first).reshape(w.shape)
    # channel (q, t) of group i goes to place (t, i) of group q
    one = first.transpose(1, 0, 2, 3).reshape(-1, c // groups, 1, 1)
    two = second.transpose(0, 2, 3, 1).reshape(o, -1, 1, 1)
    return Block([Stage(one, groups, "pre", shuffle=groups)], [Stage(two, groups, "k")], like)


def fire(w: np.ndarray, pairs: int) -> Block:
    """1 x 1 to 2 `pairs` channels, Relu, then half of the outputs by 1 x 1, half by the kernel (Iandola 2016).

    1 x 1 get those of the two halves whose kernels have more of their energy in the middle.
    """
    o, c, i, j = w.shape
    half, energy = o // 2, np.square(w)
    centre = energy[:, :, i // 2, j // 2].sum(1) / (energy.sum((1, 2, 3)) + 1e-30)
    low = centre[:half].mean() >= centre[half:].mean()
    point = slice(0, half) if low else slice(half, o)
    target = w.copy()
    target[point] = 0
    target[point, :, i // 2, j // 2] = w[point, :, i // 2, j // 2]
    first, second = halves(pair(target.transpose(1, 0, 2, 3).reshape(1, c, -1))[0], pairs)
    squeeze, spread = second[0].T, first[0].reshape(-1, o, i, j).transpose(1, 0, 2, 3)
    like = np.einsum("orij,rc->ocij", spread, squeeze)
    narrow = np.concatenate([squeeze, -squeeze])[:, :, None, None]
    wide = np.concatenate([spread, -spread], 1)
    ends = [Stage(wide[half:] if low else wide[:half], 1, "k")]
    one = Stage(wide[point, :, i // 2, j // 2][:, :, None, None], 1, "centre")
    return Block([Stage(narrow, 1, "pre", relu=True)], [one, *ends] if low else [*ends, one], like)
