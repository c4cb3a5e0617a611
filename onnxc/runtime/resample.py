"""Data for a model whose inputs have become smaller: images are resampled, everything else passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxc.runtime.batches import Batch
from onnxc.runtime.specs import TensorSpec


class Resampled:
    """A data set whose arrays are brought to the fixed extents of `inputs`, by linear resampling along each axis.

    data: what gives the batches (`onnxc.runtime.data.Data`); its other attributes are passed on.
    """

    def __init__(self, data, inputs: Mapping[str, TensorSpec]):
        self._data = data
        self._inputs = dict(inputs)
        self.name, self.samples = data.name, data.samples
        self.labelled, self.synthetic, self.remarks = data.labelled, data.synthetic, data.remarks
        self.counted: dict[str, int] = data.counted

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input with one sample."""
        first = next(self.batches(1))
        return {name: first[name].shape for name in self._inputs}

    def batches(self, size: int = 32, limit: int | None = None) -> Iterator[Batch]:
        for batch in self._data.batches(size, limit):
            fitted = {k: resample(a, self._inputs[k].shape) if k in self._inputs else a for k, a in batch.items()}
            yield Batch(fitted, batch.samples)


def resample(x: np.ndarray, shape) -> np.ndarray:
    """`x` with the extents of `shape` (None or a name keeps an axis), in its own dtype.

    Each output is a mean of inputs under a triangle as wide as the step between outputs, against aliasing.
    """
    for d, n in enumerate(shape or ()):
        if isinstance(n, int) and n != x.shape[d]:
            y = np.moveaxis(np.tensordot(x, triangles(x.shape[d], n), (d, 1)), -1, d)
            x = (np.rint(y) if x.dtype.kind in "iu" else y).astype(x.dtype)
    return x


def triangles(old: int, new: int) -> np.ndarray:
    """The weights [new, old] of linear resampling with half-pixel centres; rows sum to 1."""
    step = old / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    reach = max(step, 1.0)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(old) - centres[:, None]) / reach)
    return weights / weights.sum(1, keepdims=True)
