"""compact.fire: convolutions as the modules of SqueezeNet."""

from __future__ import annotations

from typing import Annotated

from ..base import register
from ..options import Range
from .blocks import fire
from .common import Compact, middle


@register("compact.fire")
class Fire(Compact):
    """Rewrite convolutions as 1 x 1 to few channels, Relu, then 1 x 1 beside the kernel (Iandola 2016, SqueezeNet).

    Before -> after; the few channels come in pairs of opposite signs, which the Relu lets pass:

        Conv 3x3 64 -> 64  ->  Conv 1x1 64 -> 16, Relu, Conv 1x1 16 -> 32 beside Conv 3x3 16 -> 32, Concat  (0.17 of the MACs)

    Training is to follow.

    squeeze: channels inside by channels of the input. ends: the first and the last product stay. skip: patterns of layer names
    to leave alone.
    """

    squeeze: Annotated[float, Range(above=0, high=1)] = 0.25

    def block(self, node, w):
        if w[0, 0].size == 1 or len(w) < 2:
            return "its kernel is 1x1" if len(w) > 1 else "it has one output"
        if not middle(node):
            return "the middle of its kernel does not stand over its outputs"
        return fire(w, max(1, round(self.squeeze * w.shape[1] / 2)))
