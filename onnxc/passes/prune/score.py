"""How much each channel of a group matters: criteria rate what a group cuts, and the ratings become one score a channel.

A criterion gives several ratings for a group: one array [size] for each weight, layer or tensor that the group cuts.
`scores` brings the ratings to one scale (`normalise`), and one score per channel (`reduce`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...ir.analysis import Analysis
from ...ir.axes import Atom
from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context
from .coupling import Group

Ratings = Mapping[Atom, list[np.ndarray]]


@dataclass
class ScoringContext:
    """What a criterion may look at. samples: how many calibration samples at most; seed: of `random`; outputs:
    rate by what the model's outputs feel, where a criterion can; readers: whether the weights that read a channel are
    rated too, in criteria whose papers look at the filters that make it; None: as suits the criterion."""

    model: Model
    analysis: Analysis
    groups: list[Group]
    ctx: Context | None = None
    samples: int = 512
    seed: int = 0
    outputs: bool = False
    readers: bool | None = None
    cache: dict = field(default_factory=dict)

    def data(self, criterion: str) -> Context:
        """The context, for criteria that look at activations."""
        if self.ctx is None or self.ctx.runner is None or self.ctx.data is None:
            raise BadOption(
                f"criterion {criterion} looks at activations, and there are no data",
                remedy="give --data, or take l1, l2, fpgm, lamp, bn_scale, redundancy or random",
            )
        return self.ctx


@dataclass(frozen=True)
class Criterion:
    """rate: the ratings of each group; a group that it leaves out is not pruned, because of `lacks`.

    normalise: what suits its ratings. needs_data: whether it looks at activations.
    merges: whether kept channels take over what removed ones gave (`onnxc.passes.prune.redundancy`).
    filters: whether it can rate the weights that make a channel alone, or those that read it too.
    """

    rate: Callable[[ScoringContext], Ratings]
    normalise: str = "mean"
    needs_data: bool = False
    merges: bool = False
    filters: bool = False
    lacks: str = "no stored weight makes or reads its channels"


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, **facts) -> Callable:
    """Enter a rating function into the table of criteria."""

    def enter(rate: Callable[[ScoringContext], Ratings]):
        CRITERIA[name] = Criterion(rate, **facts)
        return rate

    return enter
