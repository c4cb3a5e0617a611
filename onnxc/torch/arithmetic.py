"""Training in cheaper numbers: sparse and ternary gradients, and short formats, emulated in floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from onnxc.passes.train.objective import Arithmetic

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
DEVIATIONS = 2.5
"""Gradients beyond so many deviations are cut ahead of making them ternary (Wen 2017, eq. 10)."""
WORD = 16
"""Bits of a number in fixed point."""

Rounding = Callable[[torch.Tensor], torch.Tensor]


class _Passed(torch.autograd.Function):
    """`ahead` of the values, `back` of the gradient."""

    @staticmethod
    def forward(ctx, x, ahead, back):
        ctx.back = back
        return ahead(x) if ahead is not None else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad), None, None


class _Skipping(torch.autograd.Function):
    """a @ b [n, m] of matrices; the backward pass leaves out units whose gradient is zero in all of the batch."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        units = grad.any(0).nonzero().squeeze(1)
        short = grad[:, units]
        left = short @ b[:, units].T if ctx.needs_input_grad[0] else None
        right = None
        if ctx.needs_input_grad[1]:
            right = torch.zeros_like(b)
            right[:, units] = a.T @ short
        return left, right


def skipping(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product of `a` and `b`, by `_Skipping` where both are matrices: gradients are the same, and cost what is left of them."""
    return _Skipping.apply(a, b) if a.ndim == b.ndim == 2 else torch.matmul(a, b)


def at_products(spec: Arithmetic) -> Callable[[torch.Tensor, bool, int], torch.Tensor] | None:
    """What happens to the output of a product, whose units stand along an axis, and to its gradient; None: nothing. The last one's
    gradient stays whole."""
    short = short_format(spec)
    if short is None and spec.topk is None:
        return None

    def at(y: torch.Tensor, last: bool, axis: int) -> torch.Tensor:
        def back(grad: torch.Tensor) -> torch.Tensor:
            grad = grad if spec.topk is None or last else largest(grad, spec.topk, spec.topk_over, axis)
            return grad if short is None else short(grad)

        return _Passed.apply(y, short, back)

    return at


def largest(grad: torch.Tensor, share: float, over: str = "sample", axis: int = -1) -> torch.Tensor:
    """The largest share of the entries of each sample (Sun 2017, eq. 6), or of the whole batch, or of the units along `axis` by the sum
    of their magnitudes over the batch (Sun 2017, unified top-k), at least one; the others are zero."""
    if over == "units":
        rest = [d for d in range(grad.ndim) if d != axis % grad.ndim]
        sizes = grad.abs().sum(rest, keepdim=True)
        place = sizes.flatten().topk(max(1, round(share * sizes.numel())), sorted=False).indices
        return grad * torch.zeros_like(sizes).flatten().scatter(0, place, 1.0).view_as(sizes)
    flat = grad.reshape(len(grad), -1) if grad.ndim > 1 and over == "sample" else grad.reshape(1, -1)
    k = max(1, round(share * flat.shape[1]))
    place = flat.abs().topk(k, 1, sorted=False).indices
    return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place)).reshape(grad.shape)


def short_format(spec: Arithmetic) -> Rounding | None:
    """The rounding to a short format."""
    behind, bits = spec.fixed_point, spec.shared_exponent
    if behind is not None:
        return lambda x: fixed_point(x, behind)
    if bits is not None:
        return lambda x: shared_exponent(x, bits)
    return None


def fixed_point(x: torch.Tensor, behind: int) -> torch.Tensor:
    """16-bit numbers with `behind` bits behind the point, up with the probability of what is cut (Gupta 2015, eq. 2)."""
    limit = 2 ** (WORD - 1)
    steps = torch.floor(x * 2.0**behind + torch.rand_like(x))
    return steps.clamp(-limit, limit - 1) * 2.0**-behind


def shared_exponent(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Whole numbers of so many bits times one power of two, the least that holds the largest (Koester 2017)."""
    most = float(x.abs().max()) if x.numel() else 0.0
    if most == 0 or most != most or most == float("inf"):
        return x.clone()
    limit = 2 ** (bits - 1) - 1
    unit = 2.0 ** torch.ceil(torch.log2(torch.tensor(most, dtype=torch.float64) / limit)).item()
    return torch.round(x / unit).clamp(-limit - 1, limit) * unit


def clipped(grad: torch.Tensor) -> torch.Tensor:
    """A gradient within DEVIATIONS of its deviations."""
    if grad.numel() < 2:
        return grad
    most = float(DEVIATIONS * grad.std())
    return grad.clamp(-most, most) if most > 0 else grad


def ternary(grad: torch.Tensor, scale: torch.Tensor, rng: torch.Generator | None = None) -> torch.Tensor:
    """-1, 0 or 1 [int8], whose mean over many draws times `scale` is `grad` (Wen 2017, eq. 3)."""
    chance = torch.rand(grad.shape, generator=rng, dtype=grad.dtype, device=grad.device)
    return (torch.sign(grad) * (chance < grad.abs() / scale)).to(torch.int8)


def is_slow(spec: Arithmetic, device: str) -> bool:
    """Whether the device computes the precision that is asked for by way of float32."""
    if spec.precision == "float32" or device != "cpu":
        return False
    ours = torch.cpu.get_capabilities()
    return not (ours.get("avx512_bf16") or ours.get("amx_bf16") or ours.get("bf16"))


def shorten(weights: Iterable[torch.Tensor], spec: Arithmetic) -> None:
    """Weights as the short format holds them after a step."""
    short = short_format(spec)
    if short is not None:
        with torch.no_grad():
            for w in weights:
                w.copy_(short(w))
