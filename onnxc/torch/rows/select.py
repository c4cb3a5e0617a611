"""Operators that pick or put values by index."""

from __future__ import annotations

import torch

from ..table import Call, ints, row


def _positive(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@row("Gather")
def gather(call: Call, x, index):
    axis = call.get("axis", 0) % x.ndim
    flat = _positive(index, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@row("GatherElements")
def gather_elements(call: Call, x, index):
    axis = call.get("axis", 0)
    return x.gather(axis, _positive(index, x.shape[axis]))


@row("GatherND")
def gather_nd(call: Call, x, index):
    b, depth = call.get("batch_dims", 0), index.shape[-1]
    head = x.shape[:b].numel()
    rows, places = x.reshape(head, *x.shape[b:]), index.reshape(head, -1, depth)
    at = [_positive(places[..., i], rows.shape[1 + i]) for i in range(depth)]
    batch = torch.arange(head, device=x.device)[:, None].expand(head, places.shape[1])
    return rows[(batch, *at)].reshape((*index.shape[:-1], *x.shape[b + depth :]))


def _put(y: torch.Tensor, at: tuple, values: torch.Tensor, how: str) -> torch.Tensor:
    """`y` with values put at index tuples, or combined with those that stand there."""
    if how in ("none", "add"):
        return y.index_put(at, values, accumulate=how == "add")
    flat = torch.zeros_like(at[0])
    for i, size in zip(at, y.shape):
        flat = flat * size + i
    rows = y.reshape(-1, *y.shape[len(at) :])
    index = flat.reshape(-1, *[1] * (rows.ndim - 1)).expand(-1, *rows.shape[1:])
    name = {"mul": "prod", "max": "amax", "min": "amin"}[how]
    return rows.scatter_reduce(0, index, values.reshape(index.shape), name).reshape(y.shape)


@row("ScatterND")
def scatter_nd(call: Call, x, index, updates):
    at = tuple(_positive(index[..., i], x.shape[i]) for i in range(index.shape[-1]))
    return _put(x, at, updates, call.get("reduction", "none"))


@row("ScatterElements", "Scatter")
def scatter_elements(call: Call, x, index, updates):
    axis, how = call.get("axis", 0), call.get("reduction", "none")
    index = _positive(index, x.shape[axis])
    if how == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[how])


@row("OneHot")
def one_hot(call: Call, index, depth, values):
    n, axis = ints(depth)[0], call.get("axis", -1)
    at = _positive(index, n)
    hot = at.unsqueeze(-1) == torch.arange(n, device=index.device)
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


@row("NonZero")
def non_zero(call: Call, x):
    return torch.nonzero(x.reshape(1) if x.ndim == 0 else x).T


@row("Compress")
def compress(call: Call, x, condition):
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@row("Trilu")
def trilu(call: Call, x, k=None):
    by = ints(k)[0] if k is not None else 0
    return torch.triu(x, by) if call.get("upper", 1) else torch.tril(x, by)


@row("NonMaxSuppression")
def non_max_suppression(call: Call, boxes, scores, most=None, overlap=None, least=None):
    """Indices [n, 3] of batch, class and box; greedy, highest score first. No gradient passes an index."""
    limit = ints(most)[0] if most is not None else 0
    threshold = float(overlap.reshape(-1)[0]) if overlap is not None else 0.0
    corners = boxes.detach()
    if call.get("center_point_box", 0):
        half = corners[..., 2:] / 2
        corners = torch.cat([corners[..., :2] - half, corners[..., :2] + half], -1)
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(corners[..., :2], corners[..., 2:])
    found = []
    for b in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            s = scores[b, c].detach()
            order = s.argsort(descending=True, stable=True)
            if least is not None:
                order = order[s[order] > least.reshape(-1)[0]]
            kept = 0
            while len(order) and kept < limit:
                i, order = order[0], order[1:]
                found.append([b, c, int(i)])
                kept += 1
                size = (torch.minimum(high[b, i], high[b, order]) - torch.maximum(low[b, i], low[b, order])).clamp(0)
                both = size.prod(-1)
                area = (high[b] - low[b]).prod(-1)
                order = order[both <= threshold * (area[i] + area[order] - both)]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)
