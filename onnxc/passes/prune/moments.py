"""The second moment of what a layer reads, and the best weights under a mask, given that moment.

A layer computes y = W x for columns x of inputs. With H = E[x x^T] the mean squared change of its outputs, when W
becomes V, is the sum over outputs of (w - v) H (w - v)^T: labels are not needed, and the data only enter through H.
Columns stand as [positions, channels], channels innermost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ..base import Context, Report
from .weights import Layer, explicit_pads

ROWS, ROWS_PER_COLUMN = 16384, 12
"""How many columns x of a convolution are wanted, at least and for each unknown; samples give equally many."""
DAMP = 0.01
"""What is added to the diagonal of a moment, as a share of its mean."""
PART_BYTES = 256 * 2**20
UNKNOWN_SAMPLES = 64
"""How many samples are expected of data that do not say."""
MAX_COLUMNS = 4608
"""Layers with more inputs to each output are refused: their moment alone would take more than 160 MiB."""


@dataclass
class Moment:
    """h: the mean of x x^T, shape [groups, columns, columns], float64. count: how many columns x went in."""

    h: np.ndarray
    count: int = 0


def columns(view: np.ndarray) -> np.ndarray:
    """[groups, outputs, channels, positions] -> [groups, outputs, positions·channels], float64."""
    g, o, c, p = view.shape
    return view.transpose(0, 1, 3, 2).reshape(g, o, p * c).astype(np.float64)


def from_columns(rows: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The inverse of `columns`, in the shape of `view`."""
    g, o, c, p = view.shape
    return rows.reshape(g, o, p, c).transpose(0, 1, 3, 2)


def readable(found: list[Layer], report: Report) -> list[Layer]:
    """The layers whose inputs can be read as columns; the others are refused."""
    kept = []
    for layer in found:
        g, _, c, p = layer.view().shape
        if layer.nodes[0].op == "ConvTranspose":
            reason = "inputs of transposed convolutions are not read"
        elif layer.nodes[0].op != "Conv" and g > 1:
            reason = "inputs of batched matrix products are not read"
        elif c * p > MAX_COLUMNS:
            reason = f"each output has {c * p} inputs, and the second moment is kept for at most {MAX_COLUMNS}"
        else:
            kept.append(layer)
            continue
        report.refuse(layer.name, reason)
    return kept


def parts(found: list[Layer]) -> list[list[Layer]]:
    """The layers in runs whose moments fit into PART_BYTES together; a larger one stands alone."""
    result: list[list[Layer]] = []
    held = PART_BYTES
    for layer in found:
        g, _, c, p = layer.view().shape
        size = 8 * g * (c * p) ** 2
        if held + size > PART_BYTES:
            result.append([])
            held = 0
        result[-1].append(layer)
        held += size
    return result


def moments(model: Model, found: list[Layer], ctx: Context) -> list[Moment]:
    """The second moment of every layer's input on the calibration data; nodes that share a weight add up."""
    names = sorted({node.inputs[1 - layer.i].name for layer in found for node in layer.nodes})
    rng = ctx.rng()
    result = []
    for layer in found:
        g, _, c, p = layer.view().shape
        result.append(Moment(np.zeros((g, c * p, c * p))))
    if not found:
        return result
    for batch in ctx.tensors(model, names):
        for layer, moment in zip(found, result, strict=True):
            for node in layer.nodes:
                x = _read(node, layer, batch[node.inputs[1 - layer.i].name], share(moment, ctx), rng)
                moment.h += x @ x.transpose(0, 2, 1)  # float32 within a batch, float64 across batches
                moment.count += x.shape[2]
    for moment in result:
        moment.h /= max(moment.count, 1)
    return result


def share(moment: Moment, ctx: Context) -> int:
    """How many output positions of each sample are looked at."""
    wanted = max(ROWS, ROWS_PER_COLUMN * moment.h.shape[1])
    return -(-wanted // (getattr(ctx.data, "samples", None) or UNKNOWN_SAMPLES))


def _read(node: gs.Node, layer: Layer, x: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The columns that `node` multiplies with its weight, shape [groups, columns, how many]."""
    x = x.astype(np.float32, copy=False)
    if node.op == "Conv":
        return patches(node, layer, x, most, rng)
    turned = bool(node.op == "Gemm" and node.attrs.get("transA" if layer.i else "transB", 0))
    axis = -2 if turned == (layer.i == 1) and x.ndim > 1 else -1
    return np.moveaxis(x, axis, 0).reshape(1, x.shape[axis], -1)


def patches(node: gs.Node, layer: Layer, x: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """What a convolution sees of x [n, c, *s] at up to `most` outputs: [groups, positions·channels, n·outputs]."""
    kernel, groups = layer.tensor.values.shape[2:], layer.shape[0]
    rank = len(kernel)
    strides, dilations = (node.attrs.get(a) or [1] * rank for a in ("strides", "dilations"))
    pads = explicit_pads(node, x.shape[2:], kernel, strides, dilations)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[d], pads[d + rank]) for d in range(rank))])
    sizes = [
        (n - dilation * (k - 1) - 1) // stride + 1
        for n, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    total = int(np.prod(sizes))
    at = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
    index = []
    for d, where in enumerate(np.unravel_index(at, sizes)):
        taps = where[:, None] * strides[d] + np.arange(kernel[d]) * dilations[d]
        index.append(taps.reshape(len(at), *(kernel[d] if e == d else 1 for e in range(rank))))
    got = x[(slice(None), slice(None), *index)]  # [n, c, outputs, *kernel]
    n, c = x.shape[:2]
    got = got.reshape(n, groups, c // groups, len(at), -1).transpose(1, 4, 2, 0, 3)
    return np.ascontiguousarray(got).reshape(groups, -1, n * len(at))


def damped(h: np.ndarray, damp: float) -> np.ndarray:
    """H plus `damp` times its mean diagonal on the diagonal; inputs that are always zero get one there too."""
    level = np.einsum("gii->gi", h).mean(1)
    return h + np.eye(h.shape[1]) * (damp * np.where(level > 0, level, 1.0))[:, None, None]


def refit(w: np.ndarray, keep: np.ndarray, h: np.ndarray, start: np.ndarray, rounds: int = 100) -> np.ndarray:
    """The weights that change the outputs least: min (w - v) H (w - v)^T over v that is zero off the mask `keep`.

    w, keep, start: [groups, outputs, columns]; h: [groups, columns, columns], positive definite. Conjugate gradients
    with the diagonal as preconditioner, on all outputs at once: a step is one matrix product, and never makes the error
    larger. The exact solution is a linear system for each output; this is what it converges to.
    """
    v = np.where(keep, start, 0.0)
    scale = 1 / np.einsum("gii->gi", h)[:, None, :]
    r = np.where(keep, (w - v) @ h, 0.0)
    z = r * scale
    d = z
    power = (r * z).sum(2, keepdims=True)
    goal = 1e-12 * power
    for _ in range(rounds):
        if (power <= goal).all():
            break
        q = np.where(keep, d @ h, 0.0)
        curve = (d * q).sum(2, keepdims=True)
        step = np.divide(power, curve, out=np.zeros_like(power), where=curve > 0)
        v = v + step * d
        r = r - step * q
        z = r * scale
        new = (r * z).sum(2, keepdims=True)
        d = z + np.divide(new, power, out=np.zeros_like(new), where=power > 0) * d
        power = new
    return v


def adapted(model: Model, ctx: Context, chosen: list[tuple[Layer, np.ndarray]], report: Report) -> list[np.ndarray]:
    """For each (layer, mask of what goes) its weights in the common view, those that stay adapted to what goes.

    The masks broadcast to the common view. Layers whose inputs are not read keep their numbers, and a note says so.
    """
    refused = Report()
    able = {id(layer) for layer in readable([layer for layer, _ in chosen], refused)}
    for r in refused.refusals:
        report.note(f"{r.node} is not adapted: {r.reason}")
    views = {id(layer): np.where(gone, 0, layer.view()) for layer, gone in chosen}
    masks = {id(layer): np.broadcast_to(~gone, layer.view().shape) for layer, gone in chosen}
    for part in parts([layer for layer, _ in chosen if id(layer) in able]):
        for layer, moment in zip(part, moments(model, part, ctx), strict=True):
            w, keep = columns(layer.view()), columns(masks[id(layer)]).astype(bool)
            views[id(layer)] = from_columns(refit(w, keep, damped(moment.h, DAMP), w), layer.view())
    return [views[id(layer)] for layer, _ in chosen]


def error(w: np.ndarray, v: np.ndarray, h: np.ndarray) -> float:
    """The mean squared change of the outputs over their mean square: 0 for v = w, 1 for v = 0."""
    change, whole = w - v, float(((w @ h) * w).sum())
    return float(((change @ h) * change).sum()) / whole if whole > 0 else 0.0
