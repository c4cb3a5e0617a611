"""A mixture of Gaussians over the weights of a layer, learnt with them (Nowlan and Hinton 1992; Ullrich 2017).

Component 0 stands at zero and takes the share ZERO of all weights; the others begin spread over the weights. Precisions
have Gamma priors as published (appendix B), which keep components from collapsing onto single weights.
"""

from __future__ import annotations

import math

import torch

ZERO = 0.99
SHAPES, DEVIATION = (250.0, 5000.0), 0.2
"""Gamma priors of the precisions of the free components and of the one at zero; their modes in units of the weights'
deviation (published: 0.02 for weights of a deviation of about 0.1)."""


class Mixture(torch.nn.Module):
    """The prior; all in units of the weights' deviation at the start."""

    def __init__(self, start: torch.Tensor, components: int):
        super().__init__()
        self.unit = float(start.std()) or 1.0
        high = float(start.abs().max()) / self.unit
        free = components - 1
        self.means = torch.nn.Parameter(torch.linspace(-high, high, free))
        self.logs = torch.nn.Parameter(torch.full((components,), math.log(DEVIATION**2)))
        self.shares = torch.nn.Parameter(torch.full((free,), math.log((1 - ZERO) / free)))

    def _logs(self, w: torch.Tensor) -> torch.Tensor:
        """log share + log density of each weight under each component: [weights, components]."""
        x = w.reshape(-1, 1) / self.unit
        means = torch.cat([torch.zeros(1), self.means])
        shares = torch.cat([torch.full((1,), math.log(ZERO)), math.log(1 - ZERO) + torch.log_softmax(self.shares, 0)])
        return shares - 0.5 * (self.logs + (x - means).square() * torch.exp(-self.logs))

    def cost(self, w: torch.Tensor) -> torch.Tensor:
        """-log p(w) - log p(precisions), the sum over the weights."""
        precision = torch.exp(-self.logs)
        shape = torch.tensor([SHAPES[1], *[SHAPES[0]] * (len(self.logs) - 1)])
        rate = (shape - 1) * DEVIATION**2
        prior = ((shape - 1) * -self.logs - rate * precision).sum()
        return -(torch.logsumexp(self._logs(w), 1).sum() + prior)

    def settled(self, w: torch.Tensor) -> torch.Tensor:
        """Each weight at the mean of the component that answers for most of it."""
        means = torch.cat([torch.zeros(1), self.means.detach()]) * self.unit
        return means[self._logs(w).argmax(1)].reshape(w.shape)
