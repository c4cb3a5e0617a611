"""How much each channel of a group matters: criteria rate what a group cuts, and the ratings become one score a channel.

A criterion gives several witnesses for a group: one array [size] for each weight, layer or tensor that the group cuts.
`scores` brings the witnesses to one scale (`normalise`), and one score per channel (`reduce`).
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

Witnesses = Mapping[Atom, list[np.ndarray]]


@dataclass
class Scene:
    """What a criterion may look at. samples: how many calibration samples at most; seed: of `random`."""

    model: Model
    analysis: Analysis
    groups: list[Group]
    ctx: Context | None = None
    samples: int = 512
    seed: int = 0
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
    """rate: the witnesses of each group; a group that it leaves out is not pruned, because of `lacks`.

    normalise: what suits its witnesses. needs_data: whether it looks at activations.
    merges: whether kept channels take over what removed ones gave (`onnxc.passes.prune.redundancy`).
    """

    rate: Callable[[Scene], Witnesses]
    normalise: str = "mean"
    needs_data: bool = False
    merges: bool = False
    lacks: str = "no stored weight makes or reads its channels"


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, **facts) -> Callable:
    """Enter a rating function into the table of criteria."""

    def enter(rate: Callable[[Scene], Witnesses]):
        CRITERIA[name] = Criterion(rate, **facts)
        return rate

    return enter


def _mean(x: np.ndarray) -> float:
    return float(x.mean())


def _max(x: np.ndarray) -> float:
    return float(x.max())


NORMALISE: dict[str, Callable[[np.ndarray], float]] = {"mean": _mean, "max": _max, "none": lambda x: 1.0}
REDUCE: dict[str, Callable] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


def scores(scene: Scene, name: str, reduce: str = "mean", normalise: str = "auto") -> dict[Atom, np.ndarray]:
    """One score per channel, float64 [size], of each group that criterion `name` can rate."""
    from . import criteria_data, criteria_weights, redundancy  # noqa: F401  they enter their criteria

    found = CRITERIA[name]
    scale = NORMALISE[found.normalise if normalise == "auto" else normalise]
    result = {}
    for atom, witnesses in found.rate(scene).items():
        levels = [scale(w) for w in witnesses]
        scaled = [w / level if level > 0 else w for w, level in zip(witnesses, levels)]
        if scaled:
            result[atom] = REDUCE[reduce](np.stack(scaled), axis=0)
    return result


def needs_data(name: str) -> bool:
    """Whether the criterion `name` looks at activations."""
    return lookup(name).needs_data


def lookup(name: str) -> Criterion:
    """The criterion `name`. Raises BadOption."""
    from . import criteria_data, criteria_weights, redundancy  # noqa: F401

    if name not in CRITERIA:
        raise BadOption(f"there is no criterion {name}", expected=", ".join(sorted(CRITERIA)), found=name)
    return CRITERIA[name]
