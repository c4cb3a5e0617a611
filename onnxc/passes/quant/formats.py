"""What the passes share that store weights as other numbers: which weights, along which axis, and how they stand in the model.

w float [o, c, *k]      becomes      integers, scales [-> DequantizeLinear], or 16-bit floats [-> Cast] -> product
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, read_only
from ...ir.qtype import stored_bytes
from ...ir.verify import verify
from ..base import Context, Report
from ..layers.stored import Layer, layers
from ..opset import raise_opset
from .tables import note_left


def container(bits: int) -> tuple[np.dtype, int]:
    """The shortest signed integer of ONNX that holds `bits` bits, 2 to 16, and the opset that DequantizeLinear reads it from."""
    for most, dtype, opset in ((2, ml_dtypes.int2, 25), (4, ml_dtypes.int4, 21), (8, np.int8, 13), (16, np.int16, 21)):
        if bits <= most:
            return np.dtype(dtype), opset
    raise ValueError(f"no integer of ONNX has {bits} bits")


def chosen(model: Model, ctx: Context, skip: list[str], opset: int, report: Report) -> list[Layer]:
    """The float32 weights of products, the model raised to `opset` where there are any; the others are refused."""
    found = layers(model, ctx.verified.analysis, skip, report)
    note_left(model, report)
    if found and raise_opset(model, opset, ctx, report):
        found = layers(model, verify(model).analysis, skip, Report())
    kept = []
    for layer in found:
        if layer.tensor.values.dtype == np.float32:
            kept.append(layer)
        else:
            report.refuse(layer.name, f"its weight is {layer.tensor.values.dtype.name}, not float32")
    return kept


def contracted(layer: Layer) -> int:
    """The axis of the weight that the product sums over (of a convolution, the input channels)."""
    node, rank = layer.nodes[0], layer.tensor.values.ndim
    if node.op in ("Conv", "ConvTranspose"):
        return 1 if node.op == "Conv" else 0
    if layer.recurrent:
        return 2
    turned = bool(node.op == "Gemm" and node.attrs.get("transB" if layer.i else "transA", 0))
    return rank - 2 if (layer.i == 1) != turned else rank - 1


def blocked(values: np.ndarray, axis: int, block: int) -> tuple[np.ndarray, int]:
    """(values with `axis` split into [blocks, block], the largest block up to `block` that divides it)."""
    n = values.shape[axis]
    size = next(b for b in range(min(block, n), 0, -1) if n % b == 0)
    return values.reshape(*values.shape[:axis], n // size, size, *values.shape[axis + 1 :]), size


def dequantised(
    model: Model, layer: Layer, integers: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int
) -> int:
    """Put integers behind a DequantizeLinear in the weight's place; returns the bytes that they and their scales take.

    integers: of the weight's shape and of the dtype to store. scale: float32 [], or one for each block along `axis`.
    """
    stem = layer.tensor.name
    parts = [integers, scale.astype(np.float32)] + ([] if zero is None else [zero])
    names = ("integers", "scale", "zero_point")
    inputs = [
        model.constant(f"{stem}_{n}", read_only(np.ascontiguousarray(p))) for n, p in zip(names, parts, strict=False)
    ]
    attrs = {"axis": axis, "block_size": block} if scale.ndim else {}
    _replace(model, layer, "DequantizeLinear", inputs, attrs)
    return sum(stored_bytes(p) for p in parts)


def cast(model: Model, layer: Layer, values: np.ndarray) -> None:
    """Put `values`, of a shorter float type, behind a Cast in the weight's place."""
    stored = model.constant(f"{layer.tensor.name}_{values.dtype.name}", read_only(values))
    _replace(model, layer, "Cast", [stored], {"to": 1})


def _replace(model: Model, layer: Layer, op: str, inputs: list[gs.Constant], attrs: dict) -> None:
    stem, old = layer.tensor.name, layer.tensor
    out = model.node(
        op, inputs, [model.variable(f"{stem}_float")], name=f"{stem}_float", attrs=attrs, before=model.nodes[0]
    )
    model.replace_uses(old, out.outputs[0])
