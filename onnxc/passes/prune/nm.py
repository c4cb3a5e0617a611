"""prune.nm: keep n of every m consecutive input channels (2:4 of NVIDIA's sparse tensor cores, Mishra et al. 2021).

w over 4 channels: 0.9 -0.1 0.3 -0.5      (n 2, m 4)      0.9 0 0 -0.5
"""

from __future__ import annotations

from dataclasses import field

import numpy as np

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..layers.stored import Layer, layers, total


@register("prune.nm")
class PruneNM(Pass):
    """Keep the n largest of every m weights that are neighbours along the input channels, at each kernel position.

    n: how many stay. m: of how many. skip: patterns of layer names to leave alone. Layers whose input channels are no
    multiple of m are refused, depthwise ones among them.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    bodies = True

    n: int = 2
    m: int = 4
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_pattern(self.name, self.n, self.m)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = regular(layers(model, ctx.verified.analysis, self.skip, report), self.m, report)
        for layer in found:
            layer.drop(beyond(np.abs(layer.view()), self.n, self.m), report)
        total(found, report)
        return report


def check_pattern(name: str, n: int, m: int) -> None:
    """Raises BadOption unless 0 < n < m."""
    if not 0 < n < m:
        raise BadOption("options n and m do not fit", pass_name=name, expected="0 < n < m", found=f"{n}:{m}")


def regular(found: list[Layer], m: int, report: Report) -> list[Layer]:
    """The layers whose input channels are a multiple of `m`; the others are refused."""
    kept = []
    for layer in found:
        channels = layer.layout.channels
        if channels % m:
            per = " per group" if layer.layout.groups > 1 else ""
            report.refuse(layer.name, f"its {channels} input channels{per} are no multiple of {m}")
        else:
            kept.append(layer)
    return kept


def beyond(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """Where `scores` [groups, outputs, channels, positions] are not among the n highest of their m neighbours along
    the channels; of equal ones the first stay."""
    g, o, c, p = scores.shape
    quads = scores.reshape(g, o, c // m, m, p)
    order = np.argsort(-quads, axis=3, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(m).reshape(1, 1, 1, m, 1), axis=3)
    return (rank >= n).reshape(scores.shape)
