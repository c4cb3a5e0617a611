"""Integers that need fewer bits than the byte they stand in, packed: the same int8 tensor, made at load.

    int8 w, -7 .. 7   ->   uint8 packed [n / 8, 4] -> ai.onnxc.UnpackBits -> Sub(8) -> Cast -> w

A runtime that folds constants (ONNX Runtime does) is left with the int8 initialiser, and so with its integer kernels.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.model import Model

LEAST = 256
"""Numbers below which a shape and three nodes take more than packing saves."""


def tighten(model: Model, weights: list[gs.Constant]) -> tuple[int, int]:
    """Pack those of the int8 initialisers that fewer bits hold; returns the bytes before and after."""
    before = after = 0
    for t in weights:
        bits = bits_of(t.values)
        if t.values.size < LEAST or bits >= 8:
            continue
        low, name = 1 << (bits - 1), t.name
        packed = functions.pack_bits((t.values.astype(np.int16) + low).astype(np.uint8), bits)
        first = model.nodes[0]
        shape = np.array(t.values.shape, np.int64)
        made = functions.call(model, "UnpackBits", [packed, shape], stem=f"{name}_bits", before=first)
        bottom = model.constant(f"{name}_bottom", np.array(low, np.int32))
        less = model.node("Sub", [made.outputs[0], bottom], name=f"{name}_signed", before=first)
        cast = model.node("Cast", less.outputs, name=f"{name}_int8", attrs={"to": onnx.TensorProto.INT8}, before=first)
        model.replace_uses(t, cast.outputs[0])
        before, after = before + t.values.nbytes, after + packed.nbytes + shape.nbytes + 4
    return before, after


def bits_of(values: np.ndarray) -> int:
    """Bits of the shortest two's complement that holds int8 values, at least 1."""
    if not values.size:
        return 8
    low, high = int(values.min()), int(values.max())
    return max(1, int(max(high, -low - 1)).bit_length() + 1)
