"""prune.obs: zero weights and let the others make up for it, given the second moment of the layer's input; no labels.

    w   with half of its entries to go      ->      v = argmin (w - v) H (w - v)^T   over v with zeros there

The problem of OBS (Hassibi 1993), OBC (Frantar 2022) and SparseGPT (Frantar and Alistarh 2023), for each output of a
layer. Instead of removing weight after weight with an inverse of H for every output, the share of zeros grows over a
few rounds: a round drops the weights of least saliency w^2 H_jj (the diagonal of H: OBD, Le Cun 1990) and solves for
those that stay, for all outputs at once (`refit.refit`). Later rounds judge weights that have been adapted already.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import numpy as np

from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.moments import damped, moments
from ..layers.stored import Layer, layers, readable, select, total
from ..options import Range
from .nm import beyond, check_pattern, regular
from .refit import error, refit

SOLVER_ROUNDS = 30
"""Conjugate-gradient steps in a round; the last round takes three times as many."""


@register("prune.obs")
class PruneObs(Pass):
    """Zero weights and adapt the remaining ones of the layer to keep its outputs, from calibration activations.

    sparsity: share of zeros, unless n is given. scope: of all layers together ("global": weights count by their share
    of the layer's output; all second moments are in memory at once), or of each layer ("layer"), unless n is given. n:
    how many of every m input channels stay at each output and position. m: of how many, where n is given. rounds: in
    how many steps the zeros are chosen. damp: what is added to the diagonal of the second moment, as a share of its
    mean. skip: patterns of layer names to leave alone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    needs_data = True

    sparsity: Annotated[float, Range(0, below=1)] = 0.5
    scope: Literal["layer", "global"] = "global"
    n: int | None = None
    m: int = 4
    rounds: Annotated[int, Range(1)] = 8
    damp: Annotated[float, Range(above=0)] = 0.01
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.n is not None:
            check_pattern(self.name, self.n, self.m)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = layers(model, ctx.verified.analysis, self.skip, report)
        if self.n is not None:
            found = regular(found, self.m, report)
        found = readable(found, report)
        each = [layer.linears() for layer in found]
        seen = (m.second() for m in moments(model.copy(), ctx.verified.analysis, each, ctx))
        if self.scope == "global" and self.n is None:
            self._solve(found, list(seen), report, ctx)
        else:
            for layer, h in zip(ctx.each(found), seen, strict=True):
                self._solve([layer], [h], report, ctx)
        total(found, report)
        return report

    def _solve(self, found: list[Layer], seen: list[np.ndarray], report: Report, ctx: Context) -> None:
        whole = [layer.matrix() for layer in found]
        h = [damped(moment, self.damp) for moment in seen]
        now = list(whole)
        for k in ctx.each(range(1, self.rounds + 1), "round"):
            keep = self._masks(found, now, h, k / self.rounds)
            steps = SOLVER_ROUNDS * (3 if k == self.rounds else 1)
            now = [refit(w, mask, a, v, steps) for w, mask, a, v in zip(whole, keep, h, now, strict=True)]
        for layer, w, v, moment in zip(found, whole, now, seen, strict=True):
            changed = f", output changed by {error(w, v, moment):.2%}"
            layer.replace(v.reshape(layer.view().shape), report, changed)

    def _masks(self, found: list[Layer], now: list[np.ndarray], h: list[np.ndarray], part: float) -> list[np.ndarray]:
        """What stays at a point of the way, from 0 to 1; [groups, outputs, columns] for each layer."""
        scores = [np.square(v) * np.einsum("gii->gi", a)[:, None, :] for v, a in zip(now, h, strict=True)]
        if self.n is None:
            if self.scope == "global":  # layers compare by their share of the output that a weight makes
                scores = [s / (s.sum() or 1.0) for s in scores]
            share = self.sparsity * (
                1 - (1 - part) ** 3
            )  # many at first, few where each one hurts (Zhu and Gupta 2017)
            return [~gone for gone in select(scores, share, self.scope == "global")]
        n = self.m - int((self.m - self.n) * part)
        grids = [s.reshape(layer.view().shape) for s, layer in zip(scores, found, strict=True)]
        return [~beyond(grid, n, self.m).reshape(s.shape) for grid, s in zip(grids, scores, strict=True)]
