"""Operators said in others that kernels take.

    y = BatchNormalization(x, s, b, m, v)        ->   f = s / sqrt(v + e): y = Add(Mul(x, f), b - m f)
    y = ConvTranspose(x, w), stride = kernel     ->   y = pixels of Conv1x1(x, w') put side by side
    y = DequantizeLinear(QuantizeLinear(x, s, z)) ->   y = Mul(Clip(Round(Div(x, s)), low - z, high - z), s)
    y = Conv(x, w), outer taps read padding alone ->  y = Conv(x, w without them), fewer pads

The second: output pixel (h s + i, w s + j) reads input pixel (h, w) and w[:, :, i, j] alone, so all of them together
are a 1x1 convolution with kh kw output channels for each of the old ones. The third: saturate(round(x / s) + z) - z is
clip(round(x / s), low - z, high - z), and in float32 all of these are exact integers, so no number need become an
integer and back.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.prepare.fold import attribute_of, copy_of, infer

PRODUCTS = ("Conv", "Gemm", "MatMul")
MOVERS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity")


def rewrite(work: onnx.ModelProto, constants: dict[str, np.ndarray], integers: dict | None = None) -> None:
    """Applies the rewrites to a static graph in place; new constants join `constants`.

    Models with products of integers (`integers` names dequantised constants) keep their pairs: kernels take them in.
    """
    wanted = {"BatchNormalization": _batch_norm, "ConvTranspose": _conv_transpose}
    if not integers:
        wanted["Conv"] = _idle_taps
    if any(node.op_type in PRODUCTS and node.input[1] in (integers or {}) for node in work.graph.node):
        _moved_integers(work, constants)
    else:
        _quantised_pairs(work, constants)
    if not any(node.op_type in wanted for node in work.graph.node):
        return
    found = infer(work, constants)
    nodes = []
    for node in work.graph.node:
        rule = wanted.get(node.op_type)
        shape = found.get(node.input[0], (None, 0))[0] if rule else None
        made = rule(node, shape, constants) if rule and shape is not None else None
        nodes.extend([copy_of(node)] if made is None else made)
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
            before is None
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
        if limits is None:
            nodes.append(copy_of(node))
            continue
        stem = maker.output[0]
        if stem not in done:
            done.add(stem)
            for label, value in zip(("low", "high"), limits):
                constants[f"{stem}/{label}"] = np.float32(value).reshape(())
            steps = (
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
    if any(zero is None or zero.size != 1 or zero.dtype.name not in ("int8", "uint8") for zero in zeros):
        return None
    if scales[0] != scales[1] or zeros[0] != zeros[1] or zeros[0].dtype != zeros[1].dtype:
        return None
    limits, zero = np.iinfo(zeros[0].dtype), int(zeros[0].reshape(()))
    return limits.min - zero, limits.max - zero


def _batch_norm(node: onnx.NodeProto, shape: tuple[int, ...], constants: dict) -> list[onnx.NodeProto] | None:
    params = [constants.get(name) for name in node.input[1:5]]
    if any(param is None for param in params) or attribute_of(node, "training_mode", 0):
        return None
    scale, bias, mean, variance = (np.asarray(param, np.float64) for param in params)
    factor = scale / np.sqrt(variance + attribute_of(node, "epsilon", 1e-5))
    view = (-1,) + (1,) * (len(shape) - 2)
    y = node.output[0]
    constants[f"{y}/scale"] = factor.astype(params[0].dtype).reshape(view)
    constants[f"{y}/shift"] = (bias - mean * factor).astype(params[0].dtype).reshape(view)
    return [
        helper.make_node("Mul", [node.input[0], f"{y}/scale"], [f"{y}/scaled"], name=f"{node.name}/scale"),
        helper.make_node("Add", [f"{y}/scaled", f"{y}/shift"], [y], name=node.name),
    ]


def _idle_taps(node: onnx.NodeProto, shape: tuple[int, ...], constants: dict) -> list[onnx.NodeProto] | None:
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
    small = weights[tuple(kept)]
    if small.shape == weights.shape:
        return None
    made = copy_of(node)
    made.input[1] = f"{node.output[0]}/taps"
    constants[made.input[1]] = np.ascontiguousarray(small)
    changed = {"pads": pads, "kernel_shape": list(small.shape[2:])}
    kept_attributes = [a for a in node.attribute if a.name not in changed]
    del made.attribute[:]
    made.attribute.extend([*kept_attributes, *(helper.make_attribute(name, value) for name, value in changed.items())])
    return [made]


def _conv_transpose(node: onnx.NodeProto, shape: tuple[int, ...], constants: dict) -> list[onnx.NodeProto] | None:
    weights = constants.get(node.input[1])
    bias = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weights is None or weights.ndim != 4 or (len(node.input) > 2 and node.input[2] and bias is None):
        return None
    c, oc, kh, kw = weights.shape
    plain = list(attribute_of(node, "strides", [1, 1])) == [kh, kw] and attribute_of(node, "group", 1) == 1
    zero = [*attribute_of(node, "pads", []), *attribute_of(node, "output_padding", [])]
    ones = attribute_of(node, "dilations", [1, 1])
    named = attribute_of(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attribute_of(
        node, "output_shape", None
    )
    if not plain or any(zero) or any(d != 1 for d in ones) or named:
        return None
    n, _, h, w = shape
    y = node.output[0]
    constants[f"{y}/w"] = weights.transpose(1, 2, 3, 0).reshape(oc * kh * kw, c, 1, 1)
    constants[f"{y}/split"] = np.asarray([n, oc, kh, kw, h, w], np.int64)
    constants[f"{y}/joined"] = np.asarray([n, oc, h * kh, w * kw], np.int64)
    inputs = [node.input[0], f"{y}/w"]
    if bias is not None:
        constants[f"{y}/b"] = np.repeat(bias, kh * kw)
        inputs.append(f"{y}/b")
    return [
        helper.make_node("Conv", inputs, [f"{y}/pixels"], name=node.name),
        helper.make_node("Reshape", [f"{y}/pixels", f"{y}/split"], [f"{y}/grid"], name=f"{node.name}/split"),
        helper.make_node("Transpose", [f"{y}/grid"], [f"{y}/rows"], name=f"{node.name}/rows", perm=[0, 1, 4, 2, 5, 3]),
        helper.make_node("Reshape", [f"{y}/rows", f"{y}/joined"], [y], name=f"{node.name}/joined"),
    ]
