"""Reductions, running sums, and the places of extremes."""

from __future__ import annotations

import torch

from ..table import Call, axes_of, ints, row


def _product(x, axes, keep):
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


REDUCTIONS = {
    "ReduceSum": lambda x, a, k: x.sum(a, keepdim=k),
    "ReduceMean": lambda x, a, k: x.mean(a, keepdim=k),
    "ReduceMax": lambda x, a, k: x.amax(a, keepdim=k),
    "ReduceMin": lambda x, a, k: x.amin(a, keepdim=k),
    "ReduceProd": _product,
    "ReduceL1": lambda x, a, k: x.abs().sum(a, keepdim=k),
    "ReduceL2": lambda x, a, k: (x * x).sum(a, keepdim=k).sqrt(),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(a, keepdim=k),
    "ReduceLogSum": lambda x, a, k: x.sum(a, keepdim=k).log(),
    "ReduceLogSumExp": lambda x, a, k: torch.logsumexp(x, a, keepdim=k),
}


@row(*REDUCTIONS)
def reduction(call: Call, x, axes=None):
    keep = bool(call.get("keepdims", 1))
    over = axes_of(call, axes)
    if not over:
        if call.get("noop_with_empty_axes", 0):
            return x
        over = list(range(x.ndim))
    if x.ndim == 0:
        return REDUCTIONS[call.op](x.reshape(1), [0], False)
    if x.dtype == torch.bool:
        return REDUCTIONS[call.op](x.to(torch.uint8), over, keep).to(torch.bool)
    return REDUCTIONS[call.op](x, over, keep).to(x.dtype)


@row("ArgMax", "ArgMin")
def extreme(call: Call, x):
    axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
    f = torch.argmax if call.op == "ArgMax" else torch.argmin
    if call.get("select_last_index", 0):
        return x.shape[axis] - 1 - f(x.flip(axis), axis, keepdim=keep)
    return f(x, axis, keepdim=keep)


@row("CumSum")
def cumsum(call: Call, x, axis):
    at = ints(axis)[0]
    x = x.flip(at) if call.get("reverse", 0) else x
    y = x.cumsum(at).to(x.dtype)
    y = y - x if call.get("exclusive", 0) else y
    return y.flip(at) if call.get("reverse", 0) else y


@row("TopK")
def top_k(call: Call, x, k=None):
    count = ints(k)[0] if k is not None else call.get("k")
    axis, largest = call.get("axis", -1), bool(call.get("largest", 1))
    # a stable sort, so that ties are in order
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)
