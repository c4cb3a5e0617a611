"""Pulls on weights towards zero, as proximal steps beside the optimiser's: see `Penalty` for what each means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from onnxc.passes.train.objective import Penalty

Shrink = Callable[[torch.Tensor, float], torch.Tensor]
SMALL = 1e-12


class Pulls:
    """The penalties of a training on its `weights`, measured against what these are at the start."""

    def __init__(self, penalties: Sequence[Penalty], weights: Mapping[str, torch.Tensor]):
        self._each = [(weights[p.tensor], p.strength, KINDS[p.kind](p, weights[p.tensor].detach())) for p in penalties]

    def apply(self, share: float) -> None:
        """The pull of one step, whose share of the whole training is `share`."""
        with torch.no_grad():
            for w, strength, shrink in self._each:
                w.copy_(shrink(w, strength * share))


def _axes(p: Penalty, w: torch.Tensor) -> list[int]:
    return [d for d in range(w.ndim) if d in p.axes] or list(range(w.ndim))


def _soft(w: torch.Tensor, by: torch.Tensor | float) -> torch.Tensor:
    return torch.sign(w) * (w.abs() - by).clamp(min=0)


def _l1(p: Penalty, start: torch.Tensor) -> Shrink:
    mean = float(start.abs().mean())
    return lambda w, amount: _soft(w, amount * mean)


def _group(p: Penalty, start: torch.Tensor) -> Shrink:
    axes = _axes(p, start)
    mean = float(start.square().sum(axes).sqrt().mean())

    def shrink(w: torch.Tensor, amount: float) -> torch.Tensor:
        size = w.square().sum(axes, keepdim=True).sqrt()
        return w * (1 - amount * mean / (size + SMALL)).clamp(min=0)

    return shrink


def _exclusive(p: Penalty, start: torch.Tensor) -> Shrink:
    axes = _axes(p, start)
    return lambda w, amount: _soft(w, amount * w.abs().mean(axes, keepdim=True))


def _decay(p: Penalty, start: torch.Tensor) -> Shrink:
    return lambda w, amount: w * max(1 - amount, 0.0)


def _hanson(p: Penalty, start: torch.Tensor) -> Shrink:
    unit = p.scale * (float(start.std()) or 1.0)
    return lambda w, amount: _soft(w, amount * unit / (1 + w.abs() / unit).square())


KINDS = {"l1": _l1, "group": _group, "exclusive": _exclusive, "decay": _decay, "hanson": _hanson}
