"""Forms that weights take while they are trained: what the graph reads, what adds to the loss, what moves after a step.

A form is a module over the real weight, made by one function or class of its kind. Most are one line: a value of the
weight, straight through. Those that remember (averages, curvatures, multipliers) hold buffers, those that learn more than
the weight hold parameters, and both go into checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from onnxc.passes.train.objective import Form

from .mixture import Mixture
from .table import sign_through

SMALL = 1e-12
TURNS = 8
"""Rounds in which codes and their scale are fitted to each other."""
NEAR = 0.05
"""How far from a step to the next the bound of what is cut is looked for first, as a share of it."""
SPEED = 0.1
"""Share of the newest squared gradient in the curvature."""


class Clock:
    """How far training has come, from 0 to 1, whether weights are read as they will be left; samples, and steps in all."""

    share = 0.0
    over = False
    samples = steps = 1


class Reading(torch.nn.Module):
    """A form at work on one weight. `forward(w)`: what the graph reads."""

    def __init__(self, f: Form, start: torch.Tensor, clock: Clock):
        super().__init__()
        self.f, self.clock = f, clock

    def pull(self, w: torch.Tensor) -> torch.Tensor | None:
        """What adds to the loss."""
        return None

    def step(self, w: torch.Tensor) -> None:
        """What moves after a step of the optimiser; `w.grad` is that of the step."""


def form(f: Form, start: torch.Tensor, clock: Clock) -> Reading:
    """The form of a weight which began as `start`."""
    made = FORMS[f.kind]
    reading = made(f, start, clock) if isinstance(made, type) else _Plain(f, start, clock, made)
    return _Later(f, start, clock, reading) if f.after else reading


class _Through(torch.autograd.Function):
    """`value` forward; the gradient goes to `w` as it is."""

    @staticmethod
    def forward(ctx, w, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def through(w: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, for whose gradient `w` stands straight through (Bengio 2013)."""
    return _Through.apply(w, value.detach())


class _Plain(Reading):
    """A form that is one function of the weight."""

    def __init__(self, f: Form, start: torch.Tensor, clock: Clock, make: Callable):
        super().__init__(f, start, clock)
        self.read = make(f, start, clock)

    def forward(self, w):
        return self.read(w)


class _Later(Reading):
    """Another form from the share `after` of the training on; until then the weight is read as it is."""

    def __init__(self, f: Form, start: torch.Tensor, clock: Clock, inner: Reading):
        super().__init__(f, start, clock)
        self.inner = inner

    def forward(self, w):
        return self.inner(w) if self.clock.over or self.clock.share >= self.f.after else w

    def step(self, w):
        self.inner.step(w)


def _fixed(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: start


def _zeros(f: Form, start: torch.Tensor, clock: Clock):
    mask = (start != 0).to(start.dtype)
    return lambda w: w * mask


def _smallest(size: torch.Tensor, count: int, near: float) -> torch.Tensor:
    """The `count`-th smallest of `size`; where it is close to `near`, as from step to step it is, few are sorted."""
    low, high = near * (1 - NEAR), near * (1 + NEAR)
    below = int((size < low).sum())
    close = size[(size >= low) & (size <= high)]
    if below < count <= below + len(close):
        return close.kthvalue(count - below).values
    return size.kthvalue(count).values


def _largest(w: torch.Tensor, sparsity: float, near: float = 0.0) -> tuple[torch.Tensor, float]:
    """(1 where a weight is not of the smallest share `sparsity`, the largest |w| that is); of equal ones the first go. `near`:
    about what that is."""
    size = w.detach().abs().reshape(-1)
    count = round(sparsity * w.numel())
    if count == 0:
        return torch.ones_like(w), 0.0
    bound = _smallest(size, count, near)
    mask = size > bound
    kept = int(mask.sum())
    if kept < len(size) - count:
        mask[(size == bound).nonzero()[count - len(size) + kept :]] = True
    return mask.reshape(w.shape).to(w.dtype), float(bound)


class _Magnitude(Reading):
    """Zero where the weight is among the smallest, whose share grows over the first half (Zhu and Gupta 2017)."""

    near = 0.0

    def forward(self, w):
        done = min(self.clock.share / 0.5, 1.0)
        mask, self.near = _largest(w, self.f.sparsity + (self.f.first - self.f.sparsity) * (1 - done) ** 3, self.near)
        # every weight gets its gradient, so that what is cut may come back (Guo 2016, eq. 3); in the last quarter the
        # mask stands still as far as gradients go
        return w * mask if self.clock.share > 0.75 else through(w, w * mask)


def _scale(w: torch.Tensor, axis: int | None) -> torch.Tensor:
    size = w.detach().abs()
    if axis is None or w.ndim < 2:
        return size.mean()
    return size.mean([d for d in range(w.ndim) if d != axis % w.ndim], keepdim=True)


def _binary(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: sign_through(w) * _scale(w, f.axis)


def _connect(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: sign_through(w) * _scale(w, None)


def _chance(f: Form, start: torch.Tensor, clock: Clock):
    def read(w: torch.Tensor) -> torch.Tensor:
        a = _scale(w, None)
        if clock.over:
            return sign_through(w) * a
        up = torch.rand_like(w) < ((w / a + 1) / 2).clamp(0, 1)
        return through(w, torch.where(up, a, -a))

    return read


def _kept(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = w.abs()
    kept = size > 0.7 * size.mean()
    return kept, (size * kept).sum() / kept.sum().clamp(min=1)


def _ternary(f: Form, start: torch.Tensor, clock: Clock):
    def read(w: torch.Tensor) -> torch.Tensor:
        kept, scale = _kept(w.detach())
        return through(w, torch.sign(w) * kept * scale)

    return read


class _Sided(torch.autograd.Function):
    """up where w > t, -down where w < -t, else 0; the gradients of Zhu 2017, eq. 7 and 8."""

    @staticmethod
    def forward(ctx, w, up, down, t):
        above, below = w > t, w < -t
        ctx.save_for_backward(above, below, up, down)
        return above * up - below * down

    @staticmethod
    def backward(ctx, grad):
        above, below, up, down = ctx.saved_tensors
        scale = torch.where(above, up, torch.where(below, down, torch.ones_like(up)))
        return grad * scale, (grad * above).sum().reshape(up.shape), -(grad * below).sum().reshape(up.shape), None


class _Trained(Reading):
    """Ternary weights with a learnt scale of each sign (TTQ): the threshold is 0.05 of the largest |w|."""

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        _, scale = _kept(start)
        self.up, self.down = (torch.nn.Parameter(scale.detach().clone().reshape(1)) for _ in range(2))

    def forward(self, w):
        return _Sided.apply(w, self.up, self.down, 0.05 * w.detach().abs().max())


def nearest(w: torch.Tensor, codes: Sequence[float], d: torch.Tensor | None = None) -> torch.Tensor:
    """a q, q of `codes` (ascending), least in sum d (w - a q)^2: scale and codes are fitted in turn (Leng 2018, eq. 12).

    With two codes, -1 and 1, this is the closed form of Hou 2017, eq. 7: a = sum d |w| / sum d.
    """
    levels = torch.tensor(codes, dtype=w.dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    d = torch.ones_like(w) if d is None else d
    a, q = 2 * w.abs().mean() / levels.abs().max(), torch.zeros_like(w)
    for _ in range(TURNS):
        q = levels[torch.bucketize((w / (a + SMALL)).contiguous(), middles)]
        a = (d * w * q).sum() / ((d * q * q).sum() + SMALL)
    return a * q


def _nearest(f: Form, start: torch.Tensor, clock: Clock):
    return lambda w: through(w, nearest(w.detach(), f.codes))


class _Felt(Reading):
    """The nearest levels where an error counts as the loss curves: Adam's root of the mean squared gradient (Hou 2017)."""

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        self.register_buffer("curve", torch.zeros_like(start))

    def forward(self, w):
        d = self.curve.sqrt()
        return through(w, nearest(w.detach(), self.f.codes, d + float(d.mean()) * 1e-3 + SMALL))

    def step(self, w):
        if w.grad is not None:
            self.curve.lerp_(w.grad.square(), SPEED)


class _Split(Reading):
    """ADMM (Zhang 2018, eq. 5 to 8; Leng 2018): the weight is drawn to Z, its projection; from `hard` on it is that.

    The loss gains rho / 2 |w - Z + U|^2 relative to the mean square of the weight at the start; every `every` steps
    Z = P(w + U), U += w - Z. P keeps the largest weights, or takes the nearest levels.
    """

    every, hard = 20, 0.6

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        self.unit = float(start.square().mean()) + SMALL
        for name, value in (("z", self.project(start)), ("u", torch.zeros_like(start))):
            self.register_buffer(name, value.clone())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def project(self, w: torch.Tensor) -> torch.Tensor:
        return nearest(w, self.f.codes) if self.f.codes else w * _largest(w, self.f.sparsity)[0]

    def forward(self, w):
        if self.clock.share < self.hard and not self.clock.over:
            return w
        value = self.project(w.detach())
        return through(w, value) if self.f.codes else w * (value != 0)

    def pull(self, w):
        if self.clock.share >= self.hard:
            return None
        return self.f.strength / 2 * (w - self.z + self.u).square().mean() / self.unit

    def step(self, w):
        self.count += 1
        if int(self.count) % self.every == 0 and self.clock.share < self.hard:
            self.z.copy_(self.project(w.detach() + self.u))
            self.u.add_(w.detach() - self.z)


class _Average(Reading):
    """Left as the moving average over the steps: a forecast of where the weight goes."""

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        self.register_buffer("mean", start.clone())

    def forward(self, w):
        return through(w, self.mean) if self.clock.over else w

    def step(self, w):
        self.mean.lerp_(w.detach(), min(1 / (self.f.strength * self.clock.steps), 1.0))


class _Mixed(Reading):
    """A Gaussian mixture as the prior of a weight, left at the means that answer for it (Ullrich 2017)."""

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        self.prior = Mixture(start, f.components)

    def forward(self, w):
        return through(w, self.prior.settled(w.detach())) if self.clock.over else w

    def pull(self, w):
        return self.f.strength / self.clock.samples * self.prior.cost(w)


class _Shared(Reading):
    """The nearest of a few values that learn, chosen anew at each step (from `codes`); what began as zero is zero.

    A value's gradient is the sum of those of the weights that read it (Han 2016, eq. 3), which they get as well, straight through.
    """

    def __init__(self, f, start, clock):
        super().__init__(f, start, clock)
        self.codes = torch.nn.Parameter(torch.tensor(f.codes, dtype=start.dtype))
        self.live = (self.codes.detach() != 0).to(start.dtype)
        self.at = start.reshape(-1).nonzero().reshape(-1)

    def forward(self, w):
        codes = (self.codes * self.live).sort().values
        each = w.reshape(-1)[self.at]
        near = torch.bucketize(each.detach(), (codes.detach()[1:] + codes.detach()[:-1]) / 2)
        read = codes[near] + (each - each.detach())
        return torch.zeros_like(w).reshape(-1).index_put((self.at,), read).reshape(w.shape)


FORMS = {
    "fixed": _fixed, "zeros": _zeros, "magnitude": _Magnitude, "binary": _binary, "connect": _connect, "chance": _chance,
    "ternary": _ternary, "nearest": _nearest, "trained": _Trained, "felt": _Felt, "split": _Split, "average": _Average, "mixture": _Mixed,
    "shared": _Shared,
}  # fmt: skip
