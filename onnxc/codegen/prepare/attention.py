"""Attention of com.microsoft in standard operators: projections, heads, masks, rotary embedding.

Attention(x, w, b)   ->   x w + b, split into heads q, k, v: softmax(q k' scale + mask) v, heads put together
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.prepare.build import Build, rewrites
from onnxc.codegen.prepare.fused import MICROSOFT, added


def to_heads(b: Build, x: str, heads: int) -> str:
    """(batch, length, heads size) as (batch, heads, length, size)."""
    batch, length, width = b.shape(x)
    return b.transpose(b.reshape(x, (batch, length, heads, width // heads)), 0, 2, 1, 3)


def from_heads(b: Build, x: str) -> str:
    """(batch, heads, length, size) as (batch, length, heads size)."""
    batch, heads, length, size = b.shape(x)
    return b.reshape(b.transpose(x, 0, 2, 1, 3), (batch, length, heads * size))


def attend(b: Build, q: str, k: str, v: str, scale: float | None, *masks: str | None) -> str:
    """softmax(q k' scale + masks) v for heads."""
    size = b.shape(q)[-1]
    scores = b("MatMul", b("Mul", q, b.like(scale or size**-0.5, q)), b.transpose(k, 0, 1, 3, 2))
    return b("MatMul", b("Softmax", added(b, scores, *masks), axis=-1 if b.walk.opset >= 11 else 3), v)


def causal(b: Build, length: int, total: int, like: str, fill: float) -> str:
    """(length, total): 0 where a position may look, `fill` behind it."""
    ahead = np.arange(total)[None, :] > np.arange(length)[:, None] + total - length
    return b.like(np.where(ahead, fill, 0.0), like)


def _mask(b: Build, mask: str | None, length: int, total: int, like: str, fill: float) -> str | None:
    """What is added to the scores for a mask that says, by 1 or 0, which positions are seen, or how many."""
    if mask is None:
        return None
    shape = b.shape(mask)
    if len(shape) == 1:  # the end of each sequence, then maybe its start
        ends = b.reshape(mask, (-1, 1))
        batch = shape[0]
        if b.shape(b.needs(0))[0] * 2 == shape[0]:
            batch //= 2
            starts, ends = b.cut(ends, 0, batch, 2 * batch), b.cut(ends, 0, 0, batch)
        at = b.like(np.arange(total)[None, :], mask)
        hidden = b("Not", b("Less", at, ends))
        if batch != shape[0]:
            hidden = b("Or", hidden, b("Less", at, starts))
        shape = (batch, total)
    else:
        hidden = b.equal(mask, 0)
    forms = {2: (shape[0], 1, 1, shape[-1]), 3: (shape[0], 1, *shape[1:]), 4: shape}
    if len(shape) == 4 and shape[2:] != (length, total):
        hidden = b.cut(b.cut(hidden, 2, total - length, total), 3, 0, total)
        forms[4] = (*shape[:2], length, total)
    hidden = b.reshape(hidden, forms[len(shape)])
    return b("Where", hidden, b.like(fill, like), b.like(0, like))


@rewrites("Attention", domain=MICROSOFT)
def _attention(b: Build):
    x, w = (b.needs(i) for i in range(2))
    bias, mask, past, extra, length_of_past = (b.input(i) for i in (2, 3, 4, 5, 6))
    heads, fill = b.attribute("num_heads"), b.attribute("mask_filter_value", -10000.0)
    if b.attribute("do_rotary", 0) or length_of_past is not None or b.attribute("past_present_share_buffer", 0):
        raise b.refusal("attributes do_rotary and past_present_share_buffer are not known")
    length, width = b.shape(x)[1], b.shape(w)[1]
    widths = b.attribute("qkv_hidden_sizes") or [width // 3] * 3
    joined = added(b, b("MatMul", x, w), bias)
    ends = np.cumsum(widths)
    q, k, v = (to_heads(b, b.cut(joined, 2, int(end - own), int(end)), heads) for end, own in zip(ends, widths))
    present = None
    if past is not None:
        old = [b.reshape(b.cut(past, 0, i, i + 1), b.shape(past)[1:]) for i in range(2)]
        k, v = (b("Concat", before, now, axis=2) for before, now in zip(old, (k, v)))
    if b.wants(1):
        present = b("Concat", *(b.reshape(part, (1, *b.shape(part))) for part in (k, v)), axis=0)
    total = b.shape(k)[2]
    masks = [_mask(b, mask, length, total, q, fill), extra]
    if b.attribute("unidirectional", 0):
        masks.append(causal(b, length, total, q, fill))
    y = from_heads(b, attend(b, q, k, v, b.attribute("scale"), *masks))
    return y, present


@rewrites("MultiHeadAttention", domain=MICROSOFT)
def _multi_head(b: Build):
    query = b.needs(0)
    key, value, bias, mask, extra, past_key, past_value = (b.input(i) for i in (1, 2, 3, 4, 5, 6, 7))
    heads, fill = b.attribute("num_heads"), b.attribute("mask_filter_value", -10000.0)
    if b.wants(3) or any(b.input(i) for i in (8, 9)):
        raise b.refusal("past_sequence_length, cache_indirection and the scores as an output are not known")
    parts = _projected(b, query, key, value, heads)
    if bias is not None:
        parts = _biased(b, parts, bias, heads)
    q, k, v = parts
    if past_key is not None:
        k, v = (b("Concat", old, now, axis=2) for old, now in ((past_key, k), (past_value, v)))
    length, total = b.shape(q)[2], b.shape(k)[2]
    masks = [_mask(b, mask, length, total, q, fill), extra]
    if b.attribute("unidirectional", 0):
        masks.append(causal(b, length, total, q, fill))
    return from_heads(b, attend(b, q, k, v, b.attribute("scale"), *masks)), k, v


def _projected(b: Build, query: str, key: str | None, value: str | None, heads: int) -> list[str]:
    """q, k, v as (batch, heads, length, size), of the forms that they may come in."""
    shape = b.shape(query)
    if len(shape) == 5:  # (batch, length, heads, 3, size)
        batch, length, _, _, size = shape
        return [b.transpose(b.reshape(b.cut(query, 3, i, i + 1), (batch, length, heads, size)), 0, 2, 1, 3)
                for i in range(3)]  # fmt: skip
    if key is None:
        raise b.refusal("a query without keys is not known")
    other = b.shape(key)
    if len(other) == 5:  # (batch, length, heads, 2, size)
        batch, length, _, _, size = other
        pair = [b.transpose(b.reshape(b.cut(key, 3, i, i + 1), (batch, length, heads, size)), 0, 2, 1, 3)
                for i in range(2)]  # fmt: skip
        return [to_heads(b, query, heads), *pair]
    if value is None:
        raise b.refusal("keys without values are not known")
    return [x if len(b.shape(x)) == 4 else to_heads(b, x, heads) for x in (query, key, value)]


def _biased(b: Build, parts: list[str], bias: str, heads: int) -> list[str]:
    """The projections with their shares of one bias vector."""
    made, start = [], 0
    for part in parts:
        size = b.shape(part)[-1]
        own = b.reshape(b.cut(bias, 0, start, start + heads * size), (heads, 1, size))
        made.append(b("Add", part, own))
        start += heads * size
    return made


@rewrites("RotaryEmbedding", domain=MICROSOFT)
def _rotary(b: Build):
    x, positions, cos, sin = (b.needs(i) for i in range(4))
    if b.attribute("is_packed_batching", 0) or b.attribute("scale", 1.0) != 1:
        raise b.refusal("attributes is_packed_batching and scale are not known")
    shape = b.shape(x)
    width, half, count = b.attribute("rotary_embedding_dim", 0), b.shape(cos)[-1], b.attribute("num_heads", 0)
    if len(shape) == 3:
        heads = count or shape[-1] // (2 * half)
        split = b.reshape(x, (*shape[:2], heads, shape[2] // heads))
    else:
        split = b.transpose(x, 0, 2, 1, 3)
    batch, length, heads, size = b.shape(split)
    width = width or size
    if b.shape(positions) == (1,):  # where the first one stands
        steps = b.constant(np.arange(length)[None], np.int64)
        positions = b("Add", steps, b.reshape(positions, (1, 1)))
    angles = [b.reshape(b("Gather", table, positions), (-1, length, 1, half)) for table in (cos, sin)]
    turned = b.cut(split, 3, 0, width)
    if b.attribute("interleaved", 0):
        pairs = b.reshape(turned, (batch, length, heads, half, 2))
        left, right = (b.reshape(b.cut(pairs, 4, i, i + 1), (batch, length, heads, half)) for i in (0, 1))
    else:
        left, right = b.cut(turned, 3, 0, half), b.cut(turned, 3, half, 2 * half)
    real = b("Sub", b("Mul", left, angles[0]), b("Mul", right, angles[1]))
    imaginary = b("Add", b("Mul", left, angles[1]), b("Mul", right, angles[0]))
    if b.attribute("interleaved", 0):
        both = [b.reshape(part, (batch, length, heads, half, 1)) for part in (real, imaginary)]
        y = b.reshape(b("Concat", *both, axis=4), (batch, length, heads, width))
    else:
        y = b("Concat", real, imaginary, axis=3)
    if width < size:
        y = b("Concat", y, b.cut(split, 3, width, size), axis=3)
    return b.reshape(y, shape) if len(shape) == 3 else b.transpose(y, 0, 2, 1, 3)
