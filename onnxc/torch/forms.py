"""Forms that weights take while they are trained: each a function of the real weight, straight through where it rounds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from onnxc.passes.train.objective import Form

from .table import sign_through


class Clock:
    """How far training has come, from 0 to 1: forms that grow stricter read it."""

    share = 0.0


def form(f: Form, start: torch.Tensor, clock: Clock) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function that reads a weight which began as `start`."""
    return FORMS[f.kind](f, start, clock)


def _zeros(f: Form, start: torch.Tensor, clock: Clock):
    mask = (start != 0).to(start.dtype)
    return lambda w: w * mask


class _Masked(torch.autograd.Function):
    """w where the mask is 1; every weight gets its gradient, so that what is masked may come back (Guo 2016, eq. 3)."""

    @staticmethod
    def forward(ctx, w, mask):
        return w * mask

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def _magnitude(f: Form, start: torch.Tensor, clock: Clock):
    def read(w: torch.Tensor) -> torch.Tensor:
        done = min(clock.share / 0.5, 1.0)
        share = f.sparsity + (f.first - f.sparsity) * (1 - done) ** 3
        count = round(share * w.numel())
        size = w.detach().abs().reshape(-1)
        mask = torch.ones_like(size)
        mask[torch.argsort(size, stable=True)[:count]] = 0
        mask = mask.reshape(w.shape)
        # in the last quarter the mask stands still as far as gradients go: what is zero gets none
        return w * mask if clock.share > 0.75 else _Masked.apply(w, mask)

    return read


def _scale(w: torch.Tensor, axis: int | None) -> torch.Tensor:
    size = w.detach().abs()
    if axis is None or w.ndim < 2:
        return size.mean()
    return size.mean([d for d in range(w.ndim) if d != axis % w.ndim], keepdim=True)


def _binary(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: sign_through(w) * _scale(w, f.axis)


def _connect(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: sign_through(w) * _scale(w, None)


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        size = w.abs()
        kept = size > 0.7 * size.mean()
        scale = (size * kept).sum() / kept.sum().clamp(min=1)
        return torch.sign(w) * kept * scale

    @staticmethod
    def backward(ctx, grad):
        return grad


def _ternary(f: Form, start: torch.Tensor, clock: Clock):
    return _Ternary.apply


FORMS = {"zeros": _zeros, "magnitude": _magnitude, "binary": _binary, "connect": _connect, "ternary": _ternary}
