"""prune.block: zero whole blocks of weights, outputs x input channels (Narang et al., Block-Sparse RNNs, 2017).

Gemm w [512, 512]      (sparsity 0.75, rows 4, columns 4)      12,288 of 16,384 blocks of 4x4 are zero
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.stored import layers, select, total
from ..options import Range
from .refit import adapted


@register("prune.block")
class PruneBlock(Pass):
    """Zero the blocks of least mean square in convolutions and matrix products.

    sparsity: share of blocks that become zero. rows: outputs in a block. columns: input channels in a block. kernel:
    whether a block spans all positions of the kernel (with rows=1, columns=1 whole kernels go) or one. scope: of each
    layer, or of all layers together (global), where mean squares count relative to the layer's. skip: patterns of layer
    names to leave alone. update: whether the others are adapted on calibration data, to keep the layer's outputs.
    At the edges, and in depthwise layers, blocks are cut to what is there.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    sparsity: Annotated[float, Range(0, below=1)] = 0.5
    rows: Annotated[int, Range(1)] = 4
    columns: Annotated[int, Range(1)] = 4
    kernel: bool = False
    scope: Literal["layer", "global"] = "layer"
    skip: list[str] = field(default_factory=list)
    update: bool = False

    def __post_init__(self) -> None:
        self.needs_data = self.update

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        scores = [self.scores(layer.view()) for layer in found]
        gone = select(scores, self.sparsity, self.scope == "global")
        chosen = [
            (layer, spread(blocks, layer.view().shape, self.rows, self.columns))
            for layer, blocks in zip(found, gone, strict=True)
        ]
        if self.update:
            views = adapted(model, ctx, chosen, report)
            for layer, view in zip(found, views, strict=True):
                layer.replace(view, report, ", the others adapted")
        else:
            for layer, dropped in chosen:
                layer.drop(dropped, report)
        total(found, report)
        return report

    def scores(self, view: np.ndarray) -> np.ndarray:
        """Mean square of each block over the layer's, shape [groups, row blocks, column blocks, positions or 1]."""
        power = np.square(view, dtype=np.float64)
        power /= power.mean() or 1.0
        if self.kernel:
            power = power.mean(3, keepdims=True)
        for axis, step in ((1, self.rows), (2, self.columns)):
            starts = np.arange(0, power.shape[axis], step)
            sizes = np.diff(starts, append=power.shape[axis]).reshape([-1 if d == axis else 1 for d in range(4)])
            power = np.add.reduceat(power, starts, axis=axis) / sizes
        return power


def spread(blocks: np.ndarray, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """A mask of blocks as a mask of weights [groups, outputs, channels, positions or 1]."""
    return blocks.repeat(rows, 1)[:, : shape[1]].repeat(columns, 2)[:, :, : shape[2]]
