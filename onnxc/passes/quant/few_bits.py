"""Weights of few values, stored as packed bits and codebooks; and what a code generator sees in them.

    Conv w float [64, 64, 3, 3] of +-1, 147,456 bytes   ->   uint8 [4608, 1] and float [1, 2] -> ai.onnxc.Lookup -> Conv

Lossless: the codebook holds the very floats. A codebook for the tensor, or for each output channel, whichever is smaller.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.model import Model, Tensor
from ..layers.stored import Layer
from .cluster_store import by_outputs, share, stored_size, table, width

LOOK_FIRST = 4096
"""So many weights of a row are looked at before all are: real-valued ones show too many values at once."""


def coded(layer: Layer, bits: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(codebook [rows, values], indices in the common view) of the smallest form with at most 2^bits values in each row,
    or None where there is none that is smaller than the floats."""
    view = layer.view()
    rows = view.shape[0] * view.shape[1]
    best, least = None, layer.tensor.values.nbytes
    for count in (1, rows) if by_outputs(layer) and rows > 1 else (1,):
        found = _codes(view.reshape(count, -1), 1 << bits)
        if found is not None and (size := stored_size(layer, width(found[0].shape[1]), found[0])) < least:
            best, least = (found[0], found[1].reshape(view.shape)), size
    return best


def pack(model: Model, layer: Layer, bits: int) -> str | None:
    """Store the layer's weights packed where `coded` can; says what was done, or None."""
    found = coded(layer, bits)
    if found is None:
        return None
    codebook, indices = found
    each, before = width(codebook.shape[1]), layer.tensor.values.nbytes
    after = stored_size(layer, each, codebook)
    share(model, layer, indices, codebook, each)
    books = f" by {len(codebook)} codebooks" if len(codebook) > 1 else ""
    return f"{layer.size} weights of {codebook.shape[1]} values in {each} bits{books}: {before} -> {after} bytes"


def _codes(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(codebook [rows, values], indices uint8 [rows, n]) of the distinct values of each row, or None: there are more."""
    if any(len(np.unique(row[:LOOK_FIRST])) > most for row in rows[:: max(1, len(rows) // 8)]):
        return None
    distinct = [np.unique(row) for row in rows]
    if max(map(len, distinct)) > most:
        return None
    indices = np.stack([np.searchsorted(d, row) for d, row in zip(distinct, rows, strict=True)]).astype(np.uint8)
    return table(distinct, rows.dtype), indices


def stored_weight(t: Tensor) -> np.ndarray | None:
    """The floats of a weight that is an initialiser or a Lookup of such; None else."""
    if isinstance(t, gs.Constant):
        return t.values
    maker = t.inputs[0] if t.inputs else None
    return functions.weight(maker) if maker is not None and functions.is_lookup(maker) else None


def integers(rows: np.ndarray, most: int = 128) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale [n, 1], integers [n, k]) with rows = scale * integers up to float32 rounding; None where there are none.

    The scale of a row is the largest that fits among its smallest magnitude divided by 1, 2, 3 and 4.
    """
    real = rows.astype(np.float64)
    magnitude = np.abs(real)
    least = np.min(np.where(magnitude > 0, magnitude, np.inf), axis=1, keepdims=True, initial=np.inf)
    least = np.where(np.isfinite(least), least, 1.0)
    scale, whole, left = least, np.zeros_like(real), np.ones(len(real), bool)
    for divisor in (1, 2, 3, 4):
        tried = np.rint(real / (least / divisor))
        near = np.isclose(tried * (least / divisor), real, rtol=1e-6, atol=0).all(1)
        fits = left & near & (np.abs(tried).max(1, initial=0) <= most)
        scale, whole = np.where(fits[:, None], least / divisor, scale), np.where(fits[:, None], tried, whole)
        left &= ~fits
    return None if left.any() else (scale, whole)
