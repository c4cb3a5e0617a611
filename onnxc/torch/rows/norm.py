"""Operators that take a statistic of the input: normalisations and softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..table import Call, axes_of, row


@row("BatchNormalization")
def batch_norm(call: Call, x, scale, bias, mean, var):
    if call.outputs > 1 or call.get("training_mode", 0):
        raise call.refuse("a batch normalisation exported in training mode", expected="one output")
    train = call.training and x.shape[0] > 1
    return F.batch_norm(x, mean, var, scale, bias, train, 1 - call.get("momentum", 0.9), call.get("epsilon", 1e-5))


@row("InstanceNormalization")
def instance_norm(call: Call, x, scale, bias):
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


@row("LayerNormalization")
def layer_norm(call: Call, x, scale, bias=None):
    axis, eps = call.get("axis", -1) % x.ndim, call.get("epsilon", 1e-5)
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    y = centred * inverse * scale
    y = y if bias is None else y + bias
    return (y, mean, inverse)[: call.outputs] if call.outputs > 1 else y


@row("RMSNormalization")
def rms_norm(call: Call, x, scale):
    axes = list(range(call.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + call.get("epsilon", 1e-5)) * scale


@row("GroupNormalization")
def group_norm(call: Call, x, scale, bias):
    groups = call.get("num_groups")
    if call.opset < 21 and scale.numel() != x.shape[1]:
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


@row("MeanVarianceNormalization")
def mean_variance(call: Call, x):
    axes = axes_of(call, None, [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


@row("LRN")
def lrn(call: Call, x):
    size, alpha = call.get("size"), call.get("alpha", 1e-4)
    before = (size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), (before, size - 1 - before)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x * (call.get("bias", 1.0) + alpha / size * squares) ** -call.get("beta", 0.75)


@row("LpNormalization")
def lp_norm(call: Call, x):
    axis, p = call.get("axis", -1), call.get("p", 2)
    size = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size))


@row("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call, x):
    f = _SOFT[call.op]
    if call.opset >= 13:
        return f(x, call.get("axis", -1))
    # before opset 13 all axes from `axis` on are one
    axis = call.get("axis", 1) % max(x.ndim, 1)
    return f(x.reshape(x.shape[:axis].numel(), -1), 1).reshape(x.shape)


def _hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


_SOFT: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "Softmax": torch.softmax, "LogSoftmax": torch.log_softmax, "Hardmax": _hardmax,
}  # fmt: skip
