"""The order in memory in which convolutions compute: channels last, which is fastest, but where that is not safe."""

from __future__ import annotations

from functools import cache

import torch

LANES = 8


@cache
def _overruns() -> bool:
    return torch.backends.cpu.get_cpu_capability() != "AVX512"


def safe(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and weight of a convolution as it may read them. Without AVX-512, oneDNN (of torch 2.13) writes beyond the gradient of
    a 1 x 1 weight that is channels last where the channels are no multiple of eight: the process ends, or other numbers change.
    A transposed input (NHWC made NCHW) is channels last by itself."""
    pointwise = all(k == 1 for k in w.shape[2:])
    if not pointwise or not any(n % LANES for n in w.shape[:2]) or w.device.type != "cpu" or not _overruns():
        return x, w
    return _in_order(x), _in_order(w)


def _in_order(value: torch.Tensor) -> torch.Tensor:
    # by strides: a tensor with one channel or one pixel is contiguous in both orders, and torch then takes channels last
    if value.stride() == torch.empty(value.shape, device="meta").stride():
        return value
    return value.clone(memory_format=torch.contiguous_format)
