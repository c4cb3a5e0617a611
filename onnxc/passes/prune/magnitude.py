"""prune.magnitude: zero the smallest weights (Han, Mao, Dally: Deep Compression, 2016).

Conv w [64, 64, 3, 3]      (sparsity 0.9)      Conv w with 33,178 of 36,864 entries zero; no shape changes
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.stored import layers, select, total
from ..options import Range


@register("prune.magnitude")
class PruneMagnitude(Pass):
    """Zero the weights of least magnitude in convolutions and matrix products.

    sparsity: share of zeros. scope: of all layers together (global), or of each layer. scale: how weights of different
    layers compare when scope is global: none (by magnitude itself), std (magnitude over the layer's standard deviation,
    as in Deep Compression), lamp (square over the sum of all squares that are not smaller, Lee 2021). skip: patterns of
    layer names to leave alone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    sparsity: Annotated[float, Range(0, below=1)] = 0.5
    scope: Literal["layer", "global"] = "global"
    scale: Literal["none", "std", "lamp"] = "none"
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.scope == "layer" and self.scale != "none":
            found = f"scale={self.scale}"
            raise BadOption("option scale compares layers", pass_name=self.name, expected="scope=global", found=found)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        together = self.scope == "global"
        scores = [self.scores(layer.view(), together) for layer in found]
        for layer, dropped in zip(found, select(scores, self.sparsity, together), strict=True):
            layer.drop(dropped, report)
        total(found, report)
        return report

    def scores(self, view: np.ndarray, together: bool) -> np.ndarray:
        """What is dropped first where it is least, in the shape of `view`."""
        size = np.abs(view).astype(np.float32, copy=False)
        if not together or self.scale == "none":
            return size
        return lamp(size) if self.scale == "lamp" else size / (np.std(view, dtype=np.float64).astype(np.float32) or 1)


def lamp(size: np.ndarray) -> np.ndarray:
    """w^2 over the sum of all squares in the layer that are not smaller, in the order of magnitude; float32.

    The largest weight of each layer scores 1, so no layer is ever emptied.
    """
    flat = size.ravel()
    order = np.argsort(-flat, kind="stable")
    squares = np.square(flat[order], dtype=np.float64)
    sums = np.cumsum(squares)
    scores = np.empty(flat.size, np.float32)
    scores[order] = np.divide(squares, sums, out=np.zeros_like(sums), where=sums > 0)
    return scores.reshape(size.shape)
