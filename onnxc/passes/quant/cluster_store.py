"""Shared weights as a model stores them: packed indices and a codebook behind a Lookup, or plain floats.

w [64, 64, 3, 3]      becomes      uint8 [4608, 5], float [1, 32] -> ai.onnxc.Lookup -> w
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.model import Model, read_only
from ..layers.layout import PLAIN
from ..layers.stored import Layer


def width(values: int) -> int:
    """Bits of an index into so many values, at least 1."""
    return max(1, int(values - 1).bit_length())


def stored_size(layer: Layer, bits: int, codebook: np.ndarray | gs.Constant) -> int:
    """Bytes that the layer takes when shared: indices, shape, and a codebook of its own."""
    own = 0 if isinstance(codebook, gs.Constant) else codebook.nbytes
    return -(-layer.size // 8) * bits + 8 * layer.tensor.values.ndim + own


def by_outputs(layer: Layer) -> bool:
    """Whether runs of outputs can have rows of a codebook: outputs lead the weight, or it is a matrix that turns."""
    return layer.layout.order == PLAIN or layer.tensor.values.ndim == 2


def share(model: Model, layer: Layer, indices: np.ndarray, codebook: np.ndarray | gs.Constant, bits: int) -> None:
    """Put a Lookup in the place of the layer's weight.

    indices: uint8, in the common view [groups, outputs, channels, positions]; codebook: float [rows, values], rows more
    than one only where `by_outputs`, or the initialiser of an earlier layer.
    """
    stem, turned = layer.tensor.name, layer.layout.order != PLAIN
    rows = codebook.values if isinstance(codebook, gs.Constant) else codebook
    if turned and len(rows) == 1:
        indices, turned = layer.layout.store(indices, indices.dtype), False
    elif turned:
        indices = indices.reshape(layer.tensor.values.shape[::-1])
    else:
        indices = indices.reshape(layer.tensor.values.shape)
    made = functions.lookup(model, stem, indices, codebook, bits)
    if turned:
        lookup = made.inputs[0]
        after = next(i for i, n in enumerate(model.nodes) if n is lookup) + 1
        made = model.node(
            "Transpose", [made], name=f"{stem}_turned", attrs={"perm": [1, 0]}, before=model.nodes[after]
        ).outputs[0]  # fmt: skip
    redirect(model, layer, made)


def redirect(model: Model, layer: Layer, made: gs.Variable) -> None:
    """Let all readers of the layer's weight read `made`."""
    model.replace_uses(layer.tensor, made)


def restore(indices: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The weights that the indices mean, in the common view: codebook [rows, values], a row for each run of outputs."""
    flat = indices.reshape(len(codebook), -1)
    return np.take_along_axis(codebook, flat, 1).reshape(indices.shape)


def table(codes: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The rows of a codebook, filled up with each row's last code; read-only [rows, values]."""
    values = max(map(len, codes))
    filled = [np.pad(c, (0, values - len(c)), mode="edge") for c in codes]
    return read_only(np.array(filled).astype(dtype))
