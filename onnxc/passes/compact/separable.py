"""compact.separable: convolutions as depthwise and 1 x 1 ones (MobileNet)."""

from __future__ import annotations

from typing import Annotated

from ..base import register
from ..options import Range
from .blocks import separable
from .common import Compact


@register("compact.separable")
class Separable(Compact):
    """Rewrite convolutions as a depthwise one and a 1 x 1 one, nearest to the old weights (Howard 2017, MobileNet).

    Before -> after, for each input channel the nearest kernels of rank `multiplier`:

        Conv 3x3 64 -> 64  ->  Conv 3x3 of each of 64 channels, Conv 1x1 64 -> 64    (0.127 of the MACs)

    Training is to follow: train.distill(epochs=10), say.

    multiplier: depthwise filters of each channel. ends: the first and the last product stay. skip: patterns of layer names
    to leave alone.
    """

    multiplier: Annotated[int, Range(1)] = 1

    def block(self, node, w):
        return "its kernel is 1x1" if w[0, 0].size == 1 else separable(w, self.multiplier)
