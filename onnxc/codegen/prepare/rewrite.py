"""Operators said in others that kernels take.

    y = DequantizeLinear(QuantizeLinear(x, s, z)) ->   y = Mul(Clip(Round(Div(x, s)), low - z, high - z), s)
    y = Conv(x, w), outer taps read padding alone ->  y = Conv(x, w without them), fewer pads

The first: saturate(round(x / s) + z) - z is clip(round(x / s), low - z, high - z), and in float32 all of these are exact
integers, so no number need become an integer and back.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.fold import attribute_of, copy_of, infer
from onnxc.codegen.prepare.views import move_views

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVERS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity")


def rewrite(work: onnx.ModelProto, constants: dict[str, np.ndarray], integers: dict | None = None) -> None:
    """Applies the rewrites to a static graph in place; new constants join `constants`.

    Models with products of integers (`integers` names dequantised constants) keep their pairs: kernels take them in.
    """
    if any(node.op_type in PRODUCTS and node.input[1] in (integers or {}) for node in work.graph.node):
        move_views(work, constants)
        _moved_integers(work, constants)
    else:
        _quantised_pairs(work, constants)
    if integers or not any(node.op_type == "Conv" for node in work.graph.node):
        return
    found = infer(work, constants)
    nodes = []
    for node in work.graph.node:
        shape = found.get(node.input[0], (None, 0))[0] if node.op_type == "Conv" else None
        made = None if shape is None else _idle_taps(node, shape, constants)
        nodes.append(copy_of(node) if made is None else made)
    del work.graph.node[:]
    work.graph.node.extend(nodes)


def _moved_integers(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Q(Mover(D(x))) with one scale and zero point -> Mover(x)."""
    makers = {name: node for node in work.graph.node for name in node.output}
    nodes = []
    for node in work.graph.node:
        mover = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        before = makers.get(mover.input[0]) if mover is not None and mover.op_type in MOVERS else None
        if (
            mover is None
            or before is None
            or before.op_type != "DequantizeLinear"
            or len(mover.output) > 1
            or _limits(node, before, constants) is None
        ):
            nodes.append(copy_of(node))
        else:
            moved = copy_of(mover)
            moved.name, moved.input[0], moved.output[0] = (
                f"{node.name}/{mover.op_type}",
                before.input[0],
                node.output[0],
            )
            nodes.append(moved)
    del work.graph.node[:]
    work.graph.node.extend(nodes)


def _quantised_pairs(work: onnx.ModelProto, constants: dict[str, np.ndarray]) -> None:
    """Pairs with one scale for all: each DequantizeLinear reads float arithmetic; what nothing reads is dead."""
    opset = max((entry.version for entry in work.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    makers = {node.output[0]: node for node in work.graph.node if node.op_type == "QuantizeLinear"}
    if opset < 11 or not makers:
        return
    nodes, done = [], set()
    for node in work.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        limits = _limits(maker, node, constants) if maker is not None else None
        if maker is None or limits is None:
            nodes.append(copy_of(node))
            continue
        stem = maker.output[0]
        if stem not in done:
            done.add(stem)
            for label, value in zip(("low", "high"), limits):
                constants[f"{stem}/{label}"] = np.array(value, np.float32)
            steps: tuple[tuple[str, list[str]], ...] = (
                ("Div", [maker.input[0], maker.input[1]]),
                ("Round", []),
                ("Clip", [f"{stem}/low", f"{stem}/high"]),
            )
            source: list[str] = []
            for op, operands in steps:
                nodes.append(helper.make_node(op, [*source, *operands], [f"{stem}/{op}"], name=f"{maker.name}/{op}"))
                source = [f"{stem}/{op}"]
        nodes.append(helper.make_node("Mul", [f"{stem}/Clip", node.input[1]], list(node.output), name=node.name))
    del work.graph.node[:]
    work.graph.node.extend(nodes)


def _limits(maker: onnx.NodeProto, reader: onnx.NodeProto, constants: dict) -> tuple[float, float] | None:
    """The range of round(x / s), or None where the pair differs, is not of one scale, or is wider than float32 is exact."""
    scales = [constants.get(node.input[1]) for node in (maker, reader)]
    if any(scale is None or scale.size != 1 or scale.dtype != np.float32 or scale.ndim for scale in scales):
        return None
    zeros = [
        constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None for node in (maker, reader)
    ]
    one, two = zeros
    if one is None or two is None or one.size != 1 or two.size != 1 or one.dtype.name not in ("int8", "uint8"):
        return None
    if scales[0] != scales[1] or one != two or one.dtype != two.dtype:
        return None
    limits, zero = np.iinfo(one.dtype), int(one.reshape(()))
    return limits.min - zero, limits.max - zero


def _idle_taps(node: onnx.NodeProto, shape: tuple[int, ...], constants: dict) -> onnx.NodeProto | None:
    """A convolution without the outermost taps that read padding alone: dilated ones, and any on very small images."""
    weights, pads = constants.get(node.input[1]), attribute_of(node, "pads", None)
    if (
        weights is None
        or not pads
        or not any(pads)
        or attribute_of(node, "auto_pad", b"NOTSET") not in (b"", b"NOTSET")
    ):
        return None
    rank = len(shape) - 2
    strides, dilations = (attribute_of(node, name, [1] * rank) for name in ("strides", "dilations"))
    pads, kept = list(pads), [slice(None), slice(None)]
    for d, (n, k, step, gap) in enumerate(zip(shape[2:], weights.shape[2:], strides, dilations, strict=True)):
        before, after = pads[d], pads[rank + d]
        reach = (
            (n + before + after - gap * (k - 1) - 1) // step * step
        )  # from the first output's place to the last one's
        first = next((j for j in range(k) if j * gap - before + reach >= 0), k)
        last = next((j for j in reversed(range(k)) if j * gap - before < n), -1)
        first, last = min(first, before // gap), max(last, k - 1 - after // gap)
        if first > last:
            return None  # nothing but padding is seen
        pads[d], pads[rank + d] = before - first * gap, after - (k - 1 - last) * gap
        kept.append(slice(first, last + 1))
    if all(one in (slice(None), slice(0, extent)) for one, extent in zip(kept, weights.shape, strict=True)):
        return None
    small = weights[tuple(kept)]
    made = copy_of(node)
    made.input[1] = f"{node.output[0]}/taps"
    constants[made.input[1]] = np.ascontiguousarray(small)
    changed = {"pads": pads, "kernel_shape": list(small.shape[2:])}
    kept_attributes = [a for a in node.attribute if a.name not in changed]
    del made.attribute[:]
    made.attribute.extend([*kept_attributes, *(helper.make_attribute(name, value) for name, value in changed.items())])
    return made
