"""Moving averages of what training moves, over its steps (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Average:
    """After step n (1, 2, ...):  mean  ->  d mean + (1 - d) value,  d = min(decay, (1 + n) / (10 + n)).

    So the averages of the first steps are not held back by what the weights began as (TensorFlow's `num_updates`). What is no
    float is the newest. `values`: by name, what they begin as.
    """

    def __init__(self, decay: float, values: Mapping[str, torch.Tensor]):
        self.decay = decay
        self.values = {name: t.detach().clone() for name, t in values.items()}

    def step(self, values: Mapping[str, torch.Tensor], number: int) -> None:
        """Take in what step `number` left."""
        share = 1 - min(self.decay, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, mean in self.values.items():
                t = values[name].detach()
                if mean.is_floating_point():
                    mean.lerp_(t, share)
                else:
                    mean.copy_(t)

    def left(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The averages, but zero where `values`, the newest, are: what was driven to zero is left so."""
        return {name: mean * (values[name] != 0) for name, mean in self.values.items()}
