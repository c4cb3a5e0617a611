"""Normalisations: subtract a mean, divide by a deviation, scale and shift."""

from __future__ import annotations

import numpy as np

from onnxc.codegen.operators.node import Node, Refused, dtype_of, is_float, shape_of, within
from onnxc.codegen.operators.table import row


def normalised(n: Node, x, axes: list[int], epsilon: float, root: str = "inside"):
    """(x - mean) / sqrt(var + epsilon) over `axes`, with the mean and 1 / sqrt(var + epsilon)."""
    mean = n.do("mean", x, axes, True)
    centred = n.do("subtract", x, mean)
    variance = n.do("mean", n.do("multiply", centred, centred), axes, True)
    if root == "outside":
        return n.do("divide", centred, n.do("add", n.do("sqrt", variance), n.like(epsilon, x))), mean, None
    deviation = n.do("sqrt", n.do("add", variance, n.like(epsilon, x)))
    return n.do("divide", centred, deviation), mean, n.do("divide", n.like(1, x), deviation)


def affine(n: Node, x, scale, shift, shape: tuple[int, ...]):
    """x scale + shift, both put into `shape`; either may be missing."""
    for name, operand in (("multiply", scale), ("add", shift)):
        if operand is not None:
            x = n.do(name, x, n.reshape(operand, shape))
    return x


@row("BatchNormalization")
def batch_norm(n: Node, x, scale, shift, mean, variance):
    """(x - mean) / sqrt(variance + epsilon) scale + shift for each channel; in training, of the batch's own mean."""
    epsilon, momentum = n.attribute("epsilon", 1e-5), n.attribute("momentum", 0.9)
    n.only("spatial", 1)
    n.attribute("is_test", 1)
    training = n.attribute("training_mode", 0) or (n.opset < 14 and len(n.outputs) > 1 and n.outputs[1])
    shape = (shape_of(scale)[0], *[1] * (len(shape_of(x)) - 2))
    axes = [i for i in range(len(shape_of(x))) if i != 1]
    if training:
        made, own, _ = normalised(n, x, axes, epsilon)
        centred = n.do("subtract", x, own)
        spread = n.reshape(n.do("mean", n.do("multiply", centred, centred), axes, True), shape_of(variance))
        own = n.reshape(own, shape_of(mean))
        running = [_mix(n, old, new, momentum) for old, new in ((mean, own), (variance, spread))]
        return affine(n, made, scale, shift, shape), *running
    known = [np.asarray(values, np.float64) for values in map(n.known, range(1, 5)) if values is not None]
    if len(known) == 4:
        factor = known[0] / np.sqrt(known[3] + epsilon)
        both = [n.weight(array.astype(dtype_of(x))) for array in (factor, known[1] - known[2] * factor)]
        return affine(n, x, both[0], both[1], shape)
    factor = n.do("divide", scale, n.do("sqrt", n.do("add", variance, n.like(epsilon, variance))))
    factor = n.reshape(factor, shape)
    centred = n.do("subtract", x, n.reshape(mean, shape))
    return n.do("add", n.do("multiply", centred, factor), n.reshape(shift, shape))


def _mix(n: Node, old, new, momentum: float):
    kept = n.do("multiply", old, n.like(momentum, old))
    return n.do("add", kept, n.do("multiply", new, n.like(1 - momentum, new)))


@row("LayerNormalization")
def layer_norm(n: Node, x, scale, shift=None):
    """Over all axes from `axis` on together, scale and shift by element; the mean and 1 / deviation are results too."""
    rank = len(shape_of(x))
    axis, epsilon = n.axis("axis", -1, rank), n.attribute("epsilon", 1e-5)
    n.only("stash_type", 1)
    axes = list(range(axis, rank))
    if not any(n.outputs[1:]) and shape_of(scale) == shape_of(x)[axis:] and dtype_of(x) == "float32":
        shift = n.const(0.0, "float32") if shift is None else shift
        if shape_of(shift) != shape_of(scale):
            shift = n.broadcast(shift, shape_of(scale))
        return n.do("nn.layer_norm", x, scale, shift, axes, epsilon)
    made, mean, inverse = normalised(n, x, axes, epsilon)
    for name, operand in (("multiply", scale), ("add", shift)):
        made = made if operand is None else n.do(name, made, operand)
    return made, mean, inverse


@row("RMSNormalization")
def rms_norm(n: Node, x, scale):
    """x / sqrt(mean(x^2) + epsilon) scale, over all axes from `axis` on together."""
    rank = len(shape_of(x))
    axis, epsilon = n.axis("axis", -1, rank), n.attribute("epsilon", 1e-5)
    n.only("stash_type", 1)
    square = n.do("mean", n.do("multiply", x, x), list(range(axis, rank)), True)
    return n.do("multiply", n.do("divide", x, n.do("sqrt", n.do("add", square, n.like(epsilon, x)))), scale)


@row("InstanceNormalization")
def instance_norm(n: Node, x, scale, shift):
    """Over the axes after the channels, for each sample and channel."""
    rank = len(shape_of(x))
    made, _, _ = normalised(n, x, list(range(2, rank)), n.attribute("epsilon", 1e-5))
    return affine(n, made, scale, shift, (shape_of(x)[1], *[1] * (rank - 2)))


@row("GroupNormalization")
def group_norm(n: Node, x, scale, shift):
    """Over each group of channels; scale and shift by group before opset 21, by channel from then on."""
    shape, groups = shape_of(x), int(n.attribute("num_groups"))
    n.attribute("stash_type", 1)
    epsilon = n.attribute("epsilon", 1e-5)
    rank = len(shape)
    split = n.reshape(x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    made, _, _ = normalised(n, split, list(range(2, rank + 1)), epsilon)
    if n.opset < 21:
        return n.reshape(affine(n, made, scale, shift, (groups, *[1] * (rank - 1))), shape)
    return affine(n, n.reshape(made, shape), scale, shift, (shape[1], *[1] * (rank - 2)))


@row("MeanVarianceNormalization")
def mean_variance(n: Node, x):
    """(x - mean) / (deviation + 1e-9) over the axes."""
    axes = [within(axis, len(shape_of(x)), "axes") for axis in n.attribute("axes", [0, 2, 3])]
    return normalised(n, x, axes, 1e-9, "outside")[0]


@row("LpNormalization")
def lp_norm(n: Node, x):
    """x divided by its p-norm along an axis, 0 where that is 0."""
    axis, p = n.axis("axis", -1, len(shape_of(x))), n.attribute("p", 2)
    if p not in (1, 2) or not is_float(x):
        raise Refused(f"attribute p = {p} is not known, only 1 and 2")
    total = n.do("sum", n.do("abs", x) if p == 1 else n.do("multiply", x, x), [axis], True)
    length = total if p == 1 else n.do("sqrt", total)
    safe = n.do("where", n.do("equal", length, n.like(0, x)), n.like(1, x), length)
    return n.do("divide", x, safe)
