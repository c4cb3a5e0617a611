"""compact.shuffle: 1 x 1 convolutions in groups, with a channel shuffle between (ShuffleNet)."""

from __future__ import annotations

from typing import Annotated

from ..base import register
from ..options import Range
from .blocks import shuffled
from .common import Compact


@register("compact.shuffle")
class Shuffle(Compact):
    """Rewrite 1 x 1 convolutions as two in groups with a channel shuffle between (Zhang 2018, ShuffleNet).

    Before -> after, the nearest such product in closed form (Dao 2022, Monarch matrices), the shuffle a Gather:

        Conv 1x1 64 -> 64  ->  Conv 1x1 64 -> 64 in 4 groups, shuffle, Conv 1x1 64 -> 64 in 4 groups    (0.5 of the MACs)

    Behind compact.separable it makes ShuffleNet's units. Training is to follow.

    groups: of both. share: of the layer's MACs that may be left. ends: the first and the last product stay. skip: patterns
    of layer names to leave alone.
    """

    groups: Annotated[int, Range(2)] = 4
    share: Annotated[float, Range(above=0, below=1)] = 0.5

    def block(self, node, w):
        o, c = w.shape[:2]
        if w[0, 0].size > 1 or any(s > 1 for s in node.attrs.get("strides", [1])) or any(node.attrs.get("pads", [])):
            return "it is no plain 1x1"
        if o % self.groups or c % self.groups:
            return f"{c} and {o} channels are no multiples of {self.groups} groups"
        rank = int(self.share * c * o / (self.groups * (c + o)) + 1e-9)
        if not rank:
            return f"{c} and {o} channels are too few for {self.groups} groups"
        return shuffled(w, self.groups, min(rank, o // self.groups, c // self.groups))
