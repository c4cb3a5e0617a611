"""compact.inverted_residual: convolutions as the blocks of MobileNet v2."""

from __future__ import annotations

from typing import Annotated

import onnx_graphsurgeon as gs

from ...ir.errors import BadOption
from ..base import register
from ..options import Range
from .blocks import inverted_residual
from .common import Compact, middle

POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Abs", "Exp", "Softmax")
KEEPS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout", "Reshape", "Transpose", "Pad")


@register("compact.inverted_residual")
class InvertedResidual(Compact):
    """Rewrite convolutions as 1 x 1 to more channels, depthwise, 1 x 1, with Relu between (Sandler 2018, MobileNet v2).

    Before -> after, where the input is never negative (so that the first Relu harms nothing); the depthwise filters come in
    pairs of opposite signs, which the second Relu lets pass:

        Conv 3x3 64 -> 64  ->  Conv 1x1 64 -> 128, Relu, Conv 3x3 of each, Relu, Conv 1x1 128 -> 64    (0.48 of the MACs)

    A shortcut goes around the block where extents allow it and what is left of the weights is nearer then. Relu stands where
    the paper has Relu6, whose bound would cut what the old network makes. Training is to follow.

    expand: channels inside by channels of the input; even. ends: the first and the last product stay. skip: patterns of layer
    names to leave alone.
    """

    expand: Annotated[int, Range(2)] = 2

    def __post_init__(self) -> None:
        if self.expand % 2:
            raise BadOption("option expand does not fit", pass_name=self.name, expected="an even number",
                            found=self.expand)  # fmt: skip

    def block(self, node, w):
        if w[0, 0].size == 1:
            return "its kernel is 1x1"
        if not positive(node.inputs[0]):
            return "its input may be negative, which the first Relu would cut"
        found = [inverted_residual(w, self.expand // 2, False)]
        if w.shape[0] == w.shape[1] and middle(node) and all(s == 1 for s in node.attrs.get("strides", [1, 1])):
            found.append(inverted_residual(w, self.expand // 2, True))
        return min(found, key=lambda b: float(((b.like - w) ** 2).sum()))


def positive(t: gs.Variable) -> bool:
    """Whether a tensor is known to hold no negative number."""
    while isinstance(t, gs.Variable) and t.inputs:
        node = t.inputs[0]
        if node.op in POSITIVE:
            return True
        if node.op == "Clip" and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
            return bool((node.inputs[1].values >= 0).all())
        if node.op not in KEEPS or (
            node.op == "Pad" and node.attrs.get("mode", "constant") == "constant" and len(node.inputs) > 2
        ):
            return False
        t = node.inputs[0]
    return False
