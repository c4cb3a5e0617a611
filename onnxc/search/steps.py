"""Cuts, by what is cut, and the passes that make them.

("channels", unit): ratio      ("rank", layer): energy      ("branch", sum): 1      ("resolution", ""): rho
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..passes.base import Pass
from ..passes.registry import make

if TYPE_CHECKING:
    from .work import Worker

Cut = tuple[str, Any]


def globbed(name: str) -> str:
    """A glob that fits just this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def structural(cuts: Mapping[Cut, float], local: Worker, fit: str = "auto") -> list[Pass]:
    """The passes of cuts, in the order in which they run: image, channels, branches, ranks."""
    passes: list[Pass] = []
    by_kind: dict[str, dict[Any, float]] = {}
    for (kind, name), value in cuts.items():
        by_kind.setdefault(kind, {})[name] = value
    if "resolution" in by_kind:
        passes.append(make("prune.resolution", {"rho": by_kind["resolution"][""]}))
    if "channels" in by_kind:
        by_name = {globbed(local.sweep.units[k][0].name): r for k, r in by_kind["channels"].items()}
        passes.append(make("prune.channels", {"ratio": 0.0, "ratio_by": by_name}))
    if "branch" in by_kind:
        stay = [globbed(name) for name in local.sums if name not in by_kind["branch"]]
        passes.append(make("prune.blocks", {"drop": len(by_kind["branch"]), "measure": "local", "skip": stay}))
    if "rank" in by_kind:
        energies = {globbed(name): e for name, e in by_kind["rank"].items()}
        passes.append(make("lowrank.auto", {"energy": 1.0, "energy_by": energies, "fit": fit, "samples": 64}))
    return passes
