"""LSTM, GRU and RNN in 8 bits: weights as integers, one scale for each row of each gate; activations of LSTM as they come.

    LSTM(x, W, R, ...)      ->  DynamicQuantizeLSTM(x, W uint8 [d, i, 4h], R uint8 [d, h, 4h], ..., scales [d, 4h])
    GRU, RNN(x, W, R, ...)  ->  the same node; W, R = DequantizeLinear(int8, scales)

DynamicQuantizeLSTM (com.microsoft) quantises input and state as each step meets them: no calibration. Its weights are unsigned, with
a zero point of 128: on processors without VNNI, products of unsigned by signed bytes saturate in pairs. What ONNX Runtime has no
such operator for, and an LSTM with the batch first, keeps its arithmetic in float and is only stored in 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.difference import snr
from ...ir.model import Model
from ..base import Report
from ..layers.layout import RECURRENT

DOMAIN = "com.microsoft"
MIDDLE = 128
"""The zero point of symmetric weights that are stored unsigned."""
BY_AXIS = 13
"""The first opset whose DequantizeLinear has one scale for each row."""
LIKE_STANDARD = (
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "input_forget",
)


def quantise_recurrent(model: Model, wanted: Callable[[gs.Node], bool], dynamic: bool, report: Report) -> None:
    """Store the weights of every recurrent node for which `wanted(node)`; dynamic: an LSTM's activations in 8 bits too."""
    for node in list(model.nodes):
        if not model.is_standard(node, *RECURRENT):
            continue
        why = _refusal(node) if wanted(node) else "left out by ops or skip"
        if why is not None:
            report.refuse(node.name, f"{node.op} stays in float: {why}")
            continue
        plain = set(node.attrs) <= set(LIKE_STANDARD)
        if node.op == "LSTM" and dynamic and plain:
            report.edit(node.name, f"LSTM: {_dynamic(model, node)}, input and state to 8 bits as they come")
        elif model.opset < BY_AXIS:
            report.refuse(node.name, f"{node.op} stays in float: scales by row need opset {BY_AXIS}")
        else:
            how = "" if node.op == "LSTM" and not dynamic else ", arithmetic in float"
            report.edit(node.name, f"{node.op}: {_stored(model, node)}{how}")


def _refusal(node: gs.Node) -> str | None:
    for i, letter in ((1, "W"), (2, "R")):
        t = node.inputs[i]
        if not isinstance(t, gs.Constant):
            return f"{letter} is computed"
        if t.values.dtype != np.float32:
            return f"{letter} is {t.values.dtype.name}, not float32"
        if t.values.size == 0 or not np.isfinite(t.values).all():
            return f"{letter} is empty, or not finite"
    return None


def rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 [d, g·h, k], scale float32 [d, g·h]) of a weight: symmetric, the largest of a row is 127."""
    top = np.abs(values).max(-1)
    scale = np.where(top > 0, top / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(values / scale[..., None]), -127, 127).astype(np.int8), scale


def _said(node: gs.Node, found: list[tuple[np.ndarray, np.ndarray]]) -> str:
    parts = [
        f"{letter} {'x'.join(map(str, q.shape))} {snr(node.inputs[i].values, q * s[..., None])}"
        for (q, s), (i, letter) in zip(found, ((1, "W"), (2, "R")), strict=True)
    ]
    return f"weights to int8 (by row), {', '.join(parts)}"


def _dynamic(model: Model, node: gs.Node) -> str:
    found = [rows(node.inputs[i].values) for i in (1, 2)]
    said = _said(node, found)
    stored: list[gs.Constant] = []
    scales: list[gs.Constant] = []
    for (q, s), i in zip(found, (1, 2), strict=True):
        stem = node.inputs[i].name
        unsigned = (q.astype(np.int16) + MIDDLE).astype(np.uint8)
        stored.append(model.constant(f"{stem}_integers", np.ascontiguousarray(unsigned.transpose(0, 2, 1))))
        scales.append(model.constant(f"{stem}_scale", s))
        scales.append(model.constant(f"{stem}_zero_point", np.full(s.shape, MIDDLE, np.uint8)))
    rest = list(node.inputs[3:8])
    rest += [gs.Variable.empty() for _ in range(5 - len(rest))]
    given = [node.inputs[0], *stored, *rest, *scales]
    node.inputs.clear()
    node.inputs.extend(given)
    node.op, node.domain = "DynamicQuantizeLSTM", DOMAIN
    model.opsets.setdefault(DOMAIN, 1)
    for t in node.outputs:  # ONNX's inference knows no operators of this domain
        if t.name:
            model.declared[t.name] = onnx.helper.make_tensor_value_info(t.name, onnx.TensorProto.FLOAT, None)
    return said


def _stored(model: Model, node: gs.Node) -> str:
    """DequantizeLinear scales along one axis: two directions stand one behind the other, [d·g·h, k], until a Reshape."""
    found = [rows(node.inputs[i].values) for i in (1, 2)]
    said = _said(node, found)
    for (q, s), i in zip(found, (1, 2), strict=True):
        stem = node.inputs[i].name
        both = len(q) > 1
        integers = model.constant(f"{stem}_integers", q.reshape(-1, q.shape[-1]) if both else q)
        scale = model.constant(f"{stem}_scale", s.reshape(-1))
        zero = model.constant(f"{stem}_zero_point", np.zeros(s.size, np.int8))
        parts, attrs = [integers, scale, zero], {"axis": 0 if both else 1}
        floats = model.node("DequantizeLinear", parts, name=f"{stem}_float", attrs=attrs, before=node).outputs[0]
        if not both:
            node.inputs[i] = floats
            continue
        shape = model.constant(f"{stem}_shape", np.array(q.shape, np.int64))
        node.inputs[i] = model.node("Reshape", [floats, shape], name=f"{stem}_rows", before=node).outputs[0]
    return said
