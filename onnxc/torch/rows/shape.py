"""Operators that move values without changing them, and those that make shapes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..steps import tensor, torch_type
from ..table import Call, axes_of, ints, row


@row("Constant")
def constant(call: Call):
    a = call.attrs
    for key, make in (
        ("value", lambda v: v),
        ("value_float", np.float32), ("value_floats", lambda v: np.array(v, np.float32)),
        ("value_int", np.int64), ("value_ints", lambda v: np.array(v, np.int64)),
    ):  # fmt: skip
        if key in a:
            return tensor(np.asarray(make(a[key])), call.step.outputs[0])
    raise call.refuse("a constant of this form", found=", ".join(a))


@row("ConstantOfShape")
def constant_of_shape(call: Call, shape):
    value = tensor(np.asarray(call.get("value", np.zeros(1, np.float32))))
    return value.reshape(()).expand(ints(shape)).clone()


@row("Shape")
def shape_of(call: Call, x):
    extents = list(x.shape)[call.get("start", 0) : call.get("end")]
    return torch.tensor(extents, dtype=torch.int64)


@row("Size")
def size(call: Call, x):
    return torch.tensor(x.numel())


@row("Range")
def range_of(call: Call, start, limit, delta):
    n = max(0, int(np.ceil((limit.item() - start.item()) / delta.item())))
    return start.reshape(()) + torch.arange(n, dtype=start.dtype, device=start.device) * delta.reshape(())


@row("EyeLike")
def eye_like(call: Call, x):
    dtype = torch_type(call.get("dtype")) if call.get("dtype") else x.dtype
    k = call.get("k", 0)
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None]
    return (columns - rows == k).to(dtype)


@row("Reshape")
def reshape(call: Call, x, shape=None):
    extents = ints(shape) if shape is not None else list(call.get("shape"))
    if not call.get("allowzero", 0):
        extents = [x.shape[i] if n == 0 else n for i, n in enumerate(extents)]
    return x.reshape(extents)


@row("Flatten")
def flatten(call: Call, x):
    axis = call.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return (
        x.reshape(x.shape[:axis].numel(), -1)
        if x.numel()
        else x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())
    )


@row("Squeeze")
def squeeze(call: Call, x, axes=None):
    over = axes_of(call, axes)
    return x.squeeze() if over is None else x.squeeze(tuple(over)) if over else x


@row("Unsqueeze")
def unsqueeze(call: Call, x, axes=None):
    over = axes_of(call, axes)
    assert over is not None
    rank = x.ndim + len(over)
    for a in sorted(a % rank for a in over):
        x = x.unsqueeze(a)
    return x


@row("Transpose")
def transpose(call: Call, x):
    return x.permute(call.get("perm") or list(range(x.ndim))[::-1])


@row("Concat")
def concat(call: Call, *x):
    return torch.cat(x, call.get("axis", 1 if call.opset < 4 else 0))


@row("Split")
def split(call: Call, x, sizes=None):
    axis = call.get("axis", 0)
    parts = ints(sizes) if sizes is not None else call.get("split")
    if parts is None:
        each = -(-x.shape[axis] // call.outputs)
        parts = [each] * (call.outputs - 1) + [x.shape[axis] - each * (call.outputs - 1)]
    return torch.split(x, list(parts), axis)


@row("Slice")
def slice_of(call: Call, x, starts=None, ends=None, axes=None, strides=None):
    if starts is None:
        starts, ends = call.get("starts"), call.get("ends")
    starts, ends = ints(starts), ints(ends)
    over = ints(axes) if axes is not None else call.get("axes") or list(range(len(starts)))
    for axis, lo, hi, by in zip(over, starts, ends, ints(strides) if strides is not None else [1] * len(starts)):
        places = range(x.shape[axis])[lo:hi:by] if by > 0 or hi >= -x.shape[axis] else range(x.shape[axis])[lo::by]
        if by == 1:
            x = x.narrow(axis, places.start if places else 0, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


@row("Pad")
def pad(call: Call, x, pads=None, value=None, axes=None):
    amounts = ints(pads) if pads is not None else list(call.get("pads"))
    over = [a % x.ndim for a in ints(axes)] if axes is not None else list(range(x.ndim))
    mode = call.get("mode", "constant")
    n = len(over)
    if mode == "constant":
        before, after = [0] * x.ndim, [0] * x.ndim
        for a, lo, hi in zip(over, amounts[:n], amounts[n:]):
            before[a], after[a] = lo, hi
        order = [p for pair in zip(reversed(before), reversed(after)) for p in pair]
        return F.pad(x, order, value=float(value.reshape(-1)[0]) if value is not None else call.get("value", 0.0))
    for a, lo, hi in zip(over, amounts[:n], amounts[n:]):
        size = x.shape[a]
        places = np.arange(-lo, size + hi)
        if mode == "edge":
            places = places.clip(0, size - 1)
        elif mode == "wrap":
            places = places % size
        else:
            period = max(2 * (size - 1), 1)
            places = np.abs((places + size - 1) % period - (size - 1)) if size > 1 else places * 0
        x = x.index_select(a, tensor(places.astype(np.int64)))
    return x


@row("Expand")
def expand(call: Call, x, shape):
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(ints(shape))))


@row("Tile")
def tile(call: Call, x, repeats):
    return x.repeat(ints(repeats)) if x.ndim else x


@row("DepthToSpace")
def depth_to_space(call: Call, x):
    b = call.get("blocksize")
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "CRD":
        return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@row("SpaceToDepth")
def space_to_depth(call: Call, x):
    b = call.get("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b**2, h // b, w // b)
